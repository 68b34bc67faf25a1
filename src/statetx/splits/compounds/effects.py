"""Strata of drugs by the strength of their effect in given lines, for splits."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from statetx.data.store.line_store import LineStore
from statetx.data.store.store import Store

CELLS = 256
"""Most cells read of a condition: the squared effect then has noise below 1 % of an SD per gene."""
NAMES = ("weak", "middle", "strong")


def effect_strata(store: Store, lines: Collection[str]) -> dict[str, str]:
    """Sort drugs into thirds by the strength of their effect in some lines.

    The strength of a condition is an unbiased estimate of the squared effect on log1p expression.
    It is |mean(perturbed) - mean(control)|^2 over genes, minus its expectation without an effect
    (the variances of both means). The strength of a drug is the mean over its doses and lines.

    Parameters
    ----------
    store
        The packed data.
    lines
        Lines in which effects are measured. A drug without cells in these lines is ``unknown``.

    Returns
    -------
    dict
        ``weak``, ``middle``, ``strong`` or ``unknown`` by drug.
    """
    sums: dict[str, list[float]] = {}
    for name in sorted(lines):
        line = store.line(name)
        control = _moments(line, store.control)
        noise = control.spread
        table = line.conditions.loc[~line.conditions["is_control"].astype(bool)]
        for label, drug in table.drop_duplicates("perturbation")[
            ["perturbation", "drug"]
        ].itertuples(index=False):
            treated = _moments(line, label)
            # A single cell has no variance: the variance of the control cells is used instead.
            spread = treated.spread if treated.n > 1 else noise
            error = spread / treated.n + control.spread / control.n
            strength = float(((treated.mean - control.mean) ** 2 - error).sum())
            sums.setdefault(drug, []).append(strength)
    ranked = sorted(sums, key=lambda drug: (float(np.mean(sums[drug])), drug))
    thirds = np.array_split(np.array(ranked, dtype=object), 3)
    strata = {drug: name for name, part in zip(NAMES, thirds, strict=True) for drug in part}
    every = store.conditions.loc[~store.conditions["is_control"].astype(bool), "drug"].unique()
    return {drug: strata.get(drug, "unknown") for drug in every}


class _Moments(NamedTuple):
    mean: np.ndarray
    spread: np.ndarray
    n: int


def _moments(line: LineStore, label: str) -> _Moments:
    """Return mean and variance of each gene over cells, float64 [G], and the number of cells."""
    rows = line.rows(label)
    rows = rows[
        :: -(-len(rows) // CELLS)
    ]  # evenly over batches; rows in a batch are in random order
    cells = line.expression(rows).astype(np.float64)
    spread = cells.var(axis=0, ddof=1) if len(rows) > 1 else np.zeros(cells.shape[1])
    return _Moments(cells.mean(axis=0), spread, len(rows))
