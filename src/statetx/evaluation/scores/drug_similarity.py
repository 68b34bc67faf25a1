"""Correlations between the deltas of different drugs in a cell line.

They show whether a model predicts different effects for different drugs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_RELIABLE = 0.1
"""Least share of effect in the squared real deltas; below it, correlations are mostly noise."""


def drug_correlations(deltas: np.ndarray, drugs: Sequence[str]) -> np.ndarray:
    """Return the mean Pearson correlation of each delta with the deltas of other drugs.

    Other doses of the same drug are left out, because they are expected to be similar.

    Parameters
    ----------
    deltas
        float64 [P, G].
    drugs
        [P], drug of each condition.

    Returns
    -------
    numpy.ndarray
        float64 [P]; NaN for a delta that is constant over genes, or if the line has only one drug.
    """
    centred = deltas - deltas.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    known = length > 1e-12 * np.linalg.norm(deltas, axis=1)
    units = np.where(known[:, None], centred, 0.0) / np.where(known, length, 1.0)[:, None]
    _, codes = np.unique(np.asarray(drugs, dtype=str), return_inverse=True)
    # Sum over other drugs = sum over all drugs - sum over the same drug, without P x P products.
    n_drugs = int(codes.max(initial=-1)) + 1
    by_drug = np.zeros((n_drugs, deltas.shape[1]))
    np.add.at(by_drug, codes, units)
    numbers = np.bincount(codes, known, minlength=n_drugs)
    others = numbers.sum() - numbers[codes]
    total = np.einsum("ij,ij->i", units, by_drug.sum(axis=0) - by_drug[codes])
    correlations = np.full(len(deltas), np.nan)
    np.divide(total, others, out=correlations, where=known & (others > 0))
    return correlations


def real_drug_correlations(
    deltas: np.ndarray, drugs: Sequence[str], noise: Sequence[float]
) -> np.ndarray:
    """Return `drug_correlations` of real deltas, corrected for their sampling noise.

    Noise makes drugs look less similar than they are. The correlations are therefore divided by the
    share of effect in the squared deltas of the line. Otherwise a correct prediction without noise
    would seem to make drugs too similar.

    Parameters
    ----------
    deltas, drugs
        As for `drug_correlations`.
    noise
        [P], expected squared error of each delta, summed over genes.

    Returns
    -------
    numpy.ndarray
        float64 [P], clipped to [-1, 1]; all NaN if that share is below `LEAST_RELIABLE`.
    """
    squares = float(np.einsum("ij,ij->", deltas, deltas))
    reliable = 1 - float(np.sum(noise)) / squares if squares > 0 else 0.0
    if not reliable >= LEAST_RELIABLE:
        return np.full(len(deltas), np.nan)
    corrected: np.ndarray = np.clip(drug_correlations(deltas, drugs) / reliable, -1.0, 1.0)
    return corrected
