"""Sorting the values of each gene on a GPU that is at work already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from statetx.evaluation.numerics.gpu import gpu, gpu_if_started, on_gpu_or_none, send

if TYPE_CHECKING:
    import torch

LEAST_VALUES = 1 << 21
"""Values that are not zero from which a GPU is started for them: 10,000 cells, 2,000 genes, 10 %."""

LEAST_VALUES_STARTED = 1 << 16
"""Values from which a GPU that is at work already sorts them."""

VALUES = 1 << 24
"""Values in a block of genes: 50 bytes each at the peak."""


def gene_blocks(starts: np.ndarray) -> Iterator[slice]:
    """Cut genes into blocks of at most `VALUES` values, or one gene."""
    first, n_genes = 0, len(starts) - 1
    while first < n_genes:
        last = int(np.searchsorted(starts, starts[first] + VALUES, side="right")) - 1
        yield slice(first, max(first + 1, last))
        first = max(first + 1, last)


def genes_of_values(starts: torch.Tensor, n_values: int) -> torch.Tensor:
    """Gene of each value, int64 [n_values], from where genes start [G + 1]."""
    import torch

    genes = torch.arange(len(starts) - 1, device=starts.device)
    return torch.repeat_interleave(genes, starts.diff(), output_size=n_values)


def sort_genes(starts: np.ndarray, values: np.ndarray, device: torch.device) -> bool:
    """Sort the values of each gene, in place; return True.

    Parameters
    ----------
    starts
        int64 [G + 1], where each gene's values begin.
    values
        [nnz], float32 or float64.
    device
        Where to sort them.
    """
    import torch

    for block in gene_blocks(starts):
        own = slice(starts[block.start], starts[block.stop])
        part = values[own]
        genes = genes_of_values(send(starts[block.start : block.stop + 1], device), len(part)).int()
        ordered, places = torch.sort(send(part, device), stable=True)
        again = torch.sort(genes[places], stable=True).indices
        values[own] = ordered[again].cpu().numpy()
    return True


def sort_on_gpu_if_worth(starts: np.ndarray, values: np.ndarray) -> bool:
    """Do as `sort_genes` on the GPU, if there is one and enough to sort; return whether it was done."""
    device = None
    if len(values) >= LEAST_VALUES:
        device = gpu()
    elif len(values) >= LEAST_VALUES_STARTED:
        device = gpu_if_started()
    return device is not None and bool(on_gpu_or_none(lambda: sort_genes(starts, values, device)))
