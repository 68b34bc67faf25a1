"""Sets of cells and their controls, drawn as a pure function of (seed, epoch, names).

A *set* is S cells of one condition: cell line and perturbation, and the batch too if the settings
say so. Each epoch lays the cells of a condition on a ring with a new start and cuts it into
windows. Every cell is visited, and the members of a set change. The cells of `mix_windows`
neighbouring windows are shuffled together; apart from that, a window is contiguous on disk.

This module builds the table of conditions. `statetx.data.sets.draws` holds the compiled draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from statetx.config import Sets
from statetx.core.errors import ResultsError, did_you_mean
from statetx.data.sets import draws
from statetx.data.sets.control_matching import Pools, no_control
from statetx.data.store.plan import Plan
from statetx.data.store.roles import conditions, control_runs
from statetx.data.store.store import Store
from statetx.shared.seeds import generator


@dataclass(frozen=True)
class Drawn:
    """The sets of a batch.

    Attributes
    ----------
    condition
        Index into `SetTable.conditions`, int64 [B].
    rows
        Row of each cell in the store of its line, int64 [B, S].
    controls
        Row of each cell's control in the store of its line, int64 [B, S].
    length
        Cells of each set, int64 [B]; less than S only with ``short: mask``. The remaining entries
        of `rows` and `controls` repeat the first one.
    """

    condition: np.ndarray
    rows: np.ndarray
    controls: np.ndarray
    length: np.ndarray


class SetTable:
    """Table of the conditions of one role, from which its sets are drawn.

    Parameters
    ----------
    store
        The packed cells.
    plan
        Roles of the conditions.
    role
        ``train``, ``val`` or ``test``.
    cell_set_len
        Cells per set, S.
    settings
        How sets are drawn.
    by_batch
        Levels of control matching, see `control_matching.Pools`.
    seed
        Seed of all draws.

    Attributes
    ----------
    conditions
        One row per condition that gives sets: ``line, perturbation, batch`` (None: all batches),
        ``n_cells, windows``.
    left_out
        Number of conditions with fewer than S cells, which give no set with ``short: drop``.
    n_sets
        Sets per epoch, the same in all epochs.
    batches
        Sorted batches of the cells that sets are drawn from (not of their controls).

    Raises
    ------
    ResultsError
        A condition is not in the store, or no control matches some cells.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        role: str,
        cell_set_len: int,
        settings: Sets | None = None,
        by_batch: Sequence[bool] = (True, False),
        seed: int = 0,
    ) -> None:
        self.settings = settings or Sets()
        self.cell_set_len, self.seed = cell_set_len, seed
        pairs = conditions(store, plan, role, self.settings.control_sets)
        blocks = self._blocks(store, plan, role, pairs)
        self.pools = Pools(by_batch)
        self._coverage = np.zeros(len(self.pools.by_batch), dtype=np.int64)
        blocks["pool"] = self._pools(store, plan, role, blocks)
        keys = ["line", "perturbation"] + (["batch"] if self.settings.within_batch else [])
        blocks = blocks.sort_values([*keys, "row_start"], ignore_index=True)
        first = (blocks[keys] != blocks[keys].shift()).any(axis=1).to_numpy()
        group = np.cumsum(first) - 1
        n_cells = np.bincount(group, weights=blocks["n_cells"]).astype(np.int64)
        table = blocks.loc[first, keys].reset_index(drop=True)
        if "batch" not in table:
            table["batch"] = None
        table["n_cells"] = n_cells
        windows = -(-n_cells // cell_set_len)
        if self.settings.short == "drop":
            windows = n_cells // cell_set_len
        table["windows"] = windows
        kept = windows > 0
        self.left_out = int((~kept).sum())
        self.conditions = table[kept].reset_index(drop=True)
        blocks = blocks[kept[group]]
        self.batches = sorted(blocks["batch"].astype(str).unique())
        self._drawn_from = _arrays(blocks, self.conditions, store.control, self.settings)
        self._control_runs = self.pools.runs()
        self.n_sets = int(self.conditions["windows"].sum())

    def _blocks(
        self, store: Store, plan: Plan, role: str, pairs: list[tuple[str, str]]
    ) -> pd.DataFrame:
        """Return one row per run of rows of a condition and batch.

        With ``controls: partition``, runs of controls are cut to the share of the role.
        """
        wanted = pd.DataFrame(pairs, columns=["line", "perturbation"])
        columns = ["line", "perturbation", "batch", "row_start", "n_cells"]
        blocks = wanted.merge(store.conditions[columns], on=["line", "perturbation"], how="left")
        missing = blocks["n_cells"].isna()
        if missing.any():
            line, label = blocks.loc[missing, ["line", "perturbation"]].iloc[0]
            store.line(line).run(label)  # raises an error that suggests the nearest name
        blocks = blocks.astype({"row_start": np.int64, "n_cells": np.int64})
        if plan.controls == "partition":
            control = np.flatnonzero(blocks["perturbation"] == store.control)
            lines = blocks.loc[control, "line"]
            runs = {name: self._runs(store, plan, role, name) for name in lines.unique()}
            keys = zip(lines, blocks.loc[control, "batch"].astype(str), strict=True)
            spans = np.asarray([runs[name][batch] for name, batch in keys]).reshape(-1, 2)
            blocks.loc[control, "row_start"] = spans[:, 0]
            blocks.loc[control, "n_cells"] = spans[:, 1] - spans[:, 0]
            blocks = blocks[blocks["n_cells"] > 0].reset_index(drop=True)
        return blocks

    @staticmethod
    def _runs(store: Store, plan: Plan, role: str, line: str) -> dict[str, tuple[int, int]]:
        return control_runs(store.line(line), store.control, role, plan.controls)

    def _pools(self, store: Store, plan: Plan, role: str, blocks: pd.DataFrame) -> np.ndarray:
        """Return the control pool of every block, int64 [K], and count the cells per level."""
        pools = np.empty(len(blocks), dtype=np.int64)
        runs = {line: self._runs(store, plan, role, line) for line in blocks["line"].unique()}
        known: dict[tuple[str, str], tuple[int, int]] = {}
        columns = blocks[["line", "batch", "n_cells"]].itertuples(index=False)
        for i, (line, batch, n) in enumerate(columns):
            if (line, batch) not in known:
                pool = self.pools.find(line, runs[line], str(batch))
                if pool is None:
                    raise no_control(line, str(batch), self.pools.by_batch)
                known[line, batch] = pool
            pools[i], level = known[line, batch]
            self._coverage[level] += n
        return pools

    def coverage(self) -> list[dict[str, Any]]:
        """Return how many cells each level of control matching serves: ``level, cells, share``."""
        total = max(1, int(self._coverage.sum()))
        names = ["line and batch" if level else "line" for level in self.pools.by_batch]
        return [
            {"level": name, "cells": int(n), "share": int(n) / total}
            for name, n in zip(names, self._coverage, strict=True)
        ]

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return condition and window of all sets of an epoch, in their order, int64 [n_sets]."""
        windows = self.conditions["windows"].to_numpy()
        if self.settings.weights != "size":
            size = self.conditions["n_cells"].to_numpy().astype(np.float64)
            weight = np.sqrt(size) if self.settings.weights == "sqrt" else np.ones(len(size))
            ends = np.cumsum(weight) * (self.n_sets / weight.sum())
            ends[-1] = self.n_sets
            # Systematic sampling: a condition gets its expected number of sets, rounded up or down,
            # and all epochs have the same total.
            offset = generator("weights", self.seed, number).random()
            windows = np.diff(np.floor(np.r_[0.0, ends] + offset)).astype(np.int64)
        condition = np.repeat(np.arange(len(windows)), windows)
        first = np.repeat(np.cumsum(windows) - windows, windows)
        order = generator("order", self.seed, number).permutation(len(condition))
        return condition[order], (np.arange(len(condition)) - first)[order]

    def draw(self, condition: np.ndarray, window: np.ndarray, epoch: int) -> Drawn:
        """Draw sets as a pure function of (seed, epoch, condition, window).

        Parameters
        ----------
        condition
            Index into `conditions`, [B].
        window
            Window of the condition, [B].
        epoch
            Number of the epoch.
        """
        shape = (len(condition), self.cell_set_len)
        drawn = Drawn(
            np.asarray(condition, dtype=np.int64),
            np.empty(shape, dtype=np.int64),
            np.empty(shape, dtype=np.int64),
            np.empty(len(condition), dtype=np.int64),
        )
        draws.draw_sets(
            drawn.condition,
            np.asarray(window, dtype=np.int64),
            self._drawn_from,
            self._control_runs,
            seed=self.seed,
            epoch=epoch,
            mix=self.settings.mix_windows,
            wrap=self.settings.short != "mask",
            paired=self.settings.controls == "paired",
            rows=drawn.rows,
            basal=drawn.controls,
            length=drawn.length,
        )
        return drawn


def _arrays(
    blocks: pd.DataFrame, table: pd.DataFrame, control: str, settings: Sets
) -> draws.Conditions:
    """Return conditions (C rows of `table`) and blocks (K rows) as arrays."""
    names = table[["line", "perturbation", "batch"]].itertuples(index=False)
    keys = np.asarray([draws.name_key("set", *name) for name in names], dtype=np.uint64)
    n_cells, sizes = table["n_cells"].to_numpy(), blocks["n_cells"].to_numpy()
    # Blocks are sorted like the conditions, so every condition starts at a block. Both starts count
    # the cells of all conditions before.
    starts = np.cumsum(n_cells) - n_cells  # [C]
    block_starts = np.cumsum(sizes) - sizes  # [K]
    first = np.r_[np.searchsorted(block_starts, starts), len(blocks)]  # [C + 1]
    is_control = (table["perturbation"] == control).to_numpy()
    return draws.Conditions(
        keys=keys,
        n_cells=np.asarray(n_cells, dtype=np.int64),
        windows=table["windows"].to_numpy(dtype=np.int64),
        identity=is_control & (settings.control_sets == "identity"),
        first_block=first.astype(np.int64),
        block_row=blocks["row_start"].to_numpy(dtype=np.int64),
        block_before=(block_starts - np.repeat(starts, np.diff(first))).astype(np.int64),
        block_pool=blocks["pool"].to_numpy(dtype=np.int64),
    )


def check_vocabulary(labels: Iterable[str], known: list[str], what: str = "perturbations") -> None:
    """Check that perturbations, or batches, have an id.

    Parameters
    ----------
    labels
        Labels of the sets.
    known
        Labels that have an id.
    what
        Kind of the labels, for the message.

    Raises
    ------
    ResultsError
        A label is not in `known`.
    """
    unknown = sorted(set(labels) - set(known))
    if unknown:
        raise ResultsError(
            f"{len(unknown)} {what} have no id, because no training condition has them: "
            f"{', '.join(repr(label) for label in unknown[:5])}",
            fix=f"use a split that trains on them in other lines; {did_you_mean(unknown[0], known)}",
        )
