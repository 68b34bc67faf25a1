"""Cells of a role: its conditions, and the controls of each line that serve the role.

This module does not import the sampler, so a change of the sampler makes no genes or scores stale.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from statetx.data.store.line_store import LineStore
from statetx.data.store.plan import Plan
from statetx.data.store.store import Store

Runs = Mapping[str, tuple[int, int]]
"""Rows [start, stop) of the controls of a line, by batch."""

CUTS = (0.8, 0.9)
"""Ends of the shares of training and validation with ``controls: partition``; test has the rest."""


def control_runs(
    line: LineStore, control: str, role: str, policy: str
) -> dict[str, tuple[int, int]]:
    """Return the controls of a line that serve a role, by batch.

    The rows of a batch are in random order, so the first 80 % are a random sample.

    Parameters
    ----------
    line
        The packed line.
    control
        Control label.
    role
        ``train``, ``val`` or ``test``.
    policy
        ``shared``: all controls serve all roles; ``partition``: each serves one.

    Raises
    ------
    ResultsError
        The line has no control cell.
    """
    line.run(control)
    table = line.conditions[line.conditions["perturbation"] == control].sort_values("row_start")
    sizes = table["n_cells"].to_numpy(dtype=np.int64)
    first, last = shares(sizes, role) if policy == "partition" else (np.zeros_like(sizes), sizes)
    starts = table["row_start"].to_numpy(dtype=np.int64)
    spans = zip((starts + first).tolist(), (starts + last).tolist(), strict=True)
    return dict(zip(table["batch"].astype(str), spans, strict=True))


def control_rows(line: LineStore, control: str, role: str, policy: str) -> np.ndarray:
    """Return the sorted rows of the controls of a line that serve a role, see `control_runs`."""
    if policy == "shared":
        return line.rows(control)
    runs = control_runs(line, control, role, policy).values()
    return np.concatenate([np.arange(start, stop) for start, stop in runs])


def shares(sizes: np.ndarray, role: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which controls [first, last) of each batch of a line serve a role, int64 [batches].

    The cuts are rounded over the whole line. Rounding in each batch would leave nothing for
    validation if a line had ten batches of four controls.

    Parameters
    ----------
    sizes
        Controls of each batch, int64 [batches].
    role
        ``train``, ``val`` or ``test``.
    """
    ends = np.cumsum(sizes)
    cut = [np.diff(np.floor(np.r_[0, ends] * part)).astype(np.int64) for part in CUTS]
    train, val = cut[0], np.maximum(cut[0], cut[1])
    return {"train": (0 * sizes, train), "val": (train, val), "test": (val, sizes)}[role]


def conditions(
    store: Store, plan: Plan, role: str, control_sets: str = "drawn"
) -> list[tuple[str, str]]:
    """Return the (line, perturbation) pairs whose sets belong to a role.

    Training also has sets of control cells, from every line of the plan, unless `control_sets` is
    ``none``.

    Parameters
    ----------
    store
        The packed cells.
    plan
        Roles of the conditions.
    role
        ``train``, ``val`` or ``test``.
    control_sets
        Setting of the same name.
    """
    pairs = plan.conditions(role)
    if role == "train" and pairs and control_sets != "none":
        lines = sorted(set(plan.table["line"]))
        pairs = sorted([*pairs, *((line, store.control) for line in lines)])
    return pairs
