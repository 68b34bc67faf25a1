"""Distances between two sets of cells: energy distance and MMD^2.

All from squared Euclidean distances, block by block as a matrix product (memory: one block), sums
in float64. U leaves the diagonals out (expectation 0 for two samples of one population, may be
negative), V leaves them in (never negative, but grows as 1/n: compare only at equal n). Use plain
Euclidean energy: with squared distances it is twice the squared difference of the means and sees
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from statetx.errors import DataError

Statistic = Literal["U", "V"]

GRID = (-2, -1, 0, 1, 2)
"""Our grid: gamma_j = 2^j / median squared distance, fixed from real training cells."""

BLOCK = 2048
"""Rows per block: 2048 x 2048 float64 distances are 32 MiB."""


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [n, m] as one matrix product, in float64.

    Both sides are centred first: |x|^2 + |y|^2 - 2 x.y cancels, and a common offset makes it
    worse. Tiny negatives are clipped.
    """
    centre = y.mean(axis=0, dtype=np.float64)
    a, b = x - centre, y - centre
    out = -2.0 * (a @ b.T)
    out += np.einsum("ij,ij->i", a, a)[:, None]
    out += np.einsum("ij,ij->i", b, b)[None, :]
    return np.maximum(out, 0.0, out=out)


def _sums(
    x: np.ndarray,
    y: np.ndarray | None,
    functions: Sequence[Callable[[np.ndarray], np.ndarray]],
) -> np.ndarray:
    """Sum each function of the squared distances over all pairs; within `x` when `y` is None.

    Within one side the diagonal is set to an exact 0 (rounding leaves 1e-13, whose square root is
    3e-7) and only one triangle of blocks is computed.
    """
    total = np.zeros(len(functions))
    other = x if y is None else y
    for i in range(0, len(x), BLOCK):
        for j in range(i if y is None else 0, len(other), BLOCK):
            square = squared_distances(x[i : i + BLOCK], other[j : j + BLOCK])
            if y is None and i == j:
                np.fill_diagonal(square, 0.0)
            twice = 2.0 if y is None and i != j else 1.0
            total += [twice * float(function(square).sum()) for function in functions]
    return total


def _means(
    x: np.ndarray,
    y: np.ndarray,
    functions: Sequence[Callable[[np.ndarray], np.ndarray]],
    diagonal: Sequence[float],
    statistic: Statistic,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of each function within x, within y and between; `diagonal` = its value at distance 0."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n, m = len(x), len(y)
    if min(n, m) < (2 if statistic == "U" else 1):
        raise DataError(f"{n} and {m} cells are too few for a distance between sets of cells")
    within_x, within_y = _sums(x, None, functions), _sums(y, None, functions)
    between = _sums(x, y, functions) / (n * m)
    if statistic == "V":
        return within_x / n**2, within_y / m**2, between
    at_zero = np.asarray(diagonal)
    return (
        (within_x - n * at_zero) / (n * (n - 1)),
        (within_y - m * at_zero) / (m * (m - 1)),
        between,
    )


def energy(
    x: np.ndarray, y: np.ndarray, statistic: Statistic = "U", squared: bool = False
) -> float:
    """Energy distance 2 E|x-y| - E|x-x'| - E|y-y'|.

    Parameters
    ----------
    x, y
        Cells [n, D] and [m, D] in the same space.
    statistic
        U or V.
    squared
        Squared Euclidean distance, as scPerturb and CellFlow take it.

    Raises
    ------
    DataError
        Fewer than two cells on a side (U).
    """
    function = (lambda d: d) if squared else np.sqrt
    within_x, within_y, between = _means(x, y, [function], [0.0], statistic)
    return float(2 * between[0] - within_x[0] - within_y[0])


def _kernel(gamma: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda square: np.exp(-gamma * square)


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
    kernels = [_kernel(gamma) for gamma in gammas]
    within_x, within_y, between = _means(x, y, kernels, [1.0] * len(kernels), statistic)
    return float((within_x + within_y - 2 * between).mean())


def energy_and_mmd(x: np.ndarray, y: np.ndarray, gammas: Sequence[float]) -> tuple[float, float]:
    """`energy` and `mmd` (both U) from one pass over the distances.

    Parameters
    ----------
    x, y
        Cells [n, D] and [m, D] in the same space.
    gammas
        Kernel widths of the MMD.
    """
    functions: list[Callable[[np.ndarray], np.ndarray]] = [np.sqrt, *map(_kernel, gammas)]
    diagonal = [0.0] + [1.0] * len(gammas)
    within_x, within_y, between = _means(x, y, functions, diagonal, "U")
    gap = within_x + within_y - 2 * between
    return -float(gap[0]), float(gap[1:].mean())


class EnergyFrom:
    """Energy distance (V) of many sets of cells from the same controls, whose own term is kept.

    Parameters
    ----------
    controls
        Control cells [m, D].
    """

    def __init__(self, controls: np.ndarray) -> None:
        self._controls = np.asarray(controls, dtype=np.float64)
        self._within = _sums(self._controls, None, [np.sqrt])[0] / len(controls) ** 2

    def __call__(self, cells: np.ndarray) -> float:
        """Energy distance of cells [n, D]."""
        x = np.asarray(cells, dtype=np.float64)
        between = _sums(x, self._controls, [np.sqrt])[0] / (len(x) * len(self._controls))
        return float(2 * between - _sums(x, None, [np.sqrt])[0] / len(x) ** 2 - self._within)


def median_squared_distance(cells: np.ndarray) -> float:
    """Median squared distance over all pairs of distinct cells [n, D]."""
    square = squared_distances(np.asarray(cells, np.float64), np.asarray(cells, np.float64))
    return float(np.median(square[np.triu_indices(len(cells), 1)]))


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


def at_most(cells: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """At most `n` of the cells, drawn without replacement."""
    if cells.shape[0] <= n:
        return cells
    return cells[np.sort(generator.choice(cells.shape[0], n, replace=False))]
