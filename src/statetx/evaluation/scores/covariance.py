"""Compare the correlations between genes in predicted and in real cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from statetx.evaluation.numerics.correlation import pearson

GENES, FEWEST_GENES = 100, 20
"""Most and fewest genes that are compared."""
EXPRESSED = 10
"""A gene is compared if at least this many real cells express it."""
CELLS, FEWEST_CELLS = 500, 50
"""Most and fewest real, and predicted, cells. With fewer cells, correlations are mostly noise."""


def covariance_agreement(pred: Any, real: Any, fold_change: np.ndarray) -> float | None:
    """Correlate the gene-gene correlations of predicted cells with those of real cells (Pearson).

    Like ``cell_cov_corr`` of cell-eval2: over the 100 genes with the largest real
    |log2 fold change| among those that at least 10 real cells express. The same number of predicted
    and real cells is used, at most 500.

    Parameters
    ----------
    pred, real
        Cells [n, G] and [m, G], log1p, dense or sparse.
    fold_change
        float64 [G], real log2 fold change.

    Returns
    -------
    float or None
        NaN with fewer than 50 predicted or real cells, or fewer than 20 such genes. None if only
        the predicted cells have no correlations to compare (constant cells).
    """
    n = min(real.shape[0], pred.shape[0], CELLS)
    seen = np.flatnonzero(np.asarray((real > 0).sum(axis=0)).ravel() >= EXPRESSED)
    if n < FEWEST_CELLS or len(seen) < FEWEST_GENES:
        return float("nan")
    size = np.nan_to_num(np.abs(fold_change[seen]), nan=0.0, posinf=np.inf)
    genes = seen[np.argsort(-size, kind="stable")[:GENES]]
    upper = np.triu_indices(len(genes), 1)
    correlations = [_correlations(cells, n, genes)[upper] for cells in (pred, real)]
    value = pearson(*correlations)
    if np.isnan(value):
        return float("nan") if np.ptp(correlations[1]) == 0 else None
    return value


def _correlations(cells: Any, n: int, genes: np.ndarray) -> np.ndarray:
    """Return the correlations of genes over `n` evenly spaced cells; 0 for a constant gene."""
    chosen = cells[np.linspace(0, cells.shape[0] - 1, n).astype(int)]
    taken = chosen.toarray() if sparse.issparse(chosen) else np.asarray(chosen)
    values = taken[:, genes].astype(np.float64)
    values -= values.mean(axis=0)
    length = np.linalg.norm(values, axis=0)
    # A constant gene leaves rounding noise after centring, which must not be scaled up.
    values = np.where(length > 1e-6, values / np.maximum(length, 1e-6), 0.0)
    # BLAS would use several threads, which is slower for such a small product, and 100 times slower
    # on a busy machine.
    product: np.ndarray = np.einsum("ij,ik->jk", values, values)
    return product
