"""Earlier tables of `evaluate` and `score`: only these may be replaced."""

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
        Names of the tables in each.
    replace
        Whether earlier ones may go.

    Raises
    ------
    ResultsError
        A file is there that must stay.
    """
    files = list(names)
    for home in homes:
        for name in files:
            check_new(home / name, replace, is_table)


def is_table(path: Path) -> bool:
    """Tell whether a file of one of these names has the columns of such a table."""
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
    """Tell whether `score` wrote a file."""
    return _header(path) == ["metric", "from_baseline"]


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return next(csv.reader(handle), [])
    except (OSError, ValueError, csv.Error):
        return []
