"""Mean training delta and kernel widths, computed from training cells only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from statetx.config import Evaluation
from statetx.data.store.line_store import thinned
from statetx.data.store.plan import Plan
from statetx.data.store.roles import control_rows
from statetx.data.store.store import Store
from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.evaluation.scores.energy_and_mmd import gamma_grid, median_squared_distance
from statetx.shared.seeds import generator

SAMPLE = 500
"""Number of treated cells, and of control cells, from which kernel widths are computed."""

OWN_LINE = "this cell line"
"""`MeanDelta.taken_from` of a line that has training conditions."""


def training_conditions(plan: Plan, line: str) -> tuple[list[tuple[str, str]], str]:
    """Return the training conditions of a line, or of all lines if it has none.

    Parameters
    ----------
    plan
        The plan.
    line
        Name of the line.

    Returns
    -------
    conditions
        (line, perturbation) of each.
    taken_from
        `OWN_LINE` or ``all training cell lines``.
    """
    every = plan.conditions("train")
    of_line = [pair for pair in every if pair[0] == line]
    return (of_line, OWN_LINE) if of_line else (every, "all training cell lines")


@dataclass(frozen=True)
class MeanDelta:
    """Mean delta of training conditions.

    Attributes
    ----------
    values
        float64 [G], unweighted mean of the deltas of the conditions; None without training
        conditions.
    n_conditions
        Number of conditions.
    taken_from
        `OWN_LINE` or ``all training cell lines``.
    """

    values: np.ndarray | None
    n_conditions: int
    taken_from: str


def mean_training_delta(store: Store, plan: Plan, line: str, settings: Evaluation) -> MeanDelta:
    """Compute the reference of ``pearson_delta_perturbed``.

    Each condition has the same weight and contributes at most ``max_cells`` cells. A line without
    training conditions takes those of all lines.

    Parameters
    ----------
    store, plan
        Store and plan.
    line
        Name of the line.
    settings
        ``max_cells`` and ``seed`` are used.
    """
    pairs, taken_from = training_conditions(plan, line)
    total, opened = np.zeros(len(store.genes)), dict[str, HeldOutLine]()
    for name, perturbation in pairs:
        if name not in opened:
            # Only one line is kept: its controls take most of the memory.
            cap, seed = settings.max_cells, settings.seed
            opened = {
                name: HeldOutLine(store, store.line(name), [], cap, seed, "train", plan.controls)
            }
        held_out = opened[name]
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
        Number of cells from which the median is computed.
    taken_from
        Description of these cells.
    """

    median: float
    gammas: list[float]
    n_cells: int
    taken_from: str


def bandwidths(store: Store, plan: Plan, line: str, seed: int) -> Bandwidths:
    """Choose kernel widths from real training cells only, so that all models get the same widths.

    About 500 of the cells are treated, and about 500 are controls of the same lines. Without
    training conditions all of them are controls of the line.

    Parameters
    ----------
    store, plan
        Store and plan.
    line
        Name of the line.
    seed
        Seed of the draws.
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
