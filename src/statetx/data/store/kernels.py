"""Compiled loops over packed cells. They release the interpreter lock, so threads run in parallel.

Each row of a CSR matrix is read once and written once, so memory limits the speed. Measured on two
cores with 2,000 genes, 10 % of them not zero: 1.6 million rows per second. Copying the same dense
bytes gives 1.4 to 3.2 million.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

COUNTS, EXPRESSION = 0, 1
"""Meaning of stored values: counts, or expression."""

HALF_VALUES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""float32 value of every float16, indexed by its bits: numba has no float16 on a CPU."""

_TABLE = 16
"""Counts below this, nearly all, take their logarithm from a table that is made once per row."""

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
    """Write the expression of rows into a dense matrix: ln(1 + scale * count), or the values.

    Parameters
    ----------
    indptr
        Row pointers of the packed matrix, int64 [cells + 1].
    indices, values
        Column and value of each stored value, [nnz].
    scale
        Factor of each packed row, float64 [cells]; not read if values are expression.
    rows
        Rows to write, int64 [n].
    columns
        Output column of each packed gene, or -1 to leave it out, int64 [genes]; empty: all genes in
        their order.
    meaning
        `COUNTS` or `EXPRESSION`.
    out
        Expression, float32 [n, G], overwritten.
    """
    table = np.zeros(_TABLE, dtype=np.float32)  # [_TABLE], expression by count
    subset = columns.shape[0] > 0
    for i in range(rows.shape[0]):
        row = rows[i]
        target = out[i]  # [G]
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
    """Write rows of a dense matrix as float32.

    Parameters
    ----------
    matrix
        float32, or the bits of float16 as uint16, [cells, D].
    rows
        Rows to write, int64 [n].
    is_half
        Whether `matrix` holds the bits of float16.
    half
        `HALF_VALUES`, float32 [65536].
    out
        float32 [n, D], overwritten.
    """
    for i in range(rows.shape[0]):
        source, target = matrix[rows[i]], out[i]  # [D]
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
    """Copy the stored values of rows, with the chosen genes, into contiguous arrays.

    Parameters
    ----------
    indptr, indices, values, rows, columns
        As in `expression_rows`.
    at
        Position of the first row in `out_columns` and `out_values`.
    out_columns, out_values
        Column and value of each copied value, written here, [at + nnz of the rows, or longer].
    out_ends
        Position after the last value of each row, int64 [n], written here.
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
