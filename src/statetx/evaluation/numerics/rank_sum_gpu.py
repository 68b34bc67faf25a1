"""Rank-sum tests on a device: what `rank_sum.SortedControl` does, in torch.

Control values, sorted gene by gene, stay on the device as whole numbers (keys) that sort like
(gene, value). The key is 2 r + 1 for the r-th distinct value of the control, and 2 r for a value
just below it. Target values get such keys too. Two searches among the control's keys then count the
cells below and equal to each. All counts are int64, so U and the tie term are exact in any order of
summation and for any blocks of genes. The p-values are computed from them on the CPU.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from statetx.evaluation.numerics.gene_sort_gpu import LEAST_VALUES, gene_blocks, genes_of_values
from statetx.evaluation.numerics.gpu import fits_on, gpu, on_gpu_or_none, send
from statetx.evaluation.numerics.rank_kernels import p_values

if TYPE_CHECKING:
    import torch

    from statetx.evaluation.numerics.sorted_cells import SortedCells

RESIDENT_BYTES = 16
"""Bytes of one control value on the device: its key, and the value where it is distinct."""

MOST_CELLS = 2_097_151
"""Most cells of a test, target plus control: the cube of their number still fits int64."""


class _Block(NamedTuple):
    """A block of genes of the control cells.

    Attributes
    ----------
    genes
        The genes of the block.
    distinct
        [d + 1], distinct values of all these genes, ascending, then infinity.
    keys
        int64 [nnz], (gene, value) as one number, ascending.
    starts
        int64 [genes + 1], where the keys of each gene begin.
    zeros
        int64 [genes], number of cells whose value is zero.
    """

    genes: slice
    distinct: torch.Tensor
    keys: torch.Tensor
    starts: torch.Tensor
    zeros: torch.Tensor


class GpuControl:
    """Sorted control cells on a device, to be compared with many targets.

    They take up to `RESIDENT_BYTES` per non-zero value.

    Parameters
    ----------
    cells
        Sorted control cells.
    ties
        float64 [G], sum of t^3 - t over the distinct non-zero values of each gene.
    negatives
        int64 [G], number of values below zero.
    device
        The device.
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
        """Return 2 U of the target and the tie term of every gene, int64 [G] each.

        Parameters
        ----------
        target
            Sorted target cells; at most `MOST_CELLS` together with the control cells.
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
                added = self._search(block._replace(distinct=distinct), part.start, target, genes)
                twice_u[genes] += added[0]
                ties[genes] += added[1]
        return twice_u, ties

    def _search(
        self, block: _Block, skip: int, target: SortedCells, genes: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the target's non-zero values add to `counts`, int64 [genes] each.

        `genes` are genes of the block; `skip` is the position of the first one in the block.
        """
        import torch

        bounds = target.starts[genes.start : genes.stop + 1]
        values = send(target.values[bounds[0] : bounds[-1]], self.device)
        # Both need one type: otherwise torch converts all control values in each search.
        values = values.to(block.distinct.dtype)
        gene_of_part = genes_of_values(send(bounds, self.device), len(values))
        gene = gene_of_part + skip
        rank = torch.searchsorted(block.distinct, values)
        key = gene * (2 * len(block.distinct)) + 2 * rank + (block.distinct[rank] == values)
        left = torch.searchsorted(block.keys, key)
        equal = torch.searchsorted(block.keys, key, right=True) - left
        twice = 2 * (left - block.starts[gene] + (values > 0) * block.zeros[gene]) + equal
        out = torch.zeros((2, genes.stop - genes.start), dtype=torch.int64, device=self.device)
        out[0].index_add_(0, gene_of_part, twice)
        # Two different target values have the same key if they lie between the same control values.
        is_first = torch.ones(len(values), dtype=torch.bool, device=self.device)
        is_first[1:] = (values[1:] != values[:-1]) | (gene_of_part[1:] != gene_of_part[:-1])
        first = is_first.nonzero()[:, 0]
        times = torch.diff(first, append=first.new_full((1,), len(values)))
        out[1].index_add_(0, gene_of_part[first], _tie(equal[first] + times) - _tie(equal[first]))
        twice_u, ties = out.cpu().numpy()
        return twice_u, ties

    def test(self, target: SortedCells) -> tuple[np.ndarray, np.ndarray] | None:
        """Return U of the target and its two-sided asymptotic p for every gene, float64 [G] each.

        Return None if there are too many cells or the device fails; the CPU must then do the test.

        Parameters
        ----------
        target
            Sorted target cells.
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
    """Put control cells on the GPU; return None without a GPU or for too few or too many values.

    Parameters
    ----------
    cells, ties, negatives
        As for `GpuControl`.
    """
    device = gpu() if len(cells.values) >= LEAST_VALUES else None
    if device is None or not fits_on(RESIDENT_BYTES * len(cells.values), device):
        return None
    return on_gpu_or_none(lambda: GpuControl(cells, ties, negatives, device))
