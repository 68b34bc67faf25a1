"""Choose the controls that the cells of a condition are tested against: those of its batches.

A condition often lies on one plate. If it is tested against controls of all plates, genes that
differ between plates are significant too, and control cells of that plate change them in the right
direction. On simulated plates, unchanged control cells then had the right direction for 0.76 of the
significant genes instead of 0.5.
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
    """Control cells of one line, sorted once for each set of batches that conditions lie in.

    Parameters
    ----------
    held_out
        The line.
    among
        Control rows to choose from; None: all controls of the line. Which batches have enough
        controls is decided on the whole line, so that both halves of its controls use the same
        batches.
    """

    def __init__(self, held_out: HeldOutLine, among: np.ndarray | None = None) -> None:
        self._held_out, self._among = held_out, among
        self._sorted = lru_cache(maxsize=KEPT)(self._sort)

    def batches(self, cells: np.ndarray) -> tuple[str, ...]:
        """Return the batches whose controls are used, sorted; empty: all controls of the line.

        Parameters
        ----------
        cells
            [n], batch of each real cell of the condition. All controls are used if one of these
            batches has too few controls, or if all batches with controls are among them.
        """
        batches, controls = frozenset(map(str, cells)), self._held_out.controls
        if not batches <= controls.known or batches == controls.batches.keys():
            return ()
        return tuple(sorted(batches))

    def rows_for(self, cells: np.ndarray) -> np.ndarray:
        """Return the rows of the controls for cells of these batches, sorted.

        Parameters
        ----------
        cells
            [n], batch of each real cell of the condition.

        Returns
        -------
        numpy.ndarray
            int64, usually at most ``max_cells`` rows.
        """
        return self._rows(self.batches(cells))

    def for_batches(self, cells: np.ndarray) -> SortedControl:
        """Return the sorted controls for cells of these batches.

        It is `all_controls` itself where all controls are used.

        Parameters
        ----------
        cells
            [n], batch of each real cell of the condition.
        """
        batches = self.batches(cells)
        return self._sorted(batches) if batches else self.all_controls

    @cached_property
    def all_controls(self) -> SortedControl:
        """Sorted controls of all batches of the line, usually at most ``max_cells``."""
        return self._sort(())

    def _rows(self, batches: tuple[str, ...]) -> np.ndarray:
        held_out = self._held_out
        rows = held_out.all_control_rows if self._among is None else self._among
        if not batches:
            capped = rows[np.isin(rows, held_out.control_rows)]
            # `rows` contains none of the capped controls only if there are very few of those.
            return capped if len(capped) else rows
        rows = rows[np.isin(held_out.batches(rows), batches)]
        if len(rows) <= held_out.max_cells:
            return rows
        rng = generator("own controls", held_out.seed, held_out.line.name, *batches)
        return np.sort(rng.permutation(rows)[: held_out.max_cells])

    def _sort(self, batches: tuple[str, ...]) -> SortedControl:
        return SortedControl.from_cells(self._held_out.line.expression(self._rows(batches)))
