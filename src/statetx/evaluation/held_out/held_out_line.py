"""Real cells of one test line, as they are used for all its scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from statetx.config import Evaluation
from statetx.core.errors import ResultsError, did_you_mean
from statetx.data.store.line_store import LineStore, thinned
from statetx.data.store.plan import Plan
from statetx.data.store.roles import control_rows
from statetx.data.store.store import Store
from statetx.evaluation.scores.conditions import target_genes
from statetx.evaluation.scores.pseudobulk import Controls
from statetx.shared.expression import TARGET_SUM
from statetx.shared.seeds import generator

BLOCK = 4096
"""Number of cells that are read at once."""


@dataclass(frozen=True)
class HeldOutLine:
    """A cell line of a store, with the perturbations that a plan tests in it.

    Means of controls are over all controls of the line. Tests and distances use at most `max_cells`
    of them, and at most `max_cells` cells of a condition.

    Attributes
    ----------
    store, line
        The store, and its part for this line.
    perturbations
        Tested perturbations, sorted.
    max_cells, seed
        Cap and seed of all draws.
    role, policy
        Which controls are used: those of a role, if the plan partitions controls (`control_rows`).
    """

    store: Store
    line: LineStore
    perturbations: list[str]
    max_cells: int
    seed: int
    role: str = "test"
    policy: str = "shared"

    @classmethod
    def from_plan(cls, store: Store, plan: Plan, line: str, settings: Evaluation) -> HeldOutLine:
        """Open a line that a plan tests.

        Parameters
        ----------
        store, plan
            Store and plan.
        line
            Name of the line.
        settings
            ``max_cells`` and ``seed`` are used.

        Raises
        ------
        ResultsError
            The plan tests nothing in this line.
        """
        perturbations = plan.perturbations("test", line)
        if not perturbations:
            raise ResultsError(
                f"the plan tests nothing in cell line {line!r}",
                where=store.directory,
                fix=did_you_mean(line, plan.lines("test")),
            )
        cap, seed = settings.max_cells, settings.seed
        return cls(store, store.line(line), perturbations, cap, seed, "test", plan.controls)

    @property
    def genes(self) -> list[str]:
        """The G genes."""
        return self.store.genes

    @property
    def target_sum(self) -> float:
        """Counts per cell after normalisation, which limit its log1p values."""
        return float(self.store.manifest.get("target_sum", TARGET_SUM))

    def rows(self, perturbation: str) -> np.ndarray:
        """Return the rows of a condition, at most `max_cells`: the cells that models predict.

        Parameters
        ----------
        perturbation
            Label.
        """
        return self.line.rows(perturbation, self.max_cells, self.seed)

    def cells(self, perturbation: str) -> np.ndarray:
        """Read the real cells of a condition, float32 [n, G].

        Parameters
        ----------
        perturbation
            Label.
        """
        return self.line.expression(self.rows(perturbation))

    def batches(self, rows: np.ndarray) -> np.ndarray:
        """Return the batch of each row, str [n].

        Parameters
        ----------
        rows
            int64 [n].
        """
        return np.asarray(self.line.batches(rows)).astype(str)

    def identity(self, perturbation: str) -> tuple[str, float]:
        """Return drug and dose of a condition (NaN: no dose).

        Parameters
        ----------
        perturbation
            Label.
        """
        table = self.line.conditions
        row = table[table["perturbation"] == perturbation].iloc[0]
        dose = row["dose"]
        return str(row["drug"]), float("nan") if dose is None else float(dose)

    @cached_property
    def all_control_rows(self) -> np.ndarray:
        """Rows of all controls of the line that belong to the role."""
        return control_rows(self.line, self.store.control, self.role, self.policy)

    @cached_property
    def control_batches(self) -> np.ndarray:
        """Batch of each of `all_control_rows`."""
        return self.batches(self.all_control_rows)

    @cached_property
    def control_rows(self) -> np.ndarray:
        """Rows of the controls that cells are compared with, at most `max_cells`."""
        name = f"{self.line.name}\0{self.store.control}"
        return thinned(self.all_control_rows, name, self.max_cells, self.seed)

    @cached_property
    def control_cells(self) -> np.ndarray:
        """Cells of `control_rows`, float32 [m, G]."""
        return self.line.expression(self.control_rows)

    @cached_property
    def controls(self) -> Controls:
        """Summary of all controls of the line, per batch."""
        return self.sum_controls(self.all_control_rows)

    def sum_controls(self, rows: np.ndarray, chosen: frozenset[str] | None = None) -> Controls:
        """Summarise controls per batch, in blocks of `BLOCK` cells.

        Parameters
        ----------
        rows
            int64 [n], rows of controls.
        chosen
            As for `Controls`.
        """
        return Controls.from_blocks(self._blocks(rows), chosen)

    def _blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            yield self.line.expression(block), self.batches(block)

    @cached_property
    def excluded(self) -> np.ndarray | None:
        """Genes that the tested labels name, bool [G]; None if labels are not genes."""
        if not self.store.manifest.get("labels_are_genes"):
            return None
        return target_genes(self.perturbations, self.genes)

    def draw_controls(self, batches: np.ndarray, n: int, key: str) -> np.ndarray:
        """Draw `n` controls without replacement, from the given batches as far as possible.

        At most half of the controls of a batch are drawn for its cells. Other controls, of any
        batch, replace those that are missing.

        Parameters
        ----------
        batches
            [m], batch of each cell of the condition. If `n` < m, `n` of them are drawn.
        n
            Number of controls to draw; at most the number of all controls.
        key
            Part of the seed of the draw.
        """
        rng = generator("evaluation", self.seed, self.line.name, key)
        order = rng.permutation(len(self.all_control_rows))
        wanted = rng.permutation(batches)[:n]
        drawn_batches = self.control_batches[order]
        taken = np.zeros(len(order), dtype=bool)
        for batch in sorted(set(wanted)):
            in_batch = np.flatnonzero(drawn_batches == batch)
            taken[in_batch[: min(int((wanted == batch).sum()), len(in_batch) // 2)]] = True
        free = np.flatnonzero(~taken)
        taken[free[: n - int(taken.sum())]] = True
        return np.sort(self.all_control_rows[order[taken]])

    def halves(self, rows: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Split rows into two random disjoint halves of equal size with about the same batches.

        Parameters
        ----------
        rows
            int64 [n]; one row is left out if n is odd.
        key
            Part of the seed of the draw.
        """
        rng = generator("halves", self.seed, self.line.name, key)
        shuffled = rng.permutation(rows)
        # Sorted by batch and assigned in turn, rows of each batch are in both halves.
        by_batch = shuffled[np.argsort(self.batches(shuffled), kind="stable")]
        half = len(rows) // 2
        return np.sort(by_batch[0 : 2 * half : 2]), np.sort(by_batch[1 : 2 * half : 2])
