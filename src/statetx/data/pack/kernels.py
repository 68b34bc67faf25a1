"""Compiled loops of packing.

Those of reading are in `statetx.data.store.kernels`, so that a change of the reader repacks
nothing.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_compiled: Any = numba.njit(nogil=True, cache=True)


@_compiled
def take_rows(
    starts: np.ndarray,
    lengths: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    at: np.ndarray,
    out_indices: np.ndarray,
    out_values: np.ndarray,
) -> None:
    """Copy the stored values of n rows of a CSR matrix into other arrays.

    Parameters
    ----------
    starts
        Position of the first value of each row in `indices` and `values`, int64 [n].
    lengths
        Stored values of each row, int64 [n].
    indices, values
        Column and value of each stored value of the source, [nnz].
    at
        Position of the first value of each row in `out_indices` and `out_values`, int64 [n].
    out_indices, out_values
        Columns and values of the target, written here, [nnz of the target].
    """
    for i in range(starts.shape[0]):
        source, target = starts[i], at[i]
        for j in range(lengths[i]):
            out_indices[target + j] = indices[source + j]
            out_values[target + j] = values[source + j]


@_compiled
def hash_rows(rows: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash (FNV-1a) of each row, uint64 [n].

    Parameters
    ----------
    rows
        Bytes of each row, uint8 [n, width].
    """
    out = np.empty(rows.shape[0], dtype=np.uint64)  # [n]
    for i in range(rows.shape[0]):
        value = np.uint64(14695981039346656037)
        for j in range(rows.shape[1]):
            value = (value ^ np.uint64(rows[i, j])) * np.uint64(1099511628211)
        out[i] = value
    return out
