"""Where the stages of the workflow read and write."""

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
"""The packed store of a data set."""
SPLIT = f"{RESULTS}/{{dataset}}/{{split}}"
"""Everything that is made on a split."""
PLAN = f"{SPLIT}/plan.parquet"
GENES = f"{SPLIT}/genes/{{n}}.txt"
"""Genes chosen on the training cells of a split."""
REFERENCE = f"{SPLIT}/reference/{{cell_line}}"
"""What the real cells of a test line say."""
RUN = f"{SPLIT}/{{model}}/seed{{seed}}"
"""Everything of one run."""
MODEL = f"{RUN}/model"
PREDICTIONS = f"{RUN}/predictions/{{checkpoint}}/{{cell_line}}.h5ad"
SCORES = f"{RUN}/scores/{{checkpoint}}/{{cell_line}}"
"""Tables of one line of one run."""
PRUNE = f"{RUN}/prune.json"
EXPERIMENT = f"{RESULTS}/{{dataset}}/{{experiment}}"
VERDICT = f"{EXPERIMENT}/verdict.json"
LEADERBOARD = f"{EXPERIMENT}/leaderboard.csv"
PAGE = f"{RESULTS}/reports/{{experiment}}.html"
SIMULATED = f"{RESULTS}/{{dataset}}/simulate"
"""Simulated source files."""
PARTS = ".state/pack/{dataset}"
"""What `statetx pack` needs to go on after an interruption."""
TRAINING = ".state/train"
"""What trainings need to go on, one directory per run and settings."""
RECORD = ".record.json"
"""What is added to the name of a file for its record."""


def made(pattern: str, **names: object) -> Path:
    """Return the path of a pattern: ``made(PLAN, dataset="d", split="s")``."""
    return Path(pattern.format(**names))


def pack_dir(dataset: str) -> Path:
    """Return the directory of the packed store of a data set."""
    return made(PACK, dataset=dataset)


def split_dir(dataset: str, split: str) -> Path:
    """Return the directory of a split."""
    return made(SPLIT, dataset=dataset, split=split)


def plan_file(dataset: str, split: str) -> Path:
    """Return the plan of a split."""
    return made(PLAN, dataset=dataset, split=split)


def parts_dir(dataset: str) -> Path:
    """Return where `pack` keeps what it needs to go on after an interruption."""
    return made(PARTS, dataset=dataset)


def genes_file(cfg: Config, dataset: str, split: str) -> Path | None:
    """Return the file of genes chosen on a split; None: models on it work in all genes."""
    n = cfg.n_hvg(split)
    return None if n is None else made(GENES, dataset=dataset, split=split, n=n)


def run_dir(dataset: str, split: str, model: str, seed: int) -> Path:
    """Return the directory of one run."""
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
    """Where a run keeps what it needs to resume, keyed by all that training depends on.

    Without the key, a run whose learning rate changed would resume the old model and train zero
    steps.
    """
    name = f"{state_prefix(dataset, split, model, seed)}{digests.digest(made_from)}"
    return Path(TRAINING) / name


def state_prefix(dataset: str, split: str, model: str, seed: int) -> str:
    """Return how the names of all states of a run begin; no name holds a comma."""
    return f"{dataset},{split},{model},seed{seed}-"


def check_writable(*places: str) -> None:
    """Check that runs can write into directories of the working directory.

    Raises
    ------
    ResultsError
        One of them, or where it is to be made, cannot be written to.
    """
    for place in map(Path, places):
        here = next(path for path in (place, *place.absolute().parents) if path.exists())
        if not here.is_dir() or not os.access(here, os.W_OK | os.X_OK):
            raise ResultsError(
                f"cannot write into {str(place)!r}",
                where=here.absolute(),
                fix="make it a directory you may write to, or run in another directory",
            )


def raw_line(encoded: str) -> str:
    """The cell line behind its name in paths."""
    return unquote(encoded)
