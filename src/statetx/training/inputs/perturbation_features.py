"""Features of perturbations: a table with a label in its first column and numbers in the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from statetx.core.documents import Wanted
from statetx.core.errors import DataError
from statetx.shared.tables import read_table

WANTED = Wanted("the features", DataError, "correct perturbation_features_file of the model")


class Features(NamedTuple):
    """A table of features.

    Attributes
    ----------
    labels
        Labels of perturbations, in the order of the rows.
    columns
        Names of the features.
    values
        float32 [labels, features], finite.
    """

    labels: list[str]
    columns: list[str]
    values: np.ndarray


def read_features(path: str | Path) -> Features:
    """Read a table of features as text or parquet, with `statetx.shared.tables.read_table`.

    The first column contains labels as in the data. For a parquet file that pandas wrote with an
    index of labels, the index is the first column.

    Parameters
    ----------
    path
        The table.

    Raises
    ------
    DataError
        The file does not exist or has no column of features, a label is empty or repeated, or a
        value is not a finite number.
    """
    table = read_table(path, WANTED)
    if table.shape[1] < 2:
        raise DataError(
            f"the table has {table.shape[1]} column and no feature",
            where=path,
            fix="give labels of perturbations in the first column, and features in other columns",
        )
    names = table.iloc[:, 0]
    labels = [str(label) for label in names.where(~names.isna(), "")]  # parquet can have numbers
    empty = [i for i, label in enumerate(labels, start=1) if not label.strip()]
    if empty or not labels:
        raise DataError(
            f"row {empty[0]} has no label" if empty else "the table has no row",
            where=f"{path}: {table.columns[0]}",
            fix="name a perturbation in the first column of each row",
        )
    repeated = sorted(label for label, n in Counter(labels).items() if n > 1)
    if repeated:
        raise DataError(
            f"{len(repeated)} labels are listed more than once, such as {repeated[0]!r}",
            where=f"{path}: {table.columns[0]}",
            fix="keep one row for each label",
        )
    columns = [str(name) for name in table.columns[1:]]
    with np.errstate(over="ignore"):
        values = np.stack(
            [_numbers(table.iloc[:, i + 1], labels, path) for i in range(len(columns))], axis=1
        ).astype(np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0].tolist()
        raise DataError(
            f"{len(bad)} features are not finite numbers; the first is of {labels[row]!r}: "
            f"{table.iloc[row, column + 1]!r}",
            where=f"{path}: {columns[column]}",
            fix="fill in the value, or leave out the row or the column",
        )
    return Features(labels, columns, values)


def _numbers(column: pd.Series, labels: list[str], path: str | Path) -> np.ndarray:
    """Return a column as float64; missing values are NaN, and infinite values stay."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    text = column.astype(str).str.strip().str.lower()
    words = np.isnan(numbers) & ~text.isin(["", "nan", "na", "none", "<na>"]).to_numpy()
    if words.any():
        row = int(words.argmax())
        raise DataError(
            f"the feature of {labels[row]!r} is {column.iloc[row]!r}, which is not a number",
            where=f"{path}: {column.name}",
            fix="remove the column, or write it as numbers with a point as in 0.5: only the first "
            "column may contain text",
        )
    return numbers
