"""The controls that a condition's cells are tested against: those of its own batches.

A condition often lies on one plate. Tested against controls of all plates, its significant genes
are also the plate's, and control cells of that plate move them the right way: on simulated plates
doing nothing then moved 0.76 of the significant genes the right way instead of 0.5.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.shared.seeds import generator

KEPT = 16
"""Sets of batches whose sorted controls stay in memory: 24 MB each for 1,500 x 2,000 values."""


class BatchControls:
    """Control cells of one line, sorted once for every set of batches that conditions lie in.

    Parameters
    ----------
    scene
        The line.
    among
        Control rows to choose from; all of the line by default. Batches are chosen on the whole
        line, so that halves of the controls stand for the same batches.
    """

    def __init__(self, held_out: HeldOutLine, among: np.ndarray | None = None) -> None:
        self._held_out, self._among = held_out, among
        self._sorted = lru_cache(maxsize=KEPT)(self._sort)

    def batches(self, cells: np.ndarray) -> tuple[str, ...]:
        """Batches whose controls serve, sorted; empty: all the line's controls.

        Parameters
        ----------
        cells
            Batch of each real cell of the condition. All controls serve if one of these batches
            has too few of its own, or if there are no others.
        """
        batches, controls = frozenset(map(str, cells)), self._held_out.controls
        if not batches <= controls.known or batches == controls.batches.keys():
            return ()
        return tuple(sorted(batches))

    def rows_for(self, cells: np.ndarray) -> np.ndarray:
        """Rows of the controls for cells of these batches, sorted, at most ``max_cells``."""
        return self._rows(self.batches(cells))

    def for_batches(self, cells: np.ndarray) -> SortedControl:
        """The controls for cells of these batches, `all_controls` itself where all controls serve."""
        batches = self.batches(cells)
        return self._sorted(batches) if batches else self.all_controls

    @cached_property
    def all_controls(self) -> SortedControl:
        """All the line's controls, at most ``max_cells``."""
        return self._sort(())

    def _rows(self, batches: tuple[str, ...]) -> np.ndarray:
        held_out = self._held_out
        rows = held_out.all_control_rows if self._among is None else self._among
        if not batches:
            few = rows[np.isin(rows, held_out.control_rows)]
            # The capped controls may all lie elsewhere only if there are a handful of them.
            return few if len(few) else rows
        rows = rows[np.isin(held_out.batches(rows), batches)]
        if len(rows) <= held_out.max_cells:
            return rows
        rng = generator("own controls", held_out.seed, held_out.line.name, *batches)
        return np.sort(rng.permutation(rows)[: held_out.max_cells])

    def _sort(self, batches: tuple[str, ...]) -> SortedControl:
        return SortedControl.from_cells(self._held_out.line.expression(self._rows(batches)))
