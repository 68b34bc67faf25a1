"""How strongly drugs act, measured in given lines: strata for splits, never of test cells."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from statetx.data.store.store import LineStore, Store

CELLS = 256
"""Cells read of a condition: the noise of the squared effect then is below 1 % of one SD per gene."""
NAMES = ("weak", "middle", "strong")


def effect_strata(store: Store, lines: Collection[str]) -> dict[str, str]:
    """Sort drugs into thirds by the strength of their effect in some lines.

    The strength of a condition is |mean(perturbed) - mean(control)|^2 over genes, log1p expression,
    less its expectation without an effect (the variances of both means): an unbiased estimate of the
    squared effect. A drug has the mean over its doses and lines.

    Parameters
    ----------
    store
        The packed data.
    lines
        Where effects are measured. A drug without cells there is ``unknown``.

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
            found = _moments(line, label)
            # The spread of one cell is not known: that of control cells stands in for it.
            own = found.spread if found.n > 1 else noise
            error = own / found.n + control.spread / control.n
            strength = float(((found.mean - control.mean) ** 2 - error).sum())
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
    """Return mean and variance of each gene over cells, float64 [G], and how many cells were read."""
    rows = line.rows(label)
    rows = rows[:: -(-len(rows) // CELLS)]  # evenly over batches; random inside each
    cells = line.expression(rows).astype(np.float64)
    spread = cells.var(axis=0, ddof=1) if len(rows) > 1 else np.zeros(cells.shape[1])
    return _Moments(cells.mean(axis=0), spread, len(rows))
