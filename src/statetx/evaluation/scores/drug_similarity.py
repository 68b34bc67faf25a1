"""Do different drugs get different answers? Correlations between the deltas of a line's drugs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_RELIABLE = 0.1
"""With a smaller share of real effect in the real deltas, their correlations are those of noise."""


def drug_correlations(deltas: np.ndarray, drugs: Sequence[str]) -> np.ndarray:
    """Mean Pearson correlation over genes with the deltas of the other drugs, per condition.

    Doses of one drug are left out: they may well be alike.

    Parameters
    ----------
    deltas
        float64 [P, G].
    drugs
        Drug of each condition.

    Returns
    -------
    float64 [P]; NaN for a delta that is constant over genes, or without others to compare with.
    """
    centred = deltas - deltas.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    known = length > 1e-12 * np.linalg.norm(deltas, axis=1)
    units = np.where(known[:, None], centred, 0.0) / np.where(known, length, 1.0)[:, None]
    _, codes = np.unique(np.asarray(drugs, dtype=str), return_inverse=True)
    # The sum over other drugs is the sum over all minus that over the own: no P x P products.
    n_drugs = int(codes.max(initial=-1)) + 1
    by_drug = np.zeros((n_drugs, deltas.shape[1]))
    np.add.at(by_drug, codes, units)
    numbers = np.bincount(codes, known, minlength=n_drugs)
    others = numbers.sum() - numbers[codes]
    total = np.einsum("ij,ij->i", units, by_drug.sum(axis=0) - by_drug[codes])
    found = np.full(len(deltas), np.nan)
    np.divide(total, others, out=found, where=known & (others > 0))
    return found


def real_drug_correlations(
    deltas: np.ndarray, drugs: Sequence[str], noise: Sequence[float]
) -> np.ndarray:
    """The same of real deltas, whose sampling noise makes drugs look less alike than they are.

    Divided by the share of effect in the squared deltas of the line; else a right prediction without
    noise would seem to make all drugs alike.

    Parameters
    ----------
    deltas, drugs
        As for `drug_correlations`.
    noise
        Expected squared error of each delta, summed over genes.

    Returns
    -------
    float64 [P]; NaN, too, where that share is below `LEAST_RELIABLE`.
    """
    squares = float(np.einsum("ij,ij->", deltas, deltas))
    reliable = 1 - float(np.sum(noise)) / squares if squares > 0 else 0.0
    if not reliable >= LEAST_RELIABLE:
        return np.full(len(deltas), np.nan)
    alike: np.ndarray = np.clip(drug_correlations(deltas, drugs) / reliable, -1.0, 1.0)
    return alike
