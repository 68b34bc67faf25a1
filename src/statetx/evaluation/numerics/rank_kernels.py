"""The compiled loops behind `statetx.evaluation.scores.differential_expression`. Own code, after the algorithm stated there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numba import njit, prange

Array = np.ndarray[Any, Any]

SMALL = 1 << 18
"""Values below which one thread is faster: waking a second one costs as much as 0.1 M of them, and
20 ms when the machine is busy."""


@contextlib.contextmanager
def threads_for(n_values: int) -> Iterator[None]:
    """Run the compiled loops inside on one thread when there is little to do."""
    before = numba.get_num_threads()
    numba.set_num_threads(1 if n_values < SMALL else before)
    try:
        yield
    finally:
        numba.set_num_threads(before)


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


@njit(nogil=True, cache=True)
def fill_rows(cells: Array, genes: Array, data: Array) -> None:
    """Write the non-zero values of dense cells [n, G] row by row; `genes` and `data` have one place more.

    Without a branch on the values, whose wrong guesses would take four times as long.
    """
    at = 0
    for i in range(len(cells)):
        for gene in range(cells.shape[1]):
            value = cells[i, gene]
            genes[at] = gene
            data[at] = value
            at += value != 0


@njit(nogil=True, cache=True)
def gather_genes(
    pointers: Array, genes: Array, data: Array, starts: Array, values: Array, sums: Array
) -> None:
    """Put the non-zero values of CSR cells gene by gene.

    Parameters
    ----------
    pointers, genes, data
        CSR, no place twice; zeros may be stored.
    starts
        int64 [G + 1], zeros; receives where each gene's values begin.
    values
        [nnz], receives the values, in the order of the cells within a gene.
    sums
        float64 [G], zeros; receives the sum of each gene.
    """
    for k in range(pointers[0], pointers[-1]):
        if data[k] != 0:
            starts[genes[k] + 1] += 1
    for gene in range(len(sums)):
        starts[gene + 1] += starts[gene]
    place = starts[:-1].copy()
    for k in range(pointers[0], pointers[-1]):
        if data[k] != 0:
            gene = genes[k]
            values[place[gene]] = data[k]
            place[gene] += 1
            sums[gene] += data[k]


@njit(parallel=True, cache=True)
def tie_terms(starts: Array, values: Array, ties: Array, negatives: Array) -> None:
    """Fill each gene's tie term and its number of negatives.

    Parameters
    ----------
    starts
        int64 [G + 1], where each gene's values begin in `values`.
    values
        [nnz], not zero, sorted within genes.
    ties
        float64 [G], receives the sum of t^3 - t over the distinct non-zero values.
    negatives
        int64 [G], receives the number of values below zero.
    """
    for gene in prange(len(starts) - 1):
        start, stop = starts[gene], starts[gene + 1]
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


_WALK = 8
"""Up to so many control values per target value it is faster to walk along them than to search."""


@njit(inline="always")
def _merge(values: Array, start: int, stop: int, own: Array, lefts: Array) -> None:
    """Fill the first place in values[start:stop] that is not below each of own, both sorted.

    Without branches on the values, where a wrong guess costs as much as six steps; the lower half of
    own upwards and the upper half downwards at once, for each step waits for the one before.
    """
    half = len(own) // 2
    i, j, up, down = start, 0, stop, len(own) - 1
    while i < stop and j < half and up > start and down >= half:
        is_below = values[i] < own[j]
        lefts[j] = i
        i += is_below
        j += not is_below
        is_above = values[up - 1] >= own[down]
        lefts[down] = up
        up -= is_above
        down -= not is_above
    while i < stop and j < half:
        is_below = values[i] < own[j]
        lefts[j] = i
        i += is_below
        j += not is_below
    while j < half:
        lefts[j] = stop
        j += 1
    while up > start and down >= half:
        is_above = values[up - 1] >= own[down]
        lefts[down] = up
        up -= is_above
        down -= not is_above
    while down >= half:
        lefts[down] = start
        down -= 1


@njit(inline="always")
def _two_sided(u: float, tie: float, n: float, pairs: float) -> float:
    variance = pairs / 12.0 * ((n + 1.0) - tie / (n * (n - 1.0)))
    if variance <= 0.0:
        return 1.0
    z = (max(u, pairs - u) - 0.5 * pairs - 0.5) / math.sqrt(variance)
    return min(1.0, math.erfc(z / math.sqrt(2.0)))


@njit(cache=True)
def p_values(statistic: Array, ties: Array, n_control: int, n_target: int, pvalue: Array) -> None:
    """Fill the two-sided asymptotic p of every gene from U and its tie term, float64 [G]."""
    n, pairs = float(n_control + n_target), float(n_control) * float(n_target)
    for gene in range(len(statistic)):
        pvalue[gene] = _two_sided(statistic[gene], ties[gene], n, pairs)


@njit(nogil=True)
def _rank_gene(
    gene: int,
    statistic: Array,
    pvalue: Array,
    control_starts: Array,
    control_values: Array,
    control_ties: Array,
    control_negatives: Array,
    n_control: int,
    target_starts: Array,
    target_values: Array,
    n_target: int,
) -> None:
    """Fill U of the target and its two-sided asymptotic p for one gene."""
    start, stop = control_starts[gene], control_starts[gene + 1]
    own = target_values[target_starts[gene] : target_starts[gene + 1]]
    walk = stop - start <= _WALK * len(own)
    lefts = np.empty(len(own) if walk else 0, dtype=np.int64)
    if walk:
        _merge(control_values, start, stop, own, lefts)
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
        if walk:
            left = seek = lefts[i]
            while seek < stop and control_values[seek] == value:
                seek += 1
        else:
            left = seek = _first_not_below(control_values, seek, stop, value)
            if left < stop and control_values[left] == value:
                seek = _first_above(control_values, left, stop, value)
        equal = float(seek - left)
        below = float(left - start) + (control_zeros if value > 0.0 else 0.0)
        u += count * (below + 0.5 * equal)
        tie += _tie(equal + count) - _tie(equal)
        i = j
    statistic[gene] = u
    n, pairs = float(n_control + n_target), float(n_control) * float(n_target)
    pvalue[gene] = _two_sided(u, tie, n, pairs)


@njit(parallel=True, nogil=True, cache=True)
def rank_genes(statistic: Array, pvalue: Array, *sides: Any) -> None:
    """Fill U of the target and its two-sided asymptotic p for every gene.

    Both sides are sorted within genes and of one type. Zeros are stored on neither side.
    """
    for gene in prange(len(statistic)):
        _rank_gene(gene, statistic, pvalue, *sides)


@njit(nogil=True, cache=True)
def rank_genes_single_threaded(statistic: Array, pvalue: Array, *sides: Any) -> None:
    """The same as `rank_genes` on the calling thread, which may be one of several."""
    for gene in range(len(statistic)):
        _rank_gene(gene, statistic, pvalue, *sides)
