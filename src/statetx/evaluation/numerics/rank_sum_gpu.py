"""Rank-sum tests on a device: what `ranks.SortedControl` does, in torch.

Control values, sorted gene by gene, stay on the device as whole numbers that sort like (gene,
value): 2 r + 1 for the r-th distinct value of the control, 2 r for what lies just below it. A
target's values become such numbers too, and two searches among the control's count the cells below
and equal to each. All counts are int64, so U and the tie term are exact, in any order of adding and
with any block of genes; p is computed from them on the CPU.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from statetx.evaluation.numerics.gpu import fits_on, gpu, on_gpu_or_none, send
from statetx.evaluation.numerics.rank_kernels import p_values

if TYPE_CHECKING:
    import torch

    from statetx.evaluation.numerics.sorted_cells import SortedCells
from statetx.evaluation.numerics.gene_sort_gpu import LEAST_VALUES, gene_blocks, genes_of_values

RESIDENT_BYTES = 16
"""Of one control value on the device: its key, and itself where no other equals it."""

MOST_CELLS = 2_097_151
"""Most cells of a test, both sides: their number cubed still fits int64."""


class _Block(NamedTuple):
    """Some genes of the control.

    Attributes
    ----------
    genes
        Which ones.
    distinct
        Distinct values [d], ascending, then infinity.
    keys
        int64 [nnz], (gene, value) as one number, ascending.
    starts
        int64 [genes + 1], where each gene's keys begin.
    zeros
        int64 [genes], cells that are zero.
    """

    genes: slice
    distinct: torch.Tensor
    keys: torch.Tensor
    starts: torch.Tensor
    zeros: torch.Tensor


class GpuControl:
    """Sorted control cells that lie on a device, to be compared with many targets.

    They take up to `RESIDENT_BYTES` per value that is not zero.

    Parameters
    ----------
    cells
        Control cells.
    ties
        [G], sum of t^3 - t over the distinct values of each gene that are not zero.
    negatives
        [G], values below zero.
    device
        Where.
    """

    def __init__(
        self, cells: SortedCells, ties: np.ndarray, negatives: np.ndarray, device: torch.device
    ) -> None:
        self.n_cells, self.device = cells.n_cells, device
        self._zeros = cells.n_cells - np.diff(cells.starts)
        self._ties, self._negatives = ties.astype(np.int64), negatives
        self._blocks = [self._block(cells, genes) for genes in gene_blocks(cells.starts)]

    def _block(self, cells: SortedCells, genes: slice) -> _Block:
        import torch

        bounds = cells.starts[genes.start : genes.stop + 1]
        values = send(cells.values[bounds[0] : bounds[-1]], self.device)
        starts = send(bounds - bounds[0], self.device)
        distinct, rank = torch.unique(values, return_inverse=True)
        distinct = torch.cat([distinct, distinct.new_full((1,), math.inf)])
        keys = genes_of_values(starts, len(values)) * (2 * len(distinct)) + 2 * rank + 1
        return _Block(genes, distinct, keys, starts, send(self._zeros[genes], self.device))

    def counts(self, target: SortedCells) -> tuple[np.ndarray, np.ndarray]:
        """Return 2 U of the target and the tie term of every gene, int64 [G].

        Parameters
        ----------
        target
            Sorted cells; together at most `MOST_CELLS`.
        """
        import torch

        zeros = target.n_cells - np.diff(target.starts)
        twice_u = zeros * (2 * self._negatives + self._zeros)
        ties = self._ties + _tie(self._zeros + zeros)
        double = torch.float64 if target.values.dtype == np.float64 else None
        for block in self._blocks:
            distinct = block.distinct.to(double or block.distinct.dtype)
            first = block.genes.start
            for part in gene_blocks(target.starts[first : block.genes.stop + 1]):
                genes = slice(first + part.start, first + part.stop)
                found = self._search(block._replace(distinct=distinct), part.start, target, genes)
                twice_u[genes] += found[0]
                ties[genes] += found[1]
        return twice_u, ties

    def _search(
        self, block: _Block, skip: int, target: SortedCells, genes: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the target's values add to `counts`, for genes of a block from `skip` on."""
        import torch

        bounds = target.starts[genes.start : genes.stop + 1]
        values = send(target.values[bounds[0] : bounds[-1]], self.device)
        # Of one type: otherwise torch converts the whole control in each search.
        values = values.to(block.distinct.dtype)
        here = genes_of_values(send(bounds, self.device), len(values))
        gene = here + skip
        rank = torch.searchsorted(block.distinct, values)
        key = gene * (2 * len(block.distinct)) + 2 * rank + (block.distinct[rank] == values)
        left = torch.searchsorted(block.keys, key)
        equal = torch.searchsorted(block.keys, key, right=True) - left
        twice = 2 * (left - block.starts[gene] + (values > 0) * block.zeros[gene]) + equal
        out = torch.zeros((2, genes.stop - genes.start), dtype=torch.int64, device=self.device)
        out[0].index_add_(0, here, twice)
        # Keys may agree where values do not, between two values of the control.
        is_first = torch.ones(len(values), dtype=torch.bool, device=self.device)
        is_first[1:] = (values[1:] != values[:-1]) | (here[1:] != here[:-1])
        first = is_first.nonzero()[:, 0]
        times = torch.diff(first, append=first.new_full((1,), len(values)))
        out[1].index_add_(0, here[first], _tie(equal[first] + times) - _tie(equal[first]))
        twice_u, ties = out.cpu().numpy()
        return twice_u, ties

    def test(self, target: SortedCells) -> tuple[np.ndarray, np.ndarray] | None:
        """U of the target and its two-sided asymptotic p for every gene, float64 [G].

        None if the cells are too many or the device fails: then it is the CPU's turn.
        """
        if self.n_cells + target.n_cells > MOST_CELLS:
            return None
        return on_gpu_or_none(lambda: self._test(target))

    def _test(self, target: SortedCells) -> tuple[np.ndarray, np.ndarray]:
        twice_u, ties = self.counts(target)
        statistic, pvalue = twice_u / 2, np.empty(len(ties))
        p_values(statistic, ties.astype(np.float64), self.n_cells, target.n_cells, pvalue)
        return statistic, pvalue


def _tie(count: Any) -> Any:
    return count * count * count - count


def gpu_control_if_worth(
    cells: SortedCells, ties: np.ndarray, negatives: np.ndarray
) -> GpuControl | None:
    """Put control cells on the GPU; None without one, or if they are too few or too many for it."""
    device = gpu() if len(cells.values) >= LEAST_VALUES else None
    if device is None or not fits_on(RESIDENT_BYTES * len(cells.values), device):
        return None
    return on_gpu_or_none(lambda: GpuControl(cells, ties, negatives, device))
