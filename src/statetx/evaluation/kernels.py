"""The compiled loops behind `statetx.evaluation.de`. Own code, after the algorithm stated there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange

Array = np.ndarray[Any, Any]


@njit(inline="always")
def _first_not_below(values: Array, start: int, stop: int, x: float) -> int:
    while start < stop:
        middle = (start + stop) >> 1
        if values[middle] < x:
            start = middle + 1
        else:
            stop = middle
    return start


@njit(inline="always")
def _first_above(values: Array, start: int, stop: int, x: float) -> int:
    while start < stop:
        middle = (start + stop) >> 1
        if values[middle] <= x:
            start = middle + 1
        else:
            stop = middle
    return start


@njit(inline="always")
def _tie(count: float) -> float:
    return count * count * count - count


@njit(parallel=True, cache=True)
def sort_genes(starts: Array, values: Array, ties: Array, negatives: Array) -> None:
    """Sort each gene's non-zero values in place; fill its tie term and its number of negatives.

    Parameters
    ----------
    starts
        int64 [G + 1], where each gene's values begin in `values`.
    values
        float64 [nnz], sorted within genes on return.
    ties
        float64 [G], receives the sum of t^3 - t over the distinct non-zero values.
    negatives
        int64 [G], receives the number of values below zero.
    """
    for gene in prange(len(starts) - 1):
        start, stop = starts[gene], starts[gene + 1]
        values[start:stop] = np.sort(values[start:stop])
        tie = 0.0
        i = start
        while i < stop:
            j = i + 1
            while j < stop and values[j] == values[i]:
                j += 1
            tie += _tie(float(j - i))
            i = j
        ties[gene] = tie
        negatives[gene] = _first_not_below(values, start, stop, 0.0) - start


@njit(parallel=True, cache=True)
def rank_genes(
    control_starts: Array,
    control_values: Array,
    control_ties: Array,
    control_negatives: Array,
    n_control: int,
    target_starts: Array,
    target_values: Array,
    n_target: int,
    statistic: Array,
    pvalue: Array,
) -> None:
    """Fill U of the target and its two-sided asymptotic p for every gene.

    The control is sorted (`sort_genes`); the target is not, and is left as it is. Zeros are stored
    on neither side.
    """
    n = float(n_control + n_target)
    pairs = float(n_control) * float(n_target)
    for gene in prange(len(control_starts) - 1):
        start, stop = control_starts[gene], control_starts[gene + 1]
        own = np.sort(target_values[target_starts[gene] : target_starts[gene + 1]])
        control_zeros = float(n_control - (stop - start))
        target_zeros = float(n_target - len(own))
        u = target_zeros * (control_negatives[gene] + 0.5 * control_zeros)
        tie = control_ties[gene] + _tie(control_zeros + target_zeros)
        seek = start
        i = 0
        while i < len(own):
            value = own[i]
            j = i + 1
            while j < len(own) and own[j] == value:
                j += 1
            count = float(j - i)
            left = _first_not_below(control_values, seek, stop, value)
            seek = _first_above(control_values, left, stop, value)
            equal = float(seek - left)
            below = float(left - start) + (control_zeros if value > 0.0 else 0.0)
            u += count * (below + 0.5 * equal)
            tie += _tie(equal + count) - _tie(equal)
            i = j
        statistic[gene] = u
        variance = pairs / 12.0 * ((n + 1.0) - tie / (n * (n - 1.0)))
        if variance <= 0.0:
            pvalue[gene] = 1.0
        else:
            z = (max(u, pairs - u) - 0.5 * pairs - 0.5) / math.sqrt(variance)
            pvalue[gene] = min(1.0, math.erfc(z / math.sqrt(2.0)))
