"""Pearson and Spearman correlation of two vectors."""

from __future__ import annotations

import numpy as np
import pandas as pd


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Return the Pearson correlation of two vectors.

    Parameters
    ----------
    x, y
        [n] each.

    Returns
    -------
    float
        In [-1, 1]; NaN for fewer than two values, non-finite values, or a constant vector.
    """
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    # A constant vector leaves rounding noise after centring, so its norm need not be exactly zero.
    norms = np.sqrt((x @ x) * (y @ y))
    if np.ptp(x) == 0 or np.ptp(y) == 0 or norms == 0:
        return float("nan")
    return float(np.clip((x @ y) / norms, -1.0, 1.0))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values [n], from 1 on; ties share their mean rank."""
    # Importing scipy.stats would add half a second to every start.
    return pd.Series(values).rank().to_numpy()


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return the Spearman correlation of two vectors, with average ranks for ties.

    Parameters
    ----------
    x, y
        [n] each.

    Returns
    -------
    float
        In [-1, 1]; NaN for fewer than two values or a constant vector.
    """
    if len(x) < 2:
        return float("nan")
    return pearson(ranks(x), ranks(y))
