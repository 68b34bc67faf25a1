"""Made cells with many zeros and ties, for tests of ranks."""

from __future__ import annotations

import numpy as np


def cells(n: int, genes: int, seed: int, signed: bool = False) -> np.ndarray:
    """Values with many zeros and many ties; the last genes are all zero and constant."""
    generator = np.random.default_rng(seed)
    values = np.log1p(generator.poisson(0.8, (n, genes)).astype(float))
    values[:, 0] = generator.normal(size=n)  # no ties at all
    if signed:
        values[:, 1:5] -= np.log(2)
    else:
        values[:, 0] = np.abs(values[:, 0])
    values[:, -2] = 0.0
    values[:, -1] = 1.5
    return values
