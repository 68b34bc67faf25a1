"""Rank-sum tests of many sets of cells against the same controls.

Only the perturbation changes from test to test, so the control is sorted once (`SortedControl`).
With k_c, k_p non-zero values of a gene, a test costs O(k_p log k_c + k_p log k_p) instead of
sorting both sides again. For each distinct value v of the perturbation with multiplicity c, and e
control values equal to it,

    U += c (#{control < v} + e / 2)          T += (e + c)^3 - (e + c) - (e^3 - e)

where T starts as the control's own tie term. All of these are whole or half numbers, exact in
float64 up to 200,000 cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from statetx.core.errors import DataError
from statetx.evaluation.numerics.csr_cells import Cells
from statetx.evaluation.numerics.rank_kernels import (
    SMALL,
    rank_genes,
    rank_genes_single_threaded,
    threads_for,
    tie_terms,
)
from statetx.evaluation.numerics.rank_sum_gpu import GpuControl, gpu_control_if_worth
from statetx.evaluation.numerics.sorted_cells import SortedCells


class RankSum(NamedTuple):
    """Result of a rank-sum test per gene.

    Attributes
    ----------
    statistic
        float64 [G], U of the target: pairs (target, control) with target above, ties one half.
    pvalue
        float64 [G], two-sided.
    """

    statistic: np.ndarray
    pvalue: np.ndarray


@dataclass(frozen=True)
class SortedControl:
    """Control cells, sorted once, to be compared with many targets.

    Attributes
    ----------
    cells
        The cells.
    """

    cells: SortedCells
    _ties: np.ndarray = field(repr=False)
    _negatives: np.ndarray = field(repr=False)
    _on_gpu: GpuControl | None = field(repr=False)

    @classmethod
    def from_cells(cls, cells: Cells) -> SortedControl:
        """Sort control cells [n, G]; raises as `SortedCells.of`."""
        own = SortedCells.from_cells(cells)
        ties, negatives = np.zeros(cells.shape[1]), np.zeros(cells.shape[1], dtype=np.int64)
        with threads_for(len(own.values)):
            tie_terms(own.starts, own.values, ties, negatives)
        return cls(own, ties, negatives, gpu_control_if_worth(own, ties, negatives))

    def test(self, target: SortedCells, single_threaded: bool = False) -> RankSum:
        """Compare target cells with these controls.

        Parameters
        ----------
        target
            Sorted cells.
        single_threaded
            On the calling thread, for callers that are several.

        Raises
        ------
        DataError
            Another number of genes.
        """
        own, control = target, self.cells
        if len(own.mean) != len(control.mean):
            raise DataError(
                f"{len(own.mean)} genes in the target, {len(control.mean)} in the control"
            )
        found = None if self._on_gpu is None else self._on_gpu.test(own)
        if found is not None:
            return RankSum(*found)
        if own.values.dtype != control.values.dtype:
            own, control = (side.astype(np.dtype(np.float64)) for side in (own, control))
        statistic, pvalue = np.empty(len(own.mean)), np.empty(len(own.mean))
        work = len(own.values) + min(8 * len(own.values), len(control.values))
        kernel = rank_genes_single_threaded if single_threaded or work < SMALL else rank_genes
        kernel(
            statistic,
            pvalue,
            control.starts,
            control.values,
            self._ties,
            self._negatives,
            control.n_cells,
            own.starts,
            own.values,
            own.n_cells,
        )
        return RankSum(statistic, pvalue)


def rank_sum(target: Cells, control: Cells) -> RankSum:
    """Two-sided Mann-Whitney U of target against control cells, gene by gene.

    Equal to ``scipy.stats.mannwhitneyu(target, control, method="asymptotic")`` per column; a gene
    without any variation has p = 1. For many targets keep a `SortedControl`.

    Parameters
    ----------
    target, control
        [n1, G] and [n2, G], dense or sparse. Equality of values decides about ties, so do not
        renormalise or cast one side alone.

    Raises
    ------
    DataError
        No cells on a side, different numbers of genes, or values that are not finite.
    """
    return SortedControl.from_cells(control).test(SortedCells.from_cells(target))
