"""Training statistics of the baselines, and the models that move control cells by a delta."""

from __future__ import annotations

import copy
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from statetx.models.predictor import Predicted
from statetx.shared.labels import WITH_DOSES, Reading
from statetx.shared.moved_cells import expressed_in, move


@dataclass(frozen=True)
class Statistics:
    """Pseudobulks of the training data.

    Attributes
    ----------
    lines
        All cell lines, sorted, with lines that are only tested: their controls are used too.
    control_means
        Mean expression of each line's control cells, float64 [lines, G].
    conditions
        The training conditions, as (line, perturbation).
    deltas
        Condition pseudobulk minus the control pseudobulk of its line, float32 [conditions, G]:
        456 MB for 57,000 conditions x 2,000 genes. Sums over deltas are float64.
    reading
        How perturbation labels are read.
    """

    lines: list[str]
    control_means: np.ndarray
    conditions: list[tuple[str, str]]
    deltas: np.ndarray
    reading: Reading = WITH_DOSES

    def mean_delta(self) -> np.ndarray:
        """Return the unweighted mean delta of all training conditions, [G]."""
        return self.deltas.mean(axis=0, dtype=np.float64)

    def codes(self, position: int) -> tuple[list[str], np.ndarray]:
        """Return sorted training lines or perturbations, and the index of each condition.

        Parameters
        ----------
        position
            0 for lines, 1 for perturbations.

        Returns
        -------
        list of str
            Names.
        numpy.ndarray
            Index of each condition's name, [conditions].
        """
        names = sorted({condition[position] for condition in self.conditions})
        number = {name: i for i, name in enumerate(names)}
        return names, np.array([number[condition[position]] for condition in self.conditions])

    def mean_deltas_by(self, position: int) -> tuple[list[str], np.ndarray]:
        """Return names and unweighted mean deltas per line (position 0) or perturbation (1).

        Conditions have equal weights for any number of cells. Otherwise the deepest plate would
        dominate the mean effect.

        Parameters
        ----------
        position
            0 for lines, 1 for perturbations.

        Returns
        -------
        list of str
            Names.
        numpy.ndarray
            Mean delta of each name, float64 [names, G].
        """
        names, codes = self.codes(position)
        groups = range(len(names))
        means = [self.deltas[codes == i].mean(axis=0, dtype=np.float64) for i in groups]
        return names, np.stack(means)


class ControlMeans:
    """Control pseudobulks by line; a new line gets the mean of the given cells.

    Parameters
    ----------
    lines
        Names of the lines.
    means
        Control pseudobulk of each line, [lines, G].
    """

    def __init__(self, lines: list[str], means: np.ndarray) -> None:
        self._means = dict(zip(lines, means.astype(np.float64), strict=True))

    def mean_of_line(self, line: str, cells: np.ndarray) -> np.ndarray:
        """Return the control pseudobulk [G] of `line`, or the mean of `cells` if the line is new.

        Parameters
        ----------
        line
            Name of the line.
        cells
            Control cells of the line, [S, G].
        """
        known = self._means.get(line)
        return cells.mean(axis=0, dtype=np.float64) if known is None else known


class MovedControls(ABC):
    """Base class of baselines that move control cells by the `delta` of their kind.

    Parameters
    ----------
    architecture
        ``control_lines``: names of the rows of ``control_means``.
    arrays
        ``control_means`` [lines, G].
    control
        Control label, which is predicted as no change.
    """

    def __init__(
        self, architecture: Mapping[str, Any], arrays: Mapping[str, np.ndarray], control: str
    ) -> None:
        self._controls = ControlMeans(architecture["control_lines"], arrays["control_means"])
        self._control = control
        self._most = np.inf

    def with_controls(self, means: Mapping[str, np.ndarray]) -> Self:
        """Return a copy that moves from other control pseudobulks than those of training.

        Given cells of a line can differ from its training cells. The effect of a line is still
        found by the name of the line.

        Parameters
        ----------
        means
            Control pseudobulk [G] by line.
        """
        other = copy.copy(self)
        other._controls = ControlMeans(list(means), np.stack(list(means.values())))
        return other

    def bounded(self, most: float) -> Self:
        """Return a copy that predicts no value above `most` (log1p expression)."""
        other = copy.copy(self)
        other._most = most
        return other

    @abstractmethod
    def delta(self, line: str, perturbation: str) -> tuple[np.ndarray, bool]:
        """Return the delta [G] of a condition, and whether it is a fallback."""

    def predict(self, control: np.ndarray, line: str, perturbation: str) -> Predicted:
        """Return the moved basal cells, float32 [S, G], see `statetx.shared.moved_cells.move`."""
        if perturbation == self._control:
            return Predicted(np.array(control, dtype=np.float32), False)
        delta, fallback = self.delta(line, perturbation)
        rng = np.random.default_rng(zlib.crc32(f"{line}\0{perturbation}".encode()))
        mean = self._controls.mean_of_line(line, control) + delta
        return Predicted(move(control, mean, expressed_in(control), rng, self._most), fallback)

    def to(self, device: str) -> Self:
        """Return the model itself, which has no tensors on a device."""
        return self
