"""Fit a baseline on pseudobulks of the training data, which are computed in chunks."""

from __future__ import annotations

import importlib

import numpy as np

from statetx.core.errors import ModelError
from statetx.data.store.line_store import LineStore
from statetx.data.store.roles import control_rows
from statetx.models.baselines.deltas import Statistics
from statetx.training.task import Task, Trained

ROWS_AT_ONCE = 4096
"""Number of cells that are read at once: 4096 cells of 20,000 genes take 330 MB as float32."""


def train(task: Task) -> Trained:
    """Fit a model without training steps, which has only the checkpoint ``best``.

    Parameters
    ----------
    task
        Store, plan and settings.

    Raises
    ------
    ModelError
        A line of the plan has no control cells for training.
    """
    kind = importlib.import_module(f"statetx.models.kinds.{task.model.kind}")
    settings = task.model.model_dump(exclude={"kind", "frozen"})
    architecture, arrays = kind.fit(statistics(task), **settings)
    return Trained(
        architecture, {"best": arrays}, {"best": {"step": None, "why": "fitted without steps"}}
    )


def statistics(task: Task) -> Statistics:
    """Compute control pseudobulks of all lines and deltas of the training conditions.

    Parameters
    ----------
    task
        Store and plan.

    Raises
    ------
    ModelError
        A line of the plan has no control cells for training.
    """
    store = task.store
    policy, planned = task.plan.controls, set(task.plan.table["line"])
    controls = {}
    for name in store.lines:
        rows = control_rows(store.line(name), store.control, "train", policy)
        if not rows.size and name not in planned:
            continue
        if not rows.size:
            raise ModelError(
                f"line {name!r} has no control cell for training: all its controls serve other "
                "roles",
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
    """Return the mean log1p expression of cells, float64 [G].

    Parameters
    ----------
    cells
        The line.
    rows
        Rows of the cells.
    """
    total = np.zeros(cells.width)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        total += cells.expression(rows[start : start + ROWS_AT_ONCE]).sum(axis=0, dtype=np.float64)
    return total / len(rows)
