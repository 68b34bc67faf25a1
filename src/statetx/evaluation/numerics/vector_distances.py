"""Distances between vectors of genes."""

from __future__ import annotations

import numpy as np


def distances_between(pred: np.ndarray, real: np.ndarray, kind: str) -> np.ndarray:
    """Distances of every predicted [P, G] from every real delta [Q, G] -> [P, Q]; l1, l2, cosine.

    A vector without length has cosine distance 1.
    """
    if kind == "l1":
        return np.array([np.abs(row - real).sum(axis=1) for row in pred])
    if kind == "l2":
        return np.array([np.sqrt(((row - real) ** 2).sum(axis=1)) for row in pred])
    lengths = np.linalg.norm(pred, axis=1), np.linalg.norm(real, axis=1)
    unit = [
        x / np.where(n == 0, 1.0, n)[:, None] for x, n in zip((pred, real), lengths, strict=True)
    ]
    return np.clip(1.0 - unit[0] @ unit[1].T, 0.0, 2.0)
