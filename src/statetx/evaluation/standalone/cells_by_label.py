"""Cells of one file by label, as log1p values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from statetx.evaluation.standalone.cells_file import CellsFile, Scale, log_normalised, median_total


class ByLabel(Mapping[str, Any]):
    """Cells of each label of one line, read from the file's cells on access.

    Parameters
    ----------
    file
        The file.
    rows
        Label -> its rows.
    target
        Counts per cell after normalisation; None: the cells are log1p values already.
    """

    def __init__(self, file: CellsFile, rows: dict[str, np.ndarray], target: float | None) -> None:
        self._file, self._rows, self._target = file, rows, target

    def __getitem__(self, label: str) -> Any:
        """Return the cells of a label, log1p values [n, G]."""
        cells = self._file.cells.rows(self._rows[label])
        return cells if self._target is None else log_normalised(cells, self._target)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the labels."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self._rows)


def target_of(file: CellsFile, rows: np.ndarray, scale: Scale) -> float | None:
    """Return the counts per cell after normalisation, or None for log1p values.

    Parameters
    ----------
    file
        The file.
    rows
        int64, rows of the cells that are normalised together.
    scale
        Scale of the file.
    """
    if scale == "log1p":
        return None
    return median_total(file.cells.totals[rows], file.cells.is_sparse)


def rows_of(rows: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return label -> its rows, labels sorted.

    Parameters
    ----------
    rows
        int64 [n].
    labels
        [n], label of each row.
    """
    return {
        str(name): rows[places]
        for name, places in sorted(pd.Series(labels).groupby(labels).indices.items())
    }
