"""Files in the format of cell-eval: values per perturbation, statistics, ceiling and score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from statetx.core.writes import whole
from statetx.evaluation.cell_eval.de_columns import Column
from statetx.shared.tables import field

STATISTICS = ("count", "null_count", "mean", "std", "min", "25%", "50%", "75%", "max")


def describe(column: Column) -> dict[str, float | None]:
    """Return the statistics of one column, as ``describe`` of polars returns them.

    Empty values are skipped. A NaN is counted and makes mean and std NaN. Quartiles are the nearest
    element of the ascending values, with NaN last. std divides by n - 1.

    Parameters
    ----------
    column
        Values of the column.

    Returns
    -------
    dict
        One value per name in `STATISTICS`; None: no value.
    """
    present = [value for value in column if value is not None]
    n = len(present)
    out: dict[str, float | None] = {"count": float(n), "null_count": float(len(column) - n)}
    if n == 0:
        return out | dict.fromkeys(STATISTICS[2:])
    values = np.sort(np.array(present, dtype=np.float64))  # NaN sorts last
    known = values[~np.isnan(values)]
    out["mean"] = float(values.mean())
    out["std"] = float(values.std(ddof=1)) if n > 1 else None
    out["min"] = float(known[0]) if len(known) else math.nan
    for name, share in (("25%", 0.25), ("50%", 0.5), ("75%", 0.75)):
        out[name] = float(values[math.floor(share * (n - 1) + 0.5)])
    out["max"] = float(known[-1]) if len(known) else math.nan
    return out


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return field(value)
    return "NaN" if math.isnan(value) else repr(float(value))


def _write(path: Path, header: list[str], rows: list[list[float | str | None]]) -> None:
    table: list[list[float | str | None]] = [[*header], *rows]
    lines = [",".join(map(_cell, row)) + "\n" for row in table]
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as handle:
        handle.writelines(lines)


def write_results(labels: Sequence[str], columns: dict[str, Column], path: Path) -> None:
    """Write ``results.csv``: one row per label, one value per column.

    Parameters
    ----------
    labels
        Perturbations.
    columns
        Name -> values, one per label.
    path
        CSV file.
    """
    rows: list[list[float | str | None]] = [
        [label, *(column[row] for column in columns.values())] for row, label in enumerate(labels)
    ]
    _write(path, ["perturbation", *columns], rows)


def write_aggregate(columns: dict[str, Column], path: Path) -> None:
    """Write ``agg_results.csv``: nine statistics per column.

    Parameters
    ----------
    columns
        Name -> values.
    path
        CSV file.
    """
    described = {name: describe(column) for name, column in columns.items()}
    rows: list[list[float | str | None]] = [
        [statistic, *(described[name][statistic] for name in columns)] for statistic in STATISTICS
    ]
    _write(path, ["statistic", *columns], rows)


def write_ceiling(values: dict[str, float], path: Path) -> None:
    """Write ``agg_ceiling_results.csv``: one value per column.

    Parameters
    ----------
    values
        Name -> value.
    path
        CSV file.
    """
    _write(path, [*values], [[*values.values()]])


def write_score(names: Sequence[str], values: Sequence[float], path: Path) -> None:
    """Write the result of `baseline_score.score_against`: one row per metric.

    Parameters
    ----------
    names, values
        Metrics and their scores.
    path
        CSV file.
    """
    rows: list[list[float | str | None]] = [
        [name, value] for name, value in zip(names, values, strict=True)
    ]
    _write(path, ["metric", "from_baseline"], rows)
