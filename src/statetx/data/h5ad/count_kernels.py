"""Compiled loops that recover the counts behind log1p values."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_compiled: Any = numba.njit(nogil=True, cache=True)


@_compiled
def recover_counts(
    indptr: np.ndarray, values: np.ndarray, largest: int, out: np.ndarray, scale: np.ndarray
) -> bool:
    """Recover the counts behind log1p values: value = ln(1 + scale * count), one scale per row.

    The smallest value of a row is taken as the count 1, 2 or 3. A row is recovered when every value
    is reproduced to 1e-6 (relative above 1).

    Parameters
    ----------
    indptr
        Row pointers into `values`, [n + 1].
    values
        Positive log1p values, [nnz].
    largest
        Largest count that may be used.
    out
        Counts, int32 [nnz], written here.
    scale
        Factor of each row, float64 [n], written here; 0 for a row without values.

    Returns
    -------
    bool
        Whether every row was recovered. If not, `out` and `scale` are not valid.
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
        recovered = False
        for first in range(1, 4):
            step = np.expm1(smallest) / first
            # The rounding of the smallest value would enter all counts: fit the step to all values.
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
                recovered = True
                break
        if not recovered:
            return False
    return True
