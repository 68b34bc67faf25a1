"""The real cells of one test line, as every score of it sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from statetx.config import Evaluation
from statetx.core.errors import ResultsError, did_you_mean
from statetx.data.store.plan import Plan
from statetx.data.store.roles import control_rows
from statetx.data.store.store import LineStore, Store, thinned
from statetx.evaluation.scores.conditions import target_genes
from statetx.evaluation.scores.pseudobulk import Controls
from statetx.shared.expression import TARGET_SUM
from statetx.shared.seeds import generator

BLOCK = 4096
"""Cells that are read at once."""


@dataclass(frozen=True)
class HeldOutLine:
    """One line of a store, with the perturbations that a plan tests in it.

    Means of controls are over all of the line's controls; tests and distances compare with at most
    `max_cells` of them, and at most `max_cells` cells of a condition.

    Attributes
    ----------
    store, line
        Where the cells are.
    perturbations
        Tested perturbations, sorted.
    max_cells, seed
        Cap and seed of every draw.
    role, policy
        Whose controls: those of a role, where the plan partitions them (`control_runs`).
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
        """Open a line.

        Raises
        ------
        ResultsError
            The plan tests nothing in this line, or the line has no control cells.
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
        """Counts per cell after normalisation, which bound its log1p values."""
        return float(self.store.manifest.get("target_sum", TARGET_SUM))

    def rows(self, perturbation: str) -> np.ndarray:
        """Rows of a condition, at most `max_cells`: the ones that predictions stand for."""
        return self.line.rows(perturbation, self.max_cells, self.seed)

    def cells(self, perturbation: str) -> np.ndarray:
        """Real cells of a condition, float32 [n, G]."""
        return self.line.expression(self.rows(perturbation))

    def batches(self, rows: np.ndarray) -> np.ndarray:
        """Batch of each row."""
        return np.asarray(self.line.batches(rows)).astype(str)

    def identity(self, perturbation: str) -> tuple[str, float]:
        """Drug and dose of a condition (NaN: no dose)."""
        table = self.line.conditions
        row = table[table["perturbation"] == perturbation].iloc[0]
        dose = row["dose"]
        return str(row["drug"]), float("nan") if dose is None else float(dose)

    @cached_property
    def all_control_rows(self) -> np.ndarray:
        """Rows of all controls of the line that serve the role."""
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
        """All controls of the line, summed up per batch."""
        return self.sum_controls(self.all_control_rows)

    def sum_controls(self, rows: np.ndarray, chosen: frozenset[str] | None = None) -> Controls:
        """Sum up some control rows per batch, streamed; see `Controls` about `chosen`."""
        return Controls.from_blocks(self._blocks(rows), chosen)

    def _blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            yield self.line.expression(block), self.batches(block)

    @cached_property
    def excluded(self) -> np.ndarray | None:
        """Genes that the tested labels name, bool [G]; None when labels are no genes."""
        if not self.store.manifest.get("labels_are_genes"):
            return None
        return target_genes(self.perturbations, self.genes)

    def draw_controls(self, batches: np.ndarray, n: int, key: str) -> np.ndarray:
        """Draw `n` controls without replacement, from the given batches up to half of their controls.

        Parameters
        ----------
        batches
            Batch of each cell of the condition; `n` may be smaller.
        n
            How many; at most the number of controls. Other batches fill up.
        key
            Names the draw.
        """
        rng = generator("evaluation", self.seed, self.line.name, key)
        order = rng.permutation(len(self.all_control_rows))
        wanted = rng.permutation(batches)[:n]
        here = self.control_batches[order]
        taken = np.zeros(len(order), dtype=bool)
        for batch in sorted(set(wanted)):
            own = np.flatnonzero(here == batch)
            taken[own[: min(int((wanted == batch).sum()), len(own) // 2)]] = True
        free = np.flatnonzero(~taken)
        taken[free[: n - int(taken.sum())]] = True
        return np.sort(self.all_control_rows[order[taken]])

    def halves(self, rows: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Cut rows into two random disjoint halves of equal size, batch by batch as far as possible."""
        rng = generator("halves", self.seed, self.line.name, key)
        shuffled = rng.permutation(rows)
        # Dealt in turn after sorting by batch, both halves see the batches alike.
        dealt = shuffled[np.argsort(self.batches(shuffled), kind="stable")]
        half = len(rows) // 2
        return np.sort(dealt[0 : 2 * half : 2]), np.sort(dealt[1 : 2 * half : 2])
