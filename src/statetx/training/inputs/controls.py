"""Summary of training controls for the model directory, with which `infer` compares its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statetx.data.store.roles import control_rows

if TYPE_CHECKING:  # `statetx.training.fit`, which serves all kinds, imports this module
    from statetx.training.task import Task

CELLS_PER_LINE = 256
"""Most controls that are read per line, enough for a mean and for shares.

Without this limit, a training on 50 lines of 20,000 genes would read its data twice.
"""


def control_summary(task: Task) -> tuple[np.ndarray, dict[str, Any]]:
    """Summarise up to `CELLS_PER_LINE` training controls of every training line.

    Parameters
    ----------
    task
        Store and plan.

    Returns
    -------
    numpy.ndarray
        Mean log1p expression with equal weight for each line, float32 [G].
    dict
        ``cells``: number of cells. ``genes``: number of genes of the data set, over which totals
        are counted. ``share``: share of a cell's target sum in the genes of the model, as the 1 %,
        50 %, 99 % and 100 % quantile over cells; 1 if the model works in all genes.
    """
    store, means, shares = task.store, [], []
    for name in task.plan.lines("train"):
        line = store.line(name)
        rows = control_rows(line, store.control, "train", task.plan.controls)
        if not rows.size:
            continue
        some = np.unique(np.linspace(0, len(rows) - 1, CELLS_PER_LINE).astype(np.int64))
        cells = line.expression(rows[some])
        means.append(cells.mean(axis=0, dtype=np.float64))
        sums = np.expm1(cells, dtype=np.float64).sum(axis=1)
        shares.append(sums[sums > 0] / float(store.manifest["target_sum"]))
    all_shares = np.concatenate(shares)
    quantiles = np.quantile(all_shares, (0.01, 0.5, 0.99, 1.0)) if all_shares.size else np.ones(4)
    return np.mean(means, axis=0).astype(np.float32), {
        "cells": len(all_shares),
        "genes": len(store.manifest["genes"]),
        "share": [float(f"{share:.6g}") for share in quantiles],
    }
