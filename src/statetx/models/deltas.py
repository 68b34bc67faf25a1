"""What the baselines share: training statistics, and moving control cells by a delta."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from statetx.models.predictor import Predicted


@dataclass(frozen=True)
class Statistics:
    """Pseudobulks of the training data.

    Attributes
    ----------
    lines
        All cell lines, sorted; controls serve every role, so lines that are only tested are here.
    control_means
        Mean expression of each line's control cells, float64 [lines, G].
    conditions
        The training conditions (line, perturbation).
    deltas
        Condition pseudobulk minus the control pseudobulk of its line, float32 [conditions, G]:
        456 MB for 57,000 conditions x 2,000 genes. Sums over it are float64.
    """

    lines: list[str]
    control_means: np.ndarray
    conditions: list[tuple[str, str]]
    deltas: np.ndarray

    def mean_delta(self) -> np.ndarray:
        """Unweighted mean delta of all training conditions, [G]."""
        return self.deltas.mean(axis=0, dtype=np.float64)

    def codes(self, position: int) -> tuple[list[str], np.ndarray]:
        """Sorted training lines (position 0) or perturbations (1), and each condition's index."""
        names = sorted({condition[position] for condition in self.conditions})
        number = {name: i for i, name in enumerate(names)}
        return names, np.array([number[condition[position]] for condition in self.conditions])

    def mean_deltas_by(self, position: int) -> tuple[list[str], np.ndarray]:
        """Unweighted mean delta per line (position 0) or per perturbation (position 1).

        Conditions count equally, whatever their number of cells: else the deepest plate would
        decide what "the mean effect" is.
        """
        names, codes = self.codes(position)
        groups = range(len(names))
        means = [self.deltas[codes == i].mean(axis=0, dtype=np.float64) for i in groups]
        return names, np.stack(means)


LARGEST_SCALE = 2.0
"""How far a rising gene is scaled before the rest is shifted, see `move`."""


def move(cells: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Move control cells so that their mean is exactly `mean` and none falls below zero.

    Genes are scaled, rising ones at most to the double; what is missing then is added to every
    cell. Simpler ways make a baseline, and so the bar for every model, too low. Measured for
    `perturbation_mean` on the simulated data, 24 conditions of about 40 cells:

    - Adding a negative delta and clipping at zero: a gene with mean 0.1 that 90 % of the cells
      lack cannot fall by 0.05 that way, only by 0.005, since zeros cannot give anything.
    - Moving by the delta from wherever the drawn cells are, which miss the mean of all controls by
      sampling and by their plate: Pearson of deltas 0.42 instead of 0.54.
    - Adding positive deltas only: all zeros of a rising gene become non-zero at once, and 170 genes
      are called significant where the real cells have 31; scaled, 60, at a smaller energy distance.
    - Scaling without limit: log1p values of 16, which no cell has.

    Parameters
    ----------
    cells
        Control cells, log1p expression, [S, G].
    mean
        Where their mean is to be, [G]; negative values count as zero.

    Returns
    -------
    numpy.ndarray
        float32 [S, G], non-negative wherever `cells` is.
    """
    target = np.maximum(mean, 0.0)
    drawn = cells.mean(axis=0, dtype=np.float64)
    expressed = drawn > 0
    ratio = target / np.where(expressed, drawn, 1.0)
    scale = np.where(expressed, np.minimum(ratio, LARGEST_SCALE), 1.0)
    shift = np.where(expressed & (ratio <= LARGEST_SCALE), 0.0, target - drawn * scale)
    return (cells * scale + shift).astype(np.float32)


class ControlMeans:
    """Control pseudobulk by line; a line never seen gets the mean of the cells at hand."""

    def __init__(self, lines: list[str], means: np.ndarray) -> None:
        self._means = dict(zip(lines, means.astype(np.float64), strict=True))

    def of(self, line: str, cells: np.ndarray) -> np.ndarray:
        """Return the control pseudobulk [G] of `line`, or of `cells` when the line is new."""
        known = self._means.get(line)
        return cells.mean(axis=0, dtype=np.float64) if known is None else known


class MovedControls(ABC):
    """Base of the baselines that move control cells by a delta; a kind says which, in `delta`.

    Parameters
    ----------
    architecture
        ``control_lines``: names of the rows of ``control_means``.
    arrays
        ``control_means`` [lines, G].
    control
        Control label: predicted as no change.
    """

    def __init__(
        self, architecture: Mapping[str, Any], arrays: Mapping[str, np.ndarray], control: str
    ) -> None:
        self._controls = ControlMeans(architecture["control_lines"], arrays["control_means"])
        self._control = control

    @abstractmethod
    def delta(self, line: str, perturbation: str) -> tuple[np.ndarray, bool]:
        """Return the delta [G] of a condition, and whether it is a fallback."""

    def predict(self, control: np.ndarray, line: str, perturbation: str) -> Predicted:
        """Return the moved basal cells, float32 [S, G]; see `move` for their spread."""
        if perturbation == self._control:
            return Predicted(np.array(control, dtype=np.float32), False)
        delta, fallback = self.delta(line, perturbation)
        return Predicted(move(control, self._controls.of(line, control) + delta), fallback)

    def to(self, device: str) -> Self:
        """Return itself: there is nothing to move."""
        return self
