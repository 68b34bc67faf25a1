"""Sums of distances and kernels over all pairs of cells, block by block as matrix products.

The products are taken in the precision of the cells (float32 from the store: twice the speed, and
7e-8 of a mean distance away from float64), everything is summed in float64. One pass over the
pairs gives the sum of distances and of all kernels: the widths of a grid double from one to the
next, and exp(-2 g d) is the square of exp(-g d).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from statetx.evaluation.kernels import fold_pairs, threads_for

BLOCK = 1024
"""Rows per block: 1024 x 1024 float32 products are 4 MiB."""


@dataclass(frozen=True)
class Cloud:
    """Cells around a centre.

    Attributes
    ----------
    cells
        [n, D] minus the centre, float32 or float64.
    norms
        [n], squared lengths.
    """

    cells: np.ndarray
    norms: np.ndarray

    @classmethod
    def of(cls, cells: np.ndarray, centre: np.ndarray | None = None) -> Cloud:
        """Move cells to a centre, which clouds that are compared must share.

        |x|^2 + |y|^2 - 2 x.y cancels, and a common offset makes it worse.

        Parameters
        ----------
        cells
            [n, D]; float64 stays float64, everything else becomes float32.
        centre
            [D]; None: the mean of the cells.
        """
        kind = np.float64 if np.asarray(cells).dtype == np.float64 else np.float32
        if centre is None:
            centre = centre_of(cells)
        moved = np.subtract(cells, centre, dtype=np.float64).astype(kind, copy=False)
        return cls(moved, np.einsum("ij,ij->i", moved, moved))

    def __len__(self) -> int:
        return len(self.cells)


def centre_of(cells: np.ndarray) -> np.ndarray:
    """Mean of cells [n, D] -> float64 [D]."""
    return np.asarray(cells).mean(axis=0, dtype=np.float64)


def _chains(gammas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the gammas by chains that double: places in the list, and lengths of the chains."""
    left = sorted(range(len(gammas)), key=lambda i: gammas[i])
    places: list[int] = []
    lengths: list[int] = []
    while left:
        chain = [left.pop(0)]
        for i in list(left):
            if np.isclose(gammas[i], 2 * gammas[chain[-1]], rtol=1e-12, atol=0):
                chain.append(i)
                left.remove(i)
        places += chain
        lengths.append(len(chain))
    return np.asarray(places, dtype=np.int64), np.asarray(lengths, dtype=np.int64)


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, BLOCK):
        yield slice(start, min(n, start + BLOCK))


def pair_sums(x: Cloud, y: Cloud | None = None, gammas: Sequence[float] = ()) -> np.ndarray:
    """Sum |x - y|, and exp(-gamma |x - y|^2) of every gamma, over all pairs.

    Parameters
    ----------
    x, y
        Clouds around one centre. None for `y`: the ordered pairs within `x`, the diagonal at exactly
        distance 0 (rounding would leave 1e-3 there in float32).
    gammas
        Kernel widths.

    Returns
    -------
    numpy.ndarray
        float64 [1 + number of gammas].
    """
    places, lengths = _chains(gammas)
    firsts = places[np.cumsum(lengths) - lengths]
    starts = np.asarray(gammas, dtype=np.float64)[firsts]
    other = x if y is None else y
    total = np.zeros(1 + len(places))
    for rows in _blocks(len(x)):
        for columns in _blocks(len(other)):
            if y is None and columns.start < rows.start:
                continue
            products = x.cells[rows] @ other.cells[columns].T
            diagonal = y is None and rows == columns
            found = np.zeros((len(products), len(total)))
            norms = x.norms[rows], other.norms[columns]
            with threads_for(products.size):
                fold_pairs(products, *norms, diagonal, starts, lengths, found)
            twice = 2.0 if y is None and not diagonal else 1.0
            total += twice * found.sum(axis=0)
    out = np.empty_like(total)
    out[0] = total[0]
    out[1 + places] = total[1:]
    return out
