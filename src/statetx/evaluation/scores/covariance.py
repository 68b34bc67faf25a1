"""Do predicted cells vary together as real cells do? Correlations between genes, compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from statetx.evaluation.numerics.correlation import pearson

GENES, FEWEST_GENES = 100, 20
"""Most and fewest genes compared."""
EXPRESSED = 10
"""Real cells that must express a gene."""
CELLS, FEWEST_CELLS = 500, 50
"""Most and fewest cells on each side: with fewer, correlations are mostly noise."""


def covariance_agreement(pred: Any, real: Any, fold_change: np.ndarray) -> float | None:
    """Pearson between the gene-gene correlations of both sides, over the most changed genes.

    As cell-eval2's ``cell_cov_corr``: the 100 genes of largest real |log2 fold change| that at least
    10 real cells express; equal numbers of cells, at most 500.

    Parameters
    ----------
    pred, real
        Cells [n, G] and [m, G], log1p, dense or sparse.
    fold_change
        float64 [G], real log2 fold change.

    Returns
    -------
    NaN with fewer than 50 cells on a side or 20 such genes, None where the predicted side has no
    correlations (constant cells).
    """
    n = min(real.shape[0], pred.shape[0], CELLS)
    seen = np.flatnonzero(np.asarray((real > 0).sum(axis=0)).ravel() >= EXPRESSED)
    if n < FEWEST_CELLS or len(seen) < FEWEST_GENES:
        return float("nan")
    size = np.nan_to_num(np.abs(fold_change[seen]), nan=0.0, posinf=np.inf)
    genes = seen[np.argsort(-size, kind="stable")[:GENES]]
    upper = np.triu_indices(len(genes), 1)
    sides = [_correlations(cells, n, genes)[upper] for cells in (pred, real)]
    value = pearson(*sides)
    if np.isnan(value):
        return float("nan") if np.ptp(sides[1]) == 0 else None
    return value


def _correlations(cells: Any, n: int, genes: np.ndarray) -> np.ndarray:
    """Correlation matrix over `n` cells spread over all of them; 0 for a gene that is constant."""
    chosen = cells[np.linspace(0, cells.shape[0] - 1, n).astype(int)]
    taken = chosen.toarray() if sparse.issparse(chosen) else np.asarray(chosen)
    values = taken[:, genes].astype(np.float64)
    values -= values.mean(axis=0)
    length = np.linalg.norm(values, axis=0)
    # A constant gene leaves rounding noise after centring.
    values = np.where(length > 1e-6, values / np.maximum(length, 1e-6), 0.0)
    # So small a product is slower on several threads, 100 times so on a busy machine.
    product: np.ndarray = np.einsum("ij,ik->jk", values, values)
    return product
