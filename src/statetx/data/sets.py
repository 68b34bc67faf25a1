"""Sets of cells and their controls, drawn as a pure function of (seed, epoch, names).

A *set* is S cells of one condition (cell line, perturbation). Each epoch cuts every condition into
ceil(n / S) windows on a ring of its rows, so that every cell is visited, and the ring is new in each
epoch, so that membership changes: its rows are permuted where the condition is small enough to lie
in few pages anyhow (`PERMUTED_CELLS`); a larger one is only turned to another start, and its windows
are contiguous on disk. (Turning alone offers a condition of n cells no more than n different sets.)
A condition of fewer than S cells gives one set in which every cell is repeated as evenly as possible.

Every draw has its own counter-based generator, keyed by what is drawn: the result does not depend
on the order of draws, and hence not on threads, ranks, or the point at which a run was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from statetx.data.plan import Plan
from statetx.data.store import LineStore, Store
from statetx.errors import ResultsError, did_you_mean

PERMUTED_CELLS = 8192
"""Largest condition whose rows are permuted; at 1 KB per cell it spans 8 MB of the file."""


@dataclass(frozen=True)
class SetId:
    """One set of an epoch.

    Attributes
    ----------
    line, perturbation
        The condition; the control label for a set of control cells.
    window
        Which of the condition's windows.
    """

    line: str
    perturbation: str
    window: int


def generator(*key: object) -> np.random.Generator:
    """Return a generator that depends on nothing but `key` (numbers and strings)."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in key).encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


def conditions(store: Store, plan: Plan, role: str) -> list[tuple[str, str]]:
    """Return the (line, perturbation) pairs whose sets belong to a role.

    Training also reconstructs control cells, those of every line of the plan (controls are shared
    by all roles); validation does not.
    """
    pairs = plan.conditions(role)
    if role == "train" and pairs:
        lines = sorted(set(plan.table["line"]))
        pairs = sorted([*pairs, *((line, store.control) for line in lines)])
    return pairs


def n_windows(n_cells: int, cell_set_len: int) -> int:
    """Return the number of sets that a condition gives in an epoch."""
    return max(1, -(-n_cells // cell_set_len))


def epoch_plan(
    store: Store, pairs: Iterable[tuple[str, str]], cell_set_len: int, seed: int, epoch: int
) -> list[SetId]:
    """Return all sets of an epoch, in the order in which they are visited.

    Parameters
    ----------
    store
        Where the cells are.
    pairs
        (line, perturbation) of every condition that takes part, see `conditions`.
    cell_set_len
        Cells per set, S.
    seed, epoch
        The order is a function of both.
    """
    sets = []
    for line, perturbation in pairs:
        start, stop = store.line(line).run(perturbation)
        sets += [SetId(line, perturbation, w) for w in range(n_windows(stop - start, cell_set_len))]
    order = generator("order", seed, epoch).permutation(len(sets))
    return [sets[i] for i in order]


def set_rows(
    line: LineStore, chosen: SetId, cell_set_len: int, seed: int, epoch: int
) -> np.ndarray:
    """Return the S rows of a set (int64).

    Parameters
    ----------
    line
        The packed line of the set.
    chosen
        The set.
    cell_set_len
        Cells per set, S.
    seed, epoch
        Of the start of the condition's windows.
    """
    start, stop = line.run(chosen.perturbation)
    n = stop - start
    rng = generator("set", seed, epoch, chosen.line, chosen.perturbation)
    if n < cell_set_len:
        return start + _evenly(rng, n, cell_set_len)
    first = chosen.window * cell_set_len
    if n <= PERMUTED_CELLS:
        ring = rng.permutation(n)
        return start + np.sort(ring[np.arange(first, first + cell_set_len) % n])
    return start + (int(rng.integers(n)) + first + np.arange(cell_set_len)) % n


def _evenly(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """Draw `size` of `n`: without replacement while possible, then all again."""
    if size <= n:
        return rng.permutation(n)[:size]
    rounds = -(-size // n)
    return np.concatenate([rng.permutation(n) for _ in range(rounds)])[:size]


class ControlCells(Protocol):
    """What controls are drawn from: a packed line, or anything whose controls lie in runs."""

    name: str

    def run(self, perturbation: str, batch: str | None = None) -> tuple[int, int]:
        """Return the rows [start, stop) of a perturbation, in all batches or in one."""
        ...


def draw_controls(
    line: ControlCells, control: str, batches: np.ndarray, seed: int, name: object
) -> np.ndarray:
    """Draw one control cell of the line for every cell: of the same batch, else of any batch.

    Within a batch (and within the line, for cells whose batch has no control) cells are drawn
    without replacement until all were used, then again.

    Parameters
    ----------
    line
        The packed line, or any `ControlCells`.
    control
        Control label.
    batches
        Batch label of each cell [n].
    seed
        Seed of the draw.
    name
        Of what is drawn for, such as the perturbation and the set: equal names draw equally.

    Returns
    -------
    numpy.ndarray
        Row of each cell's control, int64 [n].

    Raises
    ------
    ResultsError
        The line has no control cell.
    """
    out = np.empty(len(batches), dtype=np.int64)
    levels = match_levels(line, control, batches)
    for batch in sorted(set(batches[levels == 0])):
        here = np.flatnonzero((batches == batch) & (levels == 0))
        start, stop = line.run(control, batch)
        rng = generator("control", seed, line.name, name, batch)
        out[here] = start + _evenly(rng, stop - start, len(here))
    rest = np.flatnonzero(levels == 1)
    if rest.size:
        start, stop = line.run(control)
        rng = generator("control", seed, line.name, name)
        out[rest] = start + _evenly(rng, stop - start, len(rest))
    return out


def match_levels(line: ControlCells, control: str, batches: np.ndarray) -> np.ndarray:
    """Return how each cell finds its control, int [n]: 0 = in its batch, 1 = in its line.

    Raises
    ------
    ResultsError
        The line has no control cell.
    """
    line.run(control)
    found = {}
    for batch in set(batches.tolist()):
        start, stop = line.run(control, batch)
        found[batch] = 0 if stop > start else 1
    return np.asarray([found[batch] for batch in batches.tolist()], dtype=np.int64)


def check_vocabulary(pairs: Iterable[tuple[str, str]], known: list[str]) -> None:
    """Refuse conditions whose perturbation has no id.

    Raises
    ------
    ResultsError
        A perturbation is not in `known`.
    """
    have = set(known)
    unknown = sorted({label for _, label in pairs if label not in have})
    if unknown:
        raise ResultsError(
            f"{len(unknown)} perturbations have no id, because no training condition has them: "
            f"{', '.join(repr(label) for label in unknown[:5])}",
            fix=f"use a split that trains on them in other lines; {did_you_mean(unknown[0], known)}",
        )
