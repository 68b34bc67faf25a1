"""Matrices of cells x genes: conversion to CSR where that makes comparisons faster."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from statetx.evaluation.numerics.rank_kernels import fill_rows

Cells = Any
"""Cells x genes: a dense array or any scipy sparse matrix."""

SPARSE = 0.5
"""Cells count as sparse up to this share of non-zero values."""


def as_rows(cells: Cells) -> sparse.csr_matrix:
    """Convert cells to CSR in which no entry is stored twice; leave the input unchanged.

    Parameters
    ----------
    cells
        [n, G], dense or sparse.
    """
    if sparse.issparse(cells):
        rows = cells.tocsr()
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        return rows
    dense = np.asarray(cells)
    pointers = np.zeros(len(dense) + 1, dtype=np.int64)
    np.cumsum(np.count_nonzero(dense, axis=1), out=pointers[1:])
    genes = np.empty(pointers[-1] + 1, dtype=np.int32)
    data = np.empty(pointers[-1] + 1, dtype=dense.dtype)
    fill_rows(dense, genes, data)
    return sparse.csr_matrix((data[:-1], genes[:-1], pointers), shape=dense.shape)


def compact(cells: np.ndarray) -> Cells:
    """Convert dense cells [n, G] to CSR if at most `SPARSE` of their values are non-zero.

    Sums, tests and distances are faster on such CSR matrices.
    """
    return as_rows(cells) if np.count_nonzero(cells) <= SPARSE * cells.size else cells
