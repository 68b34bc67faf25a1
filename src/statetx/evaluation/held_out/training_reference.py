"""What the training cells fix before any prediction is seen: a reference delta, kernel widths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from statetx.config import Evaluation
from statetx.data.store.plan import Plan
from statetx.data.store.roles import control_rows
from statetx.data.store.store import Store, thinned
from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.evaluation.scores.distances import gamma_grid, median_squared_distance
from statetx.shared.seeds import generator

SAMPLE = 500
"""Treated cells, and control cells, behind the kernel widths."""

OWN_LINE = "this cell line"
"""`MeanDelta.taken_from` of a line with training conditions of its own."""


def training_conditions(plan: Plan, line: str) -> tuple[list[tuple[str, str]], str]:
    """Training conditions of the line, or of all lines when it has none, and which it was."""
    every = plan.conditions("train")
    own = [pair for pair in every if pair[0] == line]
    return (own, OWN_LINE) if own else (every, "all training cell lines")


@dataclass(frozen=True)
class MeanDelta:
    """Mean delta of training conditions.

    Attributes
    ----------
    values
        float64 [G], unweighted mean over conditions of their deltas; None
        without training conditions.
    n_conditions
        How many.
    taken_from
        `OWN_LINE` or ``all training cell lines``.
    """

    values: np.ndarray | None
    n_conditions: int
    taken_from: str


def mean_training_delta(store: Store, plan: Plan, line: str, settings: Evaluation) -> MeanDelta:
    """Compute the reference of ``pearson_delta_perturbed``.

    Every condition counts once, with at most ``max_cells`` cells. A line without training
    conditions takes those of all lines.
    """
    pairs, taken_from = training_conditions(plan, line)
    total, scenes = np.zeros(len(store.genes)), dict[str, HeldOutLine]()
    for name, perturbation in pairs:
        if name not in scenes:
            # Controls of one line at a time: they are the larger part of the memory.
            cap, seed = settings.max_cells, settings.seed
            scenes = {
                name: HeldOutLine(store, store.line(name), [], cap, seed, "train", plan.controls)
            }
        held_out = scenes[name]
        mean = held_out.cells(perturbation).mean(axis=0, dtype=np.float64)
        total += held_out.controls.delta(mean)
    return MeanDelta(total / len(pairs) if pairs else None, len(pairs), taken_from)


@dataclass(frozen=True)
class Bandwidths:
    """Kernel widths of the MMD.

    Attributes
    ----------
    median
        Median squared distance between training cells, treated and control.
    gammas
        2^j / median, j = -2 ... 2.
    n_cells
        Number of cells behind the median.
    taken_from
        Which cells.
    """

    median: float
    gammas: list[float]
    n_cells: int
    taken_from: str


def bandwidths(store: Store, plan: Plan, line: str, seed: int) -> Bandwidths:
    """Choose kernel widths from real training cells alone, so that all models get the same.

    Half of the (at most 1,000) cells are treated, half are controls of the same lines; without
    training conditions, all are controls of the line.
    """
    pairs, taken_from = training_conditions(plan, line)
    rng = generator("bandwidths", seed, line)
    treated = [pairs[i] for i in np.sort(rng.permutation(len(pairs))[:SAMPLE])]
    lines = sorted({name for name, _ in treated}) or [line]
    wanted = [(*pair, -(-SAMPLE // len(treated))) for pair in treated]
    wanted += [(name, store.control, -(-SAMPLE // len(lines))) for name in lines]
    parts = []
    for name, perturbation, n in wanted:
        cells = store.line(name)
        chosen = cells.rows(perturbation)
        if perturbation == store.control:
            role = "train" if pairs else "test"
            chosen = control_rows(cells, perturbation, role, plan.controls)
        chosen = thinned(chosen, f"{name}\0{perturbation}", n, seed)
        parts.append(cells.expression(chosen))
    sample = np.concatenate(parts)
    median = median_squared_distance(sample)
    source = f"treated and control cells of {taken_from}" if pairs else "controls of the line"
    return Bandwidths(median, gamma_grid(median), len(sample), source)
