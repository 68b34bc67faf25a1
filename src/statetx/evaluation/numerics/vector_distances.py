"""L1, L2 and cosine distances between vectors of genes."""

from __future__ import annotations

import numpy as np


def distances_between(pred: np.ndarray, real: np.ndarray, kind: str) -> np.ndarray:
    """Return the distance of every predicted vector from every real vector.

    Parameters
    ----------
    pred, real
        [P, G] and [Q, G].
    kind
        ``l1``, ``l2`` or ``cosine``.

    Returns
    -------
    numpy.ndarray
        [P, Q]. The cosine distance of a zero vector is 1.
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
