"""Compiled loops over log1p values: the counts behind them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_compiled: Any = numba.njit(nogil=True, cache=True)


@_compiled
def recover_counts(
    indptr: np.ndarray, values: np.ndarray, largest: int, out: np.ndarray, scale: np.ndarray
) -> bool:
    """Find whole numbers behind log1p values: value = ln(1 + scale * count), one scale per row.

    The smallest value of a row stands for the count 1, 2 or 3. A row counts as recovered when every
    value comes back to 1e-6 (relative above 1).

    Parameters
    ----------
    indptr, values
        Rows of positive log1p values.
    largest
        Largest count that may be used.
    out
        Counts, int32 like `values`.
    scale
        Factor of every row, float64 [n]; 0 for a row without values.

    Returns
    -------
    bool
        Whether every row was recovered; `out` and `scale` mean nothing otherwise.
    """
    for row in range(indptr.shape[0] - 1):
        start, stop = indptr[row], indptr[row + 1]
        scale[row] = 0.0
        if start == stop:
            continue
        smallest = np.inf
        for j in range(start, stop):
            smallest = min(smallest, np.float64(values[j]))
        if smallest <= 0.0:
            return False
        found = False
        for first in range(1, 4):
            step = np.expm1(smallest) / first
            # The smallest value carries its rounding into every count: fit the step to all.
            top, bottom = 0.0, 0.0
            fits = True
            for j in range(start, stop):
                exact = np.expm1(np.float64(values[j]))
                count = np.rint(exact / step)
                if count < 1.0 or count > largest:
                    fits = False
                    break
                out[j] = np.int32(count)
                top += exact / count
                bottom += 1.0
            if not fits:
                continue
            step = top / bottom
            for j in range(start, stop):
                value = np.float64(values[j])
                if abs(np.log1p(out[j] * step) - value) > 1e-6 * max(1.0, value):
                    fits = False
                    break
            if fits:
                scale[row] = step
                found = True
                break
        if not found:
            return False
    return True
