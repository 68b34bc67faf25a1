"""A small comparison with known answers, made of integer arithmetic: no random generator.

Six groups of cells, thirty genes, counts that are exponential in a 32-bit hash of (cell, gene,
side). Normalised to 10,000 per cell, ln(1 + x). The CSV files in `EXPECTED` hold what
cell-eval 0.8 gives for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

EXPECTED = Path(__file__).parent / "cell_eval"
"""Tables that cell-eval wrote of these cells."""
GENES = [f"g{i}" for i in range(30)]
GROUPS = {"ctrl": 60, "g3": 30, "g7": 25, "pA": 20, "pB": 35, "pC": 12}
RELABELLED = {"g3": "g7", "g7": "pA", "pA": "pB", "pB": "g3"}
"""Labels of a bad prediction: the right cells under the wrong names."""


def uniform(cell: np.ndarray, gene: np.ndarray, side: int) -> np.ndarray:
    """Hash of (cell, gene, side), as numbers in [0, 1)."""
    x = np.uint32(73856093) * cell.astype(np.uint32)
    x = x ^ (np.uint32(19349663) * gene.astype(np.uint32))
    x = x ^ np.uint32(83492791 * side & 0xFFFFFFFF)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return (x ^ (x >> np.uint32(16))) / 2.0**32


def folds(predicted: bool) -> np.ndarray:
    """Fold of every gene in every group: [6, 30]."""
    out = np.ones((len(GROUPS), len(GENES)))
    for i, group in enumerate(GROUPS):
        for g, gene in enumerate(GENES):
            if group in ("ctrl", "pC"):
                continue
            fold = 0.1 if group == gene else 0.3 if g % 7 == i else 3.0 if g % 5 == i % 5 else 1.0
            if predicted:
                fold = (fold * (1.5 if g % 5 == (i + 1) % 5 else 1.0)) ** 0.8
            out[i, g] = fold
    return out


def make(predicted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts [182, 30], log1p values [182, 30] and labels [182] of one side."""
    group = np.repeat(np.arange(len(GROUPS)), list(GROUPS.values()))
    within = np.concatenate([np.arange(n) for n in GROUPS.values()])
    cell, gene = np.meshgrid(np.arange(len(group)), np.arange(30), indexing="ij")
    u = uniform(cell, gene, 29 if predicted else 11)
    base = 1.0 + (np.arange(30) ** 2) % 17
    counts = np.floor(1.7 * (base * folds(predicted)[group] * -np.log(1.0 - u)))
    rare = (group == list(GROUPS).index("pA")) & (within < 8)
    counts[:, 29] = np.where(rare, np.floor(2.0 * u[:, 29] + 0.5), 0.0)
    counts[:, 0] += 1
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    return counts, values, np.array(list(GROUPS), dtype=object)[group]
