"""Paths that the stages of the workflow read and write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from statetx.config import Config
from statetx.config.root import Run
from statetx.core import digests
from statetx.core.errors import ResultsError
from statetx.data.store.layout import file_name

RESULTS = "results"
PACK = f"{RESULTS}/{{dataset}}/pack"
"""Directory of the packed store of a data set."""
SPLIT = f"{RESULTS}/{{dataset}}/{{split}}"
"""Directory of a split."""
PLAN = f"{SPLIT}/plan.parquet"
GENES = f"{SPLIT}/genes/{{n}}.txt"
"""File of genes selected on the training cells of a split."""
REFERENCE = f"{SPLIT}/reference/{{cell_line}}"
"""Directory of the reference of a test line."""
RUN = f"{SPLIT}/{{model}}/seed{{seed}}"
"""Directory of a run."""
MODEL = f"{RUN}/model"
PREDICTIONS = f"{RUN}/predictions/{{checkpoint}}/{{cell_line}}.h5ad"
SCORES = f"{RUN}/scores/{{checkpoint}}/{{cell_line}}"
"""Directory with the scores of one line of one run."""
PRUNE = f"{RUN}/prune.json"
EXPERIMENT = f"{RESULTS}/{{dataset}}/{{experiment}}"
VERDICT = f"{EXPERIMENT}/verdict.json"
LEADERBOARD = f"{EXPERIMENT}/leaderboard.csv"
PAGE = f"{RESULTS}/reports/{{experiment}}.html"
SIMULATED = f"{RESULTS}/{{dataset}}/simulate"
"""Directory of simulated source files."""
PARTS = ".state/pack/{dataset}"
"""Directory of the parts from which `statetx pack` resumes."""
TRAINING = ".state/train"
"""Directory of the states from which trainings resume, one directory per run and settings."""
RECORD = ".record.json"
"""Suffix of the record of a file."""


def made(pattern: str, **names: object) -> Path:
    """Return the path of a pattern, such as ``made(PLAN, dataset="d", split="s")``.

    Parameters
    ----------
    pattern
        Path with names in braces.
    **names
        Value of each name in braces.
    """
    return Path(pattern.format(**names))


def pack_dir(dataset: str) -> Path:
    """Return the directory of the packed store of a data set."""
    return made(PACK, dataset=dataset)


def split_dir(dataset: str, split: str) -> Path:
    """Return the directory of a split, which contains its plan."""
    return made(SPLIT, dataset=dataset, split=split)


def plan_file(dataset: str, split: str) -> Path:
    """Return the plan of a split."""
    return made(PLAN, dataset=dataset, split=split)


def parts_dir(dataset: str) -> Path:
    """Return the directory of the parts from which `statetx pack` resumes."""
    return made(PARTS, dataset=dataset)


def genes_file(cfg: Config, dataset: str, split: str) -> Path | None:
    """Return the file of genes selected on a split; None if its models use all genes.

    Raises
    ------
    ValueError
        Two models on the split have different settings of genes.
    """
    n = cfg.n_hvg(split)
    return None if n is None else made(GENES, dataset=dataset, split=split, n=n)


def run_dir(dataset: str, split: str, model: str, seed: int) -> Path:
    """Return the directory of a run, with its model, checkpoints, predictions and scores."""
    return made(RUN, dataset=dataset, split=split, model=model, seed=seed)


def model_dir(dataset: str, split: str, model: str, seed: int) -> Path:
    """Return the model directory of one run."""
    return made(MODEL, dataset=dataset, split=split, model=model, seed=seed)


def scores_dir(run: Run, checkpoint: str, line: str) -> Path:
    """Return the directory with the scores of one line of one run."""
    names = {**run._asdict(), "checkpoint": checkpoint, "cell_line": file_name(line)}
    return made(SCORES, **names)


def predictions_file(run: Run, checkpoint: str, line: str) -> Path:
    """Return the predicted cells of one line of one run."""
    names = {**run._asdict(), "checkpoint": checkpoint, "cell_line": file_name(line)}
    return made(PREDICTIONS, **names)


def reference_dir(dataset: str, split: str, line: str) -> Path:
    """Return the directory with the reference of one test line."""
    return made(REFERENCE, dataset=dataset, split=split, cell_line=file_name(line))


def verdict_file(dataset: str, experiment: str) -> Path:
    """Return the verdict of an experiment."""
    return made(VERDICT, dataset=dataset, experiment=experiment)


def page_file(experiment: str) -> Path:
    """Return the page of an experiment."""
    return made(PAGE, experiment=experiment)


def state_dir(dataset: str, split: str, model: str, seed: int, made_from: Any) -> Path:
    """Return the directory of the state from which a run resumes.

    Its name contains a digest of everything that training depends on. Without the digest, a run
    with a new learning rate would resume the old model and train zero steps.

    Parameters
    ----------
    dataset, split, model, seed
        The run.
    made_from
        Result of `parameters.train_made_from`.
    """
    name = f"{state_prefix(dataset, split, model, seed)}{digests.digest(made_from)}"
    return Path(TRAINING) / name


def state_prefix(dataset: str, split: str, model: str, seed: int) -> str:
    """Return the prefix that the names of all states of a run share.

    The parts are joined by commas, which names in a configuration cannot contain.
    """
    return f"{dataset},{split},{model},seed{seed}-"


def check_writable(*places: str) -> None:
    """Check that directories in the working directory can be written to or created.

    Parameters
    ----------
    *places
        The directories.

    Raises
    ------
    ResultsError
        A directory, or the directory in which it would be created, is not writable.
    """
    for place in map(Path, places):
        existing = next(path for path in (place, *place.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ResultsError(
                f"cannot write into {str(place)!r}",
                where=existing.absolute(),
                fix="make it a writable directory, or run in another directory",
            )


def raw_line(encoded: str) -> str:
    """Return the name of a cell line from its percent-encoded form in paths."""
    return unquote(encoded)
