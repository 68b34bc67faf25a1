"""Rank-sum tests of many sets of cells against the same control cells.

Only the perturbed cells change from test to test, so the control cells are sorted once
(`SortedControl`). A gene has k_c non-zero values in the control and k_p in the perturbed cells. Its
test then costs O(k_p log k_c + k_p log k_p); the control is not sorted again. For each distinct
value v of the perturbed cells with multiplicity c, and e control values equal to v,

    U += c (#{control < v} + e / 2)          T += (e + c)^3 - (e + c) - (e^3 - e)

where T starts as the tie term of the control alone. All of these are whole or half numbers, exact
in float64 up to 200,000 cells.
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
        float64 [G], U of the target: pairs (target, control) with the larger value in the target.
        A tied pair counts one half.
    pvalue
        float64 [G], two-sided p-value.
    """

    statistic: np.ndarray
    pvalue: np.ndarray


@dataclass(frozen=True)
class SortedControl:
    """Control cells, sorted once to be compared with many targets.

    Attributes
    ----------
    cells
        The sorted control cells.
    """

    cells: SortedCells
    _ties: np.ndarray = field(repr=False)
    _negatives: np.ndarray = field(repr=False)
    _on_gpu: GpuControl | None = field(repr=False)

    @classmethod
    def from_cells(cls, cells: Cells) -> SortedControl:
        """Sort control cells.

        Parameters
        ----------
        cells
            [n, G], as for `SortedCells.from_cells`.

        Raises
        ------
        DataError
            There are no cells, or values are not finite.
        """
        ordered = SortedCells.from_cells(cells)
        ties, negatives = np.zeros(cells.shape[1]), np.zeros(cells.shape[1], dtype=np.int64)
        with threads_for(len(ordered.values)):
            tie_terms(ordered.starts, ordered.values, ties, negatives)
        return cls(ordered, ties, negatives, gpu_control_if_worth(ordered, ties, negatives))

    def test(self, target: SortedCells, single_threaded: bool = False) -> RankSum:
        """Test target cells against these controls.

        Parameters
        ----------
        target
            Sorted target cells.
        single_threaded
            Whether to stay on the calling thread, for callers that run on several threads.

        Raises
        ------
        DataError
            Target and control have different numbers of genes.
        """
        control = self.cells
        if len(target.mean) != len(control.mean):
            raise DataError(
                f"{len(target.mean)} genes in the target, {len(control.mean)} in the control"
            )
        on_gpu = None if self._on_gpu is None else self._on_gpu.test(target)
        if on_gpu is not None:
            return RankSum(*on_gpu)
        if target.values.dtype != control.values.dtype:
            target, control = (cells.astype(np.dtype(np.float64)) for cells in (target, control))
        statistic, pvalue = np.empty(len(target.mean)), np.empty(len(target.mean))
        work = len(target.values) + min(8 * len(target.values), len(control.values))
        kernel = rank_genes_single_threaded if single_threaded or work < SMALL else rank_genes
        kernel(
            statistic,
            pvalue,
            control.starts,
            control.values,
            self._ties,
            self._negatives,
            control.n_cells,
            target.starts,
            target.values,
            target.n_cells,
        )
        return RankSum(statistic, pvalue)


def rank_sum(target: Cells, control: Cells) -> RankSum:
    """Compute the two-sided Mann-Whitney U test of target against control cells, gene by gene.

    Equal to ``scipy.stats.mannwhitneyu(target, control, method="asymptotic")`` per column. A gene
    without variation has p = 1. To test many targets, keep a `SortedControl`.

    Parameters
    ----------
    target, control
        [n1, G] and [n2, G], dense or sparse. Ties depend on exact equality of values, so do not
        renormalise or cast only one of the two.

    Raises
    ------
    DataError
        Target or control has no cells, their numbers of genes differ, or values are not finite.
    """
    return SortedControl.from_cells(control).test(SortedCells.from_cells(target))
