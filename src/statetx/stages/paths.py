"""Where the stages of the workflow read and write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from statetx.config import Config
from statetx.core import digests
from statetx.core.errors import ResultsError


def pack_dir(dataset: str) -> Path:
    """The packed store of a data set."""
    return Path("results") / dataset / "pack"


def split_dir(dataset: str, split: str) -> Path:
    """The plan of a split."""
    return Path("results") / dataset / split


def parts_dir(dataset: str) -> Path:
    """Where `pack` keeps what it needs to go on after an interruption."""
    return Path(".state") / "pack" / dataset


def genes_file(cfg: Config, dataset: str, split: str) -> Path | None:
    """Genes chosen on a split; None: models on it work in all genes."""
    n = cfg.n_hvg(split)
    return None if n is None else split_dir(dataset, split) / "genes" / f"{n}.txt"


def run_dir(dataset: str, split: str, model: str, seed: int) -> Path:
    """Everything of one run."""
    return split_dir(dataset, split) / model / f"seed{seed}"


def state_dir(dataset: str, split: str, model: str, seed: int, made_from: Any) -> Path:
    """Where a run keeps what it needs to resume, keyed by all that training depends on.

    Without the key, a run whose learning rate changed would resume the old model and train zero
    steps.
    """
    name = f"{state_prefix(dataset, split, model, seed)}{digests.digest(made_from)}"
    return Path(".state") / "train" / name


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
