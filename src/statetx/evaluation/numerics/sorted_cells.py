"""Cells sorted gene by gene, as rank-sum tests need them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from statetx.core.errors import DataError
from statetx.evaluation.numerics.csr_cells import Cells, as_rows
from statetx.evaluation.numerics.gene_sort_gpu import sort_on_gpu_if_worth
from statetx.evaluation.numerics.rank_kernels import gather_genes


@dataclass(frozen=True)
class SortedCells:
    """Cells gene by gene, with the non-zero values of each gene sorted.

    Attributes
    ----------
    n_cells
        Number of cells.
    starts
        int64 [G + 1], where the values of each gene begin.
    values
        [nnz], float32 or float64.
    mean
        float64 [G], mean over all cells, zeros included.
    """

    n_cells: int
    starts: np.ndarray
    values: np.ndarray
    mean: np.ndarray

    @classmethod
    def from_cells(cls, cells: Cells) -> SortedCells:
        """Sort cells.

        Parameters
        ----------
        cells
            [n, G], n >= 1, dense or sparse; negative values are allowed.

        Raises
        ------
        DataError
            There are no cells, or values are not finite.
        """
        n, n_genes = cells.shape
        if n == 0:
            raise DataError("there are no cells to compare")
        starts, sums = np.zeros(n_genes + 1, dtype=np.int64), np.zeros(n_genes)
        rows = as_rows(cells)
        data = _as_float(rows.data)
        values = np.empty(len(data), dtype=data.dtype)
        gather_genes(rows.indptr, rows.indices, data, starts, values, sums)
        values = values[: starts[-1]]
        if not np.isfinite(values).all():
            raise DataError(
                "cells hold NaN or infinite values: ranks are undefined",
                fix="correct or remove these cells",
            )
        if not sort_on_gpu_if_worth(starts, values):
            for start, stop in itertools.pairwise(starts.tolist()):
                # numpy's vectorised sort is 4 times as fast as sorting inside compiled loops.
                values[start:stop].sort()
        return cls(n, starts, values, sums / n)

    def astype(self, kind: np.dtype) -> SortedCells:
        """Return the same cells with values of another type.

        Parameters
        ----------
        kind
            numpy dtype of the values.
        """
        return replace(self, values=self.values.astype(kind, copy=False))


def _as_float(values: np.ndarray) -> np.ndarray:
    """Return values as float32 or float64; convert other types to one that holds them."""
    if values.dtype in (np.float32, np.float64):
        return values
    return values.astype(np.float32 if values.dtype == np.float16 else np.float64)


def mean_of(cells: Cells) -> np.ndarray:
    """Return the arithmetic mean over cells [n, G], summed in float64: float64 [G].

    float32 sums have a relative error of 2.5e-6 at 3,000 cells. At 38,000 cells they shift a log2
    fold change by 1e-5.
    """
    if sparse.issparse(cells):
        total = np.bincount(
            cells.tocsr().indices, weights=cells.tocsr().data, minlength=cells.shape[1]
        )
        return total / cells.shape[0]
    return np.asarray(cells).mean(axis=0, dtype=np.float64)
