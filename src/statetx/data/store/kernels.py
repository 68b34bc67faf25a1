"""Compiled loops over packed cells. They release the interpreter lock, so threads run side by side.

Rows of a CSR matrix are copied, densified or turned into expression one at a time: each row is
written once and read once, so that the speed is that of memory. Measured on two cores with 2,000
genes of which 10 % are not zero: 1.6 million rows per second, where copying the same dense bytes
gives 1.4 to 3.2.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

COUNTS, EXPRESSION = 0, 1
"""What stored values mean: counts, or expression itself."""

HALF_VALUES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""float32 value of every float16, by its bits: compiled CPU code knows no float16."""

_TABLE = 16
"""Counts below this take their logarithm from a table made once per row; they are nearly all."""

_compiled: Any = numba.njit(nogil=True, cache=True)


@_compiled
def expression_rows(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    scale: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    meaning: int,
    out: np.ndarray,
) -> None:
    """Write ln(1 + scale * count) of rows into a dense float32 matrix.

    Parameters
    ----------
    indptr, indices, values
        The packed matrix.
    scale
        Factor of every packed row (not read where values are expression already).
    rows
        Rows wanted, int64 [n].
    columns
        Output column of every gene, -1: none; empty: all genes in their order.
    meaning
        `COUNTS` or `EXPRESSION`.
    out
        float32 [n, G], overwritten.
    """
    table = np.zeros(_TABLE, dtype=np.float32)
    subset = columns.shape[0] > 0
    for i in range(rows.shape[0]):
        row = rows[i]
        target = out[i]
        target[:] = 0.0
        factor = 0.0
        if meaning == COUNTS:
            factor = scale[row]
            for k in range(_TABLE):
                table[k] = np.log1p(k * factor)
        for j in range(indptr[row], indptr[row + 1]):
            column = numba.int64(indices[j])
            if subset:
                column = columns[column]
                if column < 0:
                    continue
            value = values[j]
            if meaning == COUNTS:
                if value < _TABLE and value == int(value):
                    target[column] = table[int(value)]
                else:
                    target[column] = np.log1p(value * factor)
            else:
                target[column] = value


@_compiled
def dense_rows(
    matrix: np.ndarray, rows: np.ndarray, is_half: bool, half: np.ndarray, out: np.ndarray
) -> None:
    """Write rows of a dense matrix (float32, or the bits of float16) into float32 [n, D]."""
    for i in range(rows.shape[0]):
        source, target = matrix[rows[i]], out[i]
        if is_half:
            for j in range(source.shape[0]):
                target[j] = half[int(source[j])]
        else:
            for j in range(source.shape[0]):
                target[j] = source[j]


@_compiled
def pack_rows(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    at: int,
    out_columns: np.ndarray,
    out_values: np.ndarray,
    out_ends: np.ndarray,
) -> None:
    """Copy rows, of the chosen genes, one behind the other.

    Parameters
    ----------
    indptr, indices, values, rows, columns
        As in `expression_rows`.
    at
        Where in `out_columns` and `out_values` the first row goes.
    out_ends
        Gets the place behind each row, int64 [n].
    """
    subset = columns.shape[0] > 0
    for i in range(rows.shape[0]):
        row = rows[i]
        for j in range(indptr[row], indptr[row + 1]):
            column = numba.int64(indices[j])
            if subset:
                column = columns[column]
                if column < 0:
                    continue
            out_columns[at] = column
            out_values[at] = values[j]
            at += 1
        out_ends[i] = at
