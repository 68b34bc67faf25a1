"""Compiled loops of the rank-sum tests in `statetx.evaluation.numerics.rank_sum`.

The code is our own and follows the algorithm that `rank_sum` states.
"""

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
"""One thread is faster below this number of values. Waking a second thread costs as much as
processing 0.1 M values, and 20 ms on a busy machine."""


@contextlib.contextmanager
def threads_for(n_values: int) -> Iterator[None]:
    """Run the compiled loops inside the block on one thread if there are fewer than `SMALL` values.

    Parameters
    ----------
    n_values
        Number of values that the loops process.
    """
    before = numba.get_num_threads()
    numba.set_num_threads(1 if n_values < SMALL else before)
    try:
        yield
    finally:
        numba.set_num_threads(before)


@njit(inline="always")
def _first_not_below(
    values: Array,  # [nnz], ascending from start to stop
    start: int,
    stop: int,
    x: float,
) -> int:
    while start < stop:
        middle = (start + stop) >> 1
        if values[middle] < x:
            start = middle + 1
        else:
            stop = middle
    return start


@njit(inline="always")
def _first_above(
    values: Array,  # [nnz], ascending from start to stop
    start: int,
    stop: int,
    x: float,
) -> int:
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
    """Write the non-zero values of dense cells row by row.

    The loop does not branch on the values: mispredicted branches would take four times as long.

    Parameters
    ----------
    cells
        [n, G].
    genes
        int32 [nnz + 1], receives the gene of each value; the last entry is scratch.
    data
        [nnz + 1], receives the values; the last entry is scratch.
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
        CSR [n + 1], [nnz], [nnz]. No entry is stored twice; zeros may be stored.
    starts
        int64 [G + 1], zeros; receives where the values of each gene begin.
    values
        [nnz], receives the non-zero values, in the order of the cells within a gene.
    sums
        float64 [G], zeros; receives the sum of each gene.
    """
    for k in range(pointers[0], pointers[-1]):
        if data[k] != 0:
            starts[genes[k] + 1] += 1
    for gene in range(len(sums)):
        starts[gene + 1] += starts[gene]
    place = starts[:-1].copy()  # [G], where the next value of each gene is written
    for k in range(pointers[0], pointers[-1]):
        if data[k] != 0:
            gene = genes[k]
            values[place[gene]] = data[k]
            place[gene] += 1
            sums[gene] += data[k]


@njit(parallel=True, cache=True)
def tie_terms(starts: Array, values: Array, ties: Array, negatives: Array) -> None:
    """Fill the tie term and the number of negative values of each gene.

    Parameters
    ----------
    starts
        int64 [G + 1], where the values of each gene begin in `values`.
    values
        [nnz], non-zero, sorted within genes.
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
"""Up to this number of control values per target value, walking along them beats searching."""


@njit(inline="always")
def _merge(
    values: Array,  # [nnz], ascending from start to stop
    start: int,
    stop: int,
    targets: Array,  # [k], ascending
    lefts: Array,  # int64 [k]
) -> None:
    """Fill lefts[j] with the first place from start to stop whose value is at least targets[j].

    The loops do not branch on the values: a mispredicted branch costs as much as six steps. Each
    step waits for the one before. Two independent walks therefore run together: the lower half of
    `targets` upwards, the upper half downwards.
    """
    half = len(targets) // 2
    i, j, up, down = start, 0, stop, len(targets) - 1
    while i < stop and j < half and up > start and down >= half:
        is_below = values[i] < targets[j]
        lefts[j] = i
        i += is_below
        j += not is_below
        is_above = values[up - 1] >= targets[down]
        lefts[down] = up
        up -= is_above
        down -= not is_above
    while i < stop and j < half:
        is_below = values[i] < targets[j]
        lefts[j] = i
        i += is_below
        j += not is_below
    while j < half:
        lefts[j] = stop
        j += 1
    while up > start and down >= half:
        is_above = values[up - 1] >= targets[down]
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
    """Fill the two-sided asymptotic p-value of every gene.

    Parameters
    ----------
    statistic
        float64 [G], U of the target.
    ties
        float64 [G], tie term.
    n_control, n_target
        Numbers of cells.
    pvalue
        float64 [G], receives the p-values.
    """
    n, pairs = float(n_control + n_target), float(n_control) * float(n_target)
    for gene in range(len(statistic)):
        pvalue[gene] = _two_sided(statistic[gene], ties[gene], n, pairs)


@njit(nogil=True)
def _rank_gene(
    gene: int,
    statistic: Array,  # float64 [G]
    pvalue: Array,  # float64 [G]
    control_starts: Array,  # int64 [G + 1]
    control_values: Array,  # [nnz of the control], ascending within genes
    control_ties: Array,  # float64 [G]
    control_negatives: Array,  # int64 [G]
    n_control: int,
    target_starts: Array,  # int64 [G + 1]
    target_values: Array,  # [nnz of the target], ascending within genes
    n_target: int,
) -> None:
    """Fill U of the target and its two-sided asymptotic p-value for one gene."""
    start, stop = control_starts[gene], control_starts[gene + 1]
    targets = target_values[target_starts[gene] : target_starts[gene + 1]]  # [k]
    walk = stop - start <= _WALK * len(targets)
    lefts = np.empty(len(targets) if walk else 0, dtype=np.int64)  # [k] or [0]
    if walk:
        _merge(control_values, start, stop, targets, lefts)
    control_zeros = float(n_control - (stop - start))
    target_zeros = float(n_target - len(targets))
    u = target_zeros * (control_negatives[gene] + 0.5 * control_zeros)
    tie = control_ties[gene] + _tie(control_zeros + target_zeros)
    seek = start
    i = 0
    while i < len(targets):
        value = targets[i]
        j = i + 1
        while j < len(targets) and targets[j] == value:
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
def rank_genes(statistic: Array, pvalue: Array, *arguments: Any) -> None:
    """Fill U of the target and its two-sided asymptotic p-value for every gene.

    Parameters
    ----------
    statistic, pvalue
        float64 [G], receive the results.
    *arguments
        The further arguments of `_rank_gene`: control, then target. Values of both have one type,
        are sorted within genes and do not contain zeros.
    """
    for gene in prange(len(statistic)):
        _rank_gene(gene, statistic, pvalue, *arguments)


@njit(nogil=True, cache=True)
def rank_genes_single_threaded(statistic: Array, pvalue: Array, *arguments: Any) -> None:
    """Do the same as `rank_genes`, but on the calling thread alone.

    Parameters
    ----------
    statistic, pvalue
        float64 [G], receive the results.
    *arguments
        As for `rank_genes`.
    """
    for gene in range(len(statistic)):
        _rank_gene(gene, statistic, pvalue, *arguments)
