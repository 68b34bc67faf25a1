"""Distances between two sets of cells: energy distance and MMD^2.

U leaves the diagonals out (expectation 0 for two samples of one population, may be negative), V
leaves them in (never negative, but grows as 1/n: compare only at equal n). Plain Euclidean energy:
with squared distances it is twice the squared difference of the means and sees nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from statetx.core.errors import DataError
from statetx.evaluation.numerics.pair_sums import Cloud, centre_of, pair_sums
from statetx.evaluation.scores.pseudobulk import Group

Statistic = Literal["U", "V"]

GRID = (-2, -1, 0, 1, 2)
"""Our grid: gamma_j = 2^j / median squared distance, fixed from real training cells."""

CELLOT = (2.0, 1.0, 0.5, 0.1, 0.01, 0.005)
"""Kernel widths of the CellOT library and of CellFlow."""


class Sample:
    """Cells that are compared with others, whose sums over their own pairs are kept.

    Parameters
    ----------
    cells
        [n, D], dense or sparse, float64 or float32: the precision of the products.
    centre
        [D], shared by the samples that are compared: any point near the cells.
    gammas
        Kernel widths, shared too.
    """

    def __init__(self, cells: Any, centre: np.ndarray, gammas: Sequence[float] = ()) -> None:
        self.cloud = Cloud(cells, centre)
        self.gammas = gammas
        self._sums = pair_sums(self.cloud, None, gammas)

    def __len__(self) -> int:
        return len(self.cloud)

    def within(self, statistic: Statistic) -> np.ndarray:
        """Mean distance and mean kernels of its pairs, [1 + gammas].

        Raises
        ------
        DataError
            Too few cells.
        """
        n = len(self)
        if n < (2 if statistic == "U" else 1):
            raise DataError(f"{n} cells are too few for a distance between sets of cells")
        if statistic == "V":
            return self._sums / n**2
        at_zero = np.r_[0.0, np.ones(len(self.gammas))]
        return (self._sums - n * at_zero) / (n * (n - 1))

    def between(self, other: Sample) -> np.ndarray:
        """Mean distance and mean kernels of all pairs with another sample."""
        return pair_sums(self.cloud, other.cloud, self.gammas) / (len(self) * len(other))


def _gaps(x: Sample, y: Sample, between: np.ndarray, statistic: Statistic) -> np.ndarray:
    """Energy distance, then MMD^2 of every kernel width."""
    gap = x.within(statistic) + y.within(statistic) - 2 * between
    gap[0] *= -1
    return gap


def _both(
    x: Any, y: Any, gammas: Sequence[float] = (), centre: np.ndarray | None = None
) -> tuple[Sample, Sample, np.ndarray]:
    if centre is None:
        centre = centre_of(y) if y.shape[0] else np.zeros(y.shape[1])
    one, two = Sample(x, centre, gammas), Sample(y, centre, gammas)
    return one, two, one.between(two)


def energy(x: np.ndarray, y: np.ndarray, statistic: Statistic = "U") -> float:
    """Energy distance 2 E|x-y| - E|x-x'| - E|y-y'|.

    Parameters
    ----------
    x, y
        Cells [n, D] and [m, D] in the same space.
    statistic
        U or V.

    Raises
    ------
    DataError
        Too few cells on a side.
    """
    return float(_gaps(*_both(x, y), statistic)[0])


def mmd(x: np.ndarray, y: np.ndarray, gammas: Sequence[float], statistic: Statistic = "U") -> float:
    """MMD^2 with the kernel exp(-gamma |x-y|^2), mean over `gammas`.

    Parameters
    ----------
    x, y
        Cells [n, D] and [m, D] in the same space.
    gammas
        Kernel widths; fix them before looking at a prediction (`gamma_grid`).
    statistic
        U or V.
    """
    return float(_gaps(*_both(x, y, gammas), statistic)[1:].mean())


def all_distances(
    pred: Any,
    real: Any,
    gammas: Sequence[float],
    centre: np.ndarray | None = None,
    groups: Iterable[Group] | None = None,
) -> tuple[dict[str, float], tuple[Sample, Sample]]:
    """Return every distance column of ``scores.csv`` from one pass over the pairs, and both samples.

    energy, mmd
        U, the MMD^2 as the mean over `gammas`.
    mmd_cellot
        V, mean over CellOT's kernel widths, as CellOT and CellFlow report it. In gene space nearly
        all of these kernels vanish and V tends to 1/n + 1/m whatever was predicted.
    mmd_tahoe
        V, sum over five kernels exp(-d^2 / h), h from a quarter of the mean squared distance of the
        pooled cells upwards by factors of 2: each prediction has its own kernels.

    Parameters
    ----------
    pred, real
        Cells [n, D] and [m, D] in the same space, dense or sparse.
    gammas
        Kernel widths fixed on training cells.
    centre
        [D], of the samples; the mean of the real cells by default.
    groups
        Both sides summed up, if they are already.
    """
    pooled = Group.merged(groups or (Group.from_cells(pred), Group.from_cells(real)))
    width = pooled.spread / 2  # a quarter of the mean squared distance of two of the cells
    tahoe = [1 / (width * 2**i) for i in range(5)] if width > 0 else []
    both = _both(pred, real, [*gammas, *CELLOT, *tahoe], centre)
    unbiased, biased = _gaps(*both, "U"), _gaps(*both, "V")
    ours, theirs = 1 + len(gammas), 1 + len(gammas) + len(CELLOT)
    found = {
        "energy": float(unbiased[0]),
        "mmd": float(unbiased[1:ours].mean()),
        "mmd_cellot": float(biased[ours:theirs].mean()),
        "mmd_tahoe": float(biased[theirs:].sum()),
    }
    return found, both[:2]


class EnergyFrom:
    """Energy distance (V) of many sets of cells from the same controls, whose own term is kept.

    Parameters
    ----------
    controls
        Control cells [m, D].
    centre
        [D], as of the samples that are compared; the mean of the controls by default.
    """

    def __init__(self, controls: Any, centre: np.ndarray | None = None) -> None:
        self._centre = centre_of(controls) if centre is None else centre
        self._cells = controls

    @cached_property
    def _controls(self) -> Sample:
        return Sample(self._cells, self._centre)

    def __call__(self, cells: Any) -> float:
        """Energy distance of cells [n, D], or of a `Sample` around the same centre."""
        sample = cells if isinstance(cells, Sample) else Sample(cells, self._centre)
        between = pair_sums(sample.cloud, self._controls.cloud)[0] / (
            len(sample) * len(self._controls)
        )
        within = sample.within("V")[0] + self._controls.within("V")[0]
        return float(2 * between - within)


def median_squared_distance(cells: np.ndarray) -> float:
    """Median squared distance over all pairs of distinct cells [n, D]."""
    moved = np.subtract(cells, centre_of(cells), dtype=np.float64)
    norms = np.einsum("ij,ij->i", moved, moved)
    both = np.add.outer(norms, norms)
    square = both - 2 * (moved @ moved.T)
    square[square <= 1e-14 * both] = 0.0
    return float(np.median(square[np.triu_indices(len(moved), 1)]))


def gamma_grid(median: float) -> list[float]:
    """The five kernel widths for a median squared distance.

    Raises
    ------
    DataError
        The median is zero: the cells do not differ.
    """
    if not median > 0:
        raise DataError("the cells do not differ from one another: no kernel width can be chosen")
    return [2.0**j / median for j in GRID]


def at_most(cells: Any, n: int, generator: np.random.Generator) -> Any:
    """At most `n` of the cells, drawn without replacement."""
    if cells.shape[0] <= n:
        return cells
    return cells[np.sort(generator.choice(cells.shape[0], n, replace=False))]
