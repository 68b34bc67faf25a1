"""Distances between two sets of cells: energy distance and MMD^2.

The U statistic leaves pairs of a cell with itself out. Its expectation is 0 for two samples of one
population, so it may be negative. The V statistic includes these pairs. It is never negative, but
its bias is proportional to 1/n: compare V values only at equal n. The energy distance uses plain
Euclidean distances. With squared distances it would be twice the squared difference of the means.
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
"""Exponents j of our kernel widths 2^j / median squared distance of real training cells."""

CELLOT = (2.0, 1.0, 0.5, 0.1, 0.01, 0.005)
"""Kernel widths of the CellOT library and of CellFlow."""


class Sample:
    """Cells that are compared with others; sums over pairs within the sample are computed once.

    Parameters
    ----------
    cells
        [n, D], dense or sparse; float64 or float32 decides the precision of the products.
    centre
        [D], any point near the cells; samples that are compared must share it.
    gammas
        Kernel widths; samples that are compared must share them.
    """

    def __init__(self, cells: Any, centre: np.ndarray, gammas: Sequence[float] = ()) -> None:
        self.cloud = Cloud(cells, centre)
        self.gammas = gammas
        self._sums = pair_sums(self.cloud, None, gammas)

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.cloud)

    def within(self, statistic: Statistic) -> np.ndarray:
        """Return the mean distance and the mean kernels of pairs within the sample.

        Parameters
        ----------
        statistic
            U or V.

        Returns
        -------
        numpy.ndarray
            float64 [1 + number of gammas].

        Raises
        ------
        DataError
            There are too few cells: fewer than 2 for U, none for V.
        """
        n = len(self)
        if n < (2 if statistic == "U" else 1):
            raise DataError(f"{n} cells are too few for a distance between sets of cells")
        if statistic == "V":
            return self._sums / n**2
        at_zero = np.r_[0.0, np.ones(len(self.gammas))]
        return (self._sums - n * at_zero) / (n * (n - 1))

    def between(self, other: Sample) -> np.ndarray:
        """Return the mean distance and the mean kernels of all pairs with another sample.

        Parameters
        ----------
        other
            Sample with the same centre and kernel widths.

        Returns
        -------
        numpy.ndarray
            float64 [1 + number of gammas].
        """
        return pair_sums(self.cloud, other.cloud, self.gammas) / (len(self) * len(other))


def _gaps(x: Sample, y: Sample, between: np.ndarray, statistic: Statistic) -> np.ndarray:
    """Return the energy distance, then MMD^2 of each kernel width: [1 + number of gammas]."""
    gap = x.within(statistic) + y.within(statistic) - 2 * between
    gap[0] *= -1
    return gap


def _both(
    x: Any, y: Any, gammas: Sequence[float] = (), centre: np.ndarray | None = None
) -> tuple[Sample, Sample, np.ndarray]:
    if centre is None:
        centre = centre_of(y) if y.shape[0] else np.zeros(y.shape[1])
    sample_x, sample_y = Sample(x, centre, gammas), Sample(y, centre, gammas)
    return sample_x, sample_y, sample_x.between(sample_y)


def energy(x: np.ndarray, y: np.ndarray, statistic: Statistic = "U") -> float:
    """Return the energy distance 2 E|x-y| - E|x-x'| - E|y-y'|.

    Parameters
    ----------
    x, y
        Cells [n, D] and [m, D] in the same space.
    statistic
        U or V.

    Raises
    ------
    DataError
        `x` or `y` has too few cells.
    """
    return float(_gaps(*_both(x, y), statistic)[0])


def mmd(x: np.ndarray, y: np.ndarray, gammas: Sequence[float], statistic: Statistic = "U") -> float:
    """Return MMD^2 with the kernel exp(-gamma |x-y|^2), as the mean over `gammas`.

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
    """Compute all distance columns of ``scores.csv`` from one pass over the pairs.

    energy, mmd
        U statistics; the MMD^2 is the mean over `gammas`.
    mmd_cellot
        V statistic, mean over the kernel widths of CellOT, as CellOT and CellFlow report it. In
        gene space nearly all of these kernels vanish. V then tends to 1/n + 1/m for any prediction.
    mmd_tahoe
        V statistic, sum over five kernels exp(-d^2 / h). The smallest h is a quarter of the mean
        squared distance of the pooled cells, each next one twice as large. The kernels therefore
        differ between predictions.

    Parameters
    ----------
    pred, real
        Cells [n, D] and [m, D] in the same space, dense or sparse.
    gammas
        Kernel widths fixed on training cells.
    centre
        [D], centre of both samples; None: the mean of the real cells.
    groups
        Summaries of the predicted and of the real cells; None: computed from the cells.

    Returns
    -------
    distances
        Column -> value.
    samples
        The predicted and the real sample.
    """
    pooled = Group.merged(groups or (Group.from_cells(pred), Group.from_cells(real)))
    width = pooled.spread / 2  # a quarter of the mean squared distance between two cells
    tahoe = [1 / (width * 2**i) for i in range(5)] if width > 0 else []
    compared = _both(pred, real, [*gammas, *CELLOT, *tahoe], centre)
    unbiased, biased = _gaps(*compared, "U"), _gaps(*compared, "V")
    end_mmd, end_cellot = 1 + len(gammas), 1 + len(gammas) + len(CELLOT)
    distances = {
        "energy": float(unbiased[0]),
        "mmd": float(unbiased[1:end_mmd].mean()),
        "mmd_cellot": float(biased[end_mmd:end_cellot].mean()),
        "mmd_tahoe": float(biased[end_cellot:].sum()),
    }
    return distances, compared[:2]


