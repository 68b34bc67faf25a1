"""Recognise earlier tables of `evaluate` and `score`, the only files that may be replaced."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet

from statetx.core.writes import check_new
from statetx.evaluation.cell_eval import columns as cell_eval
from statetx.evaluation.cell_eval.baseline_score import WITHOUT_BEST
from statetx.evaluation.scores.columns import IDENTITY

SCORE_FILES = (
    "results.csv",
    "agg_results.csv",
    "scores.csv",
    "real_de.parquet",
    "pred_de.parquet",
)
CEILING_FILES = ("ceiling_results.csv", "agg_ceiling_results.csv")
_FIRST = {
    "results.csv": ["perturbation"],
    "ceiling_results.csv": ["perturbation"],
    "agg_results.csv": ["statistic"],
}


def check_tables(homes: Iterable[Path], names: Iterable[str], replace: bool) -> None:
    """Check that tables can be written into directories.

    Parameters
    ----------
    homes
        The directories.
    names
        File names of the tables in each directory.
    replace
        Whether earlier tables may be replaced.

    Raises
    ------
    ResultsError
        A file exists that must not be replaced.
    """
    files = list(names)
    for home in homes:
        for name in files:
            check_new(home / name, replace, is_table)


def is_table(path: Path) -> bool:
    """Return whether a file has the columns of a table that `evaluate` writes under its name.

    Parameters
    ----------
    path
        The file; its name is one of `SCORE_FILES` or `CEILING_FILES`.
    """
    if path.suffix == ".parquet":
        try:
            return {"target", "feature", "fdr"} <= set(pyarrow.parquet.read_schema(path).names)
        except (OSError, ValueError):
            return False
    header = _header(path)
    if path.name == "scores.csv":
        return header[: len(IDENTITY)] == [*IDENTITY] and header[-1] == "note"
    first = _FIRST.get(path.name, [])
    known = {*first, *cell_eval.PROFILES["full"], *WITHOUT_BEST}
    return bool(header) and header[: len(first)] == first and known >= set(header)


def is_score(path: Path) -> bool:
    """Return whether a file has the columns of a table that `score` writes.

    Parameters
    ----------
    path
        The file.
    """
    return _header(path) == ["metric", "from_baseline"]


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return next(csv.reader(handle), [])
    except (OSError, ValueError, csv.Error):
        return []
