"""Fit a baseline: pseudobulks of the training data, streamed."""

from __future__ import annotations

import importlib

import numpy as np

from statetx.config import Tracking
from statetx.data.store import LineStore
from statetx.models.deltas import Statistics
from statetx.training.fit import Places, Task, Trained

ROWS_AT_ONCE = 4096
"""Bounds the memory: 4096 cells of 20,000 genes are 330 MB as float32."""


def train(task: Task, keep: list[str], places: Places, tracking: Tracking) -> Trained:
    """Fit a model without steps; it has the checkpoint ``best`` only.

    Parameters
    ----------
    task
        Store, plan, settings.
    keep, places, tracking
        Of no use here: there are no steps, no state and no curves.
    """
    kind = importlib.import_module(f"statetx.models.{task.model.kind}")
    architecture, arrays = kind.fit(statistics(task))
    return Trained(
        architecture, {"best": arrays}, {"best": {"step": None, "why": "fitted without steps"}}
    )


def statistics(task: Task) -> Statistics:
    """Compute control pseudobulks of all lines and deltas of the training conditions."""
    store = task.store
    controls = {name: pseudobulk(store.line(name), store.control) for name in store.lines}
    conditions = task.plan.conditions("train")
    deltas = [pseudobulk(store.line(line), label) - controls[line] for line, label in conditions]
    means = np.stack([controls[name] for name in store.lines])
    return Statistics(store.lines, means, conditions, np.stack(deltas))


def pseudobulk(cells: LineStore, perturbation: str) -> np.ndarray:
    """Mean log1p expression of all cells of a condition, summed in float64, [G]."""
    rows = cells.rows(perturbation)
    total = np.zeros(0)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = cells.expression(rows[start : start + ROWS_AT_ONCE]).sum(axis=0, dtype=np.float64)
        total = part if not total.size else total + part
    return total / len(rows)