class EnergyFrom:
    """Energy distance (V) of many sets of cells from the same control cells.

    The term of the control cells alone is computed once.

    Parameters
    ----------
    controls
        Control cells [m, D].
    centre
        [D], centre of the samples that are compared; None: the mean of the controls.
    """

    def __init__(self, controls: Any, centre: np.ndarray | None = None) -> None:
        self._centre = centre_of(controls) if centre is None else centre
        self._cells = controls

    @cached_property
    def _controls(self) -> Sample:
        return Sample(self._cells, self._centre)

    def __call__(self, cells: Any) -> float:
        """Return the energy distance of cells [n, D], or of a `Sample` with the same centre."""
        sample = cells if isinstance(cells, Sample) else Sample(cells, self._centre)
        between = pair_sums(sample.cloud, self._controls.cloud)[0] / (
            len(sample) * len(self._controls)
        )
        within = sample.within("V")[0] + self._controls.within("V")[0]
        return float(2 * between - within)


def median_squared_distance(cells: np.ndarray) -> float:
    """Return the median squared distance over all pairs of different cells [n, D]."""
    moved = np.subtract(cells, centre_of(cells), dtype=np.float64)
    norms = np.einsum("ij,ij->i", moved, moved)
    both = np.add.outer(norms, norms)
    square = both - 2 * (moved @ moved.T)
    square[square <= 1e-14 * both] = 0.0
    return float(np.median(square[np.triu_indices(len(moved), 1)]))


def gamma_grid(median: float) -> list[float]:
    """Return the five kernel widths for a median squared distance.

    Parameters
    ----------
    median
        Median squared distance between cells.

    Raises
    ------
    DataError
        The median is zero: the cells do not differ.
    """
    if not median > 0:
        raise DataError("the cells do not differ from one another: no kernel width can be chosen")
    return [2.0**j / median for j in GRID]


def at_most(cells: Any, n: int, generator: np.random.Generator) -> Any:
    """Draw at most `n` cells without replacement; they keep their order.

    Parameters
    ----------
    cells
        [m, D], dense or sparse.
    n
        Most cells.
    generator
        Random generator; unused if there are at most `n` cells.
    """
    if cells.shape[0] <= n:
        return cells
    return cells[np.sort(generator.choice(cells.shape[0], n, replace=False))]
