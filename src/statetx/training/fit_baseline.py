"""Fit a baseline: pseudobulks of the training data, streamed."""

from __future__ import annotations

import importlib

import numpy as np

from statetx.core.errors import ModelError
from statetx.data.store.roles import control_rows
from statetx.data.store.store import LineStore
from statetx.models.baselines.deltas import Statistics
from statetx.training.task import Task, Trained

ROWS_AT_ONCE = 4096
"""Bounds the memory: 4096 cells of 20,000 genes are 330 MB as float32."""


def train(task: Task) -> Trained:
    """Fit a model without steps; it has the checkpoint ``best`` only.

    Parameters
    ----------
    task
        Store, plan, settings.
    """
    kind = importlib.import_module(f"statetx.models.kinds.{task.model.kind}")
    settings = task.model.model_dump(exclude={"kind", "frozen"})
    architecture, arrays = kind.fit(statistics(task), **settings)
    return Trained(
        architecture, {"best": arrays}, {"best": {"step": None, "why": "fitted without steps"}}
    )


def statistics(task: Task) -> Statistics:
    """Compute control pseudobulks of all lines and deltas of the training conditions."""
    store = task.store
    policy, planned = task.plan.controls, set(task.plan.table["line"])
    controls = {}
    for name in store.lines:
        rows = control_rows(store.line(name), store.control, "train", policy)
        if not rows.size and name not in planned:
            continue
        if not rows.size:
            raise ModelError(
                f"line {name!r} has no control cell for training: all of its few controls serve the "
                "other roles",
                fix="use `controls: shared` in the split, or leave the line out",
            )
        controls[name] = pseudobulk(store.line(name), rows)
    lines = list(controls)
    means = np.stack([controls[name] for name in lines])
    conditions = task.plan.conditions("train")
    deltas = np.empty((len(conditions), means.shape[1]), dtype=np.float32)
    for row, (name, label) in zip(deltas, conditions, strict=True):
        line = store.line(name)
        row[:] = pseudobulk(line, line.rows(label)) - controls[name]
    return Statistics(lines, means, conditions, deltas, store.reading)


def pseudobulk(cells: LineStore, rows: np.ndarray) -> np.ndarray:
    """Mean log1p expression of cells, summed in float64, [G]."""
    total = np.zeros(cells.width)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        total += cells.expression(rows[start : start + ROWS_AT_ONCE]).sum(axis=0, dtype=np.float64)
    return total / len(rows)
