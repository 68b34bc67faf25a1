"""Compiled loops of packing. Apart from those of reading: a better reader must not pack again."""

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
    """Copy stored values of rows to other places.

    Parameters
    ----------
    starts, lengths
        Where each row lies in `indices` and `values`, [n].
    at
        Where it goes in `out_indices` and `out_values`, [n].
    """
    for i in range(starts.shape[0]):
        source, target = starts[i], at[i]
        for j in range(lengths[i]):
            out_indices[target + j] = indices[source + j]
            out_values[target + j] = values[source + j]


@_compiled
def hash_rows(rows: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash (FNV-1a) of each row of bytes, uint8 [n, width]."""
    out = np.empty(rows.shape[0], dtype=np.uint64)
    for i in range(rows.shape[0]):
        found = np.uint64(14695981039346656037)
        for j in range(rows.shape[1]):
            found = (found ^ np.uint64(rows[i, j])) * np.uint64(1099511628211)
        out[i] = found
    return out
