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
    return Path("results") / dataset / "pack"


def split_dir(dataset: str, split: str) -> Path:
    """Return the directory of a split, which contains its plan."""
    return Path("results") / dataset / split


def parts_dir(dataset: str) -> Path:
    """Return the directory of the parts from which `statetx pack` resumes."""
    return Path(".state") / "pack" / dataset


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
    return split_dir(dataset, split) / model / f"seed{seed}"


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
