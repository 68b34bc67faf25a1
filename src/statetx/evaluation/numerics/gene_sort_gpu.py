"""Sort the values of each gene on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from statetx.evaluation.numerics.gpu import gpu, gpu_if_started, on_gpu_or_none, send

if TYPE_CHECKING:
    import torch

LEAST_VALUES = 1 << 21
"""Non-zero values from which a GPU is started: 10,000 cells x 2,000 genes, 10 % non-zero."""

LEAST_VALUES_STARTED = 1 << 16
"""Non-zero values from which a GPU sorts them that this process has already started."""

VALUES = 1 << 24
"""Most values in a block of genes. Each value takes up to 50 bytes on the device."""


def gene_blocks(starts: np.ndarray) -> Iterator[slice]:
    """Yield blocks of genes with at most `VALUES` values each, or a single larger gene.

    Parameters
    ----------
    starts
        int64 [G + 1], where the values of each gene begin.
    """
    first, n_genes = 0, len(starts) - 1
    while first < n_genes:
        last = int(np.searchsorted(starts, starts[first] + VALUES, side="right")) - 1
        yield slice(first, max(first + 1, last))
        first = max(first + 1, last)


def genes_of_values(starts: torch.Tensor, n_values: int) -> torch.Tensor:
    """Return the gene of each value, int64 [n_values].

    Parameters
    ----------
    starts
        int64 [G + 1], where the values of each gene begin.
    n_values
        Number of values.
    """
    import torch

    genes = torch.arange(len(starts) - 1, device=starts.device)
    return torch.repeat_interleave(genes, starts.diff(), output_size=n_values)


def sort_genes(starts: np.ndarray, values: np.ndarray, device: torch.device) -> bool:
    """Sort the values of each gene, in place; return True.

    Parameters
    ----------
    starts
        int64 [G + 1], where the values of each gene begin.
    values
        [nnz], float32 or float64.
    device
        Device that sorts them.
    """
    import torch

    for block in gene_blocks(starts):
        span = slice(starts[block.start], starts[block.stop])
        part = values[span]
        genes = genes_of_values(send(starts[block.start : block.stop + 1], device), len(part)).int()
        ordered, places = torch.sort(send(part, device), stable=True)
        again = torch.sort(genes[places], stable=True).indices
        values[span] = ordered[again].cpu().numpy()
    return True


def sort_on_gpu_if_worth(starts: np.ndarray, values: np.ndarray) -> bool:
    """Call `sort_genes` on the GPU if there is one and there are enough values.

    Parameters
    ----------
    starts, values
        As for `sort_genes`.

    Returns
    -------
    bool
        Whether the GPU sorted the values.
    """
    device = None
    if len(values) >= LEAST_VALUES:
        device = gpu()
    elif len(values) >= LEAST_VALUES_STARTED:
        device = gpu_if_started()
    return device is not None and bool(on_gpu_or_none(lambda: sort_genes(starts, values, device)))
