"""Correlations of two vectors."""

from __future__ import annotations

import numpy as np
import pandas as pd


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation, clipped to [-1, 1]; NaN when a side is constant."""
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    # A constant leaves rounding noise after centring, never an exact zero.
    norms = np.sqrt((x @ x) * (y @ y))
    if np.ptp(x) == 0 or np.ptp(y) == 0 or norms == 0:
        return float("nan")
    return float(np.clip((x @ y) / norms, -1.0, 1.0))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on, ties share their mean; scipy.stats would be half a second of every start."""
    return pd.Series(values).rank().to_numpy()


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman correlation with average ranks; NaN when a side is constant."""
    if len(x) < 2:
        return float("nan")
    return pearson(ranks(x), ranks(y))
