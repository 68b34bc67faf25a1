"""Sums of distances and kernels over all pairs of cells.

One pass over the pairs gives the sums of distances and of all kernels. Each kernel width of a grid
is twice the one before, and exp(-2 g d) is the square of exp(-g d). Products are computed in the
precision of the cells. A mean distance of float32 cells from the store then differs from float64
by 7e-8. All sums are float64.

Cells that are mostly zeros are multiplied value by value (`fold_sparse`). That is three times as
fast as matrix products at 30 % non-zero values, and five times at 10 %. Other cells are multiplied
by matrix products, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from statetx.evaluation.numerics import pair_sums_gpu as gpu_pairs
from statetx.evaluation.numerics.csr_cells import SPARSE, as_rows
from statetx.evaluation.numerics.gpu import gpu, on_gpu_or_none
from statetx.evaluation.numerics.pair_kernels import (
    GENES,
    WIDTH,
    fill_panels,
    fold_products,
    fold_sparse,
    tile,
)
from statetx.evaluation.numerics.rank_kernels import threads_for

if TYPE_CHECKING:
    import torch

BLOCK = 1024
"""Rows per block of matrix products: 1024 x 1024 float32 products are 4 MiB."""


class _Tiles(NamedTuple):
    """Rows in the form that `fold_sparse` reads, and their squared lengths.

    Attributes
    ----------
    pointers
        int64 [tiles n + 1], where the values of each (tile, row) begin.
    genes
        int32 [nnz], gene of each value within its tile.
    data
        float32 [nnz], the values.
    norms
        float64 [n], squared lengths.
    """

    pointers: np.ndarray
    genes: np.ndarray
    data: np.ndarray
    norms: np.ndarray


class Cloud:
    """Cells that are compared with others, in the forms that the products need.

    Parameters
    ----------
    cells
        [n, D], sparse or dense; float64 stays float64, all other types become float32.
    centre
        [D], subtracted from the cells before matrix products; None: the mean of the cells. Clouds
        that are compared must share it. |x|^2 + |y|^2 - 2 x.y loses digits by cancellation, and a
        common offset of the cells makes the loss larger.
    """

    def __init__(self, cells: Any, centre: np.ndarray | None = None) -> None:
        self._cells: Any = cells if sparse.issparse(cells) else np.asarray(cells)
        self._centre = centre_of(cells) if centre is None else centre
        self.kind = np.dtype(np.float64 if self._cells.dtype == np.float64 else np.float32)
        self.size: int = self._cells.shape[0]
        self._points: gpu_pairs.Points | None = None

    def __len__(self) -> int:
        """Return the number of cells."""
        return self.size

    @property
    def width(self) -> int:
        """Number of dimensions D."""
        return int(self._cells.shape[1])

    def on(self, device: torch.device) -> gpu_pairs.Points:
        """Return the cells on a device, where they stay as long as the cloud exists.

        Parameters
        ----------
        device
            The device of the first call; later calls return the same object.
        """
        if self._points is None:
            self._points = gpu_pairs.Points(self._cells, self._centre, self.kind, device)
        return self._points

    @cached_property
    def density(self) -> float:
        """Share of non-zero values."""
        cells = self._cells
        count = cells.nnz if sparse.issparse(cells) else np.count_nonzero(cells)
        return float(count / max(1, self._cells.shape[0] * self._cells.shape[1]))

    @cached_property
    def is_constant(self) -> bool:
        """Whether all cells are equal, as baselines that predict a mean deliver them."""
        cells = self._cells
        if len(self) < 2:
            return False
        if sparse.issparse(cells):
            rows, n = as_rows(cells), len(self)
            lengths = np.diff(rows.indptr)
            if (lengths != lengths[0]).any():
                return False
            tables = [array.reshape(n, -1) for array in (rows.data, rows.indices)]
        else:
            tables = [cells]
        return all(
            np.array_equal(table[0], table[-1]) and bool((table == table[0]).all())
            for table in tables
        )

    @cached_property
    def shares_much(self) -> bool:
        """Whether the centre is longer than the typical distance of the cells from it.

        Float32 products of uncentred cells then make the same error in all pairs, which no longer
        averages out. It is 5e-7 of an energy distance of 0.1; products around the centre make 2e-8.
        """
        values = self._cells.data if sparse.issparse(self._cells) else self._cells.ravel()
        square = float(np.einsum("i,i->", values, values, dtype=np.float64)) / max(1, self.size)
        return 2 * float(np.einsum("i,i->", self._centre, self._centre)) > square

    def squared_from(self, cell: np.ndarray) -> np.ndarray:
        """Return the squared distances of the cells from a point, float64 [n].

        Parameters
        ----------
        cell
            float64 [D], the point.
        """
        if sparse.issparse(self._cells):
            rows = as_rows(self._cells).astype(np.float64)
            norms = rows.power(2) @ np.ones(self.width)
            square: np.ndarray = norms + cell @ cell - 2 * (rows @ cell)
            return np.maximum(square, 0.0)
        off = [self._cells[rows] - cell for rows in _blocks(len(self))]
        return np.concatenate([np.einsum("ij,ij->i", block, block) for block in off])

    @cached_property
    def first(self) -> np.ndarray:
        """The first cell, float64 [D]."""
        cell = self._cells[:1]
        dense = cell.toarray() if sparse.issparse(cell) else cell
        return np.asarray(dense, dtype=np.float64).ravel()

    @cached_property
    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Cells minus the centre [n, D], and their squared lengths [n], both in `kind`."""
        cells = self._cells.toarray() if sparse.issparse(self._cells) else self._cells
        moved = np.subtract(cells, self._centre, dtype=np.float64).astype(self.kind, copy=False)
        return moved, np.einsum("ij,ij->i", moved, moved)

    @cached_property
    def _rows(self) -> sparse.csr_matrix:
        return as_rows(self._cells).astype(np.float32, copy=False)

    @cached_property
    def tiles(self) -> _Tiles:
        """Cells in the form of rows of `fold_sparse`."""
        rows = self._rows
        tiles = _Tiles(
            np.zeros(-(-rows.shape[1] // GENES) * self.size + 1, dtype=np.int64),
            np.empty(rows.nnz, dtype=np.int32),
            np.empty(rows.nnz, dtype=np.float32),
            np.empty(self.size),
        )
        tile(rows.indptr, rows.indices, rows.data, *tiles)
        return tiles

    @cached_property
    def panels(self) -> tuple[np.ndarray, np.ndarray]:
        """Cells in the form of columns of `fold_sparse`, and their squared lengths."""
        rows = self._rows
        count = -(-self.size // WIDTH)
        panels = _aligned(count, -(-rows.shape[1] // GENES) * GENES, WIDTH)
        with threads_for(rows.nnz):
            fill_panels(rows.indptr, rows.indices, rows.data, panels)
        norms = np.zeros(count * WIDTH)
        norms[: self.size] = self.tiles.norms
        return panels, norms


def _aligned(*shape: int) -> np.ndarray:
    """Return float32 zeros that begin at a cache line; loads across two lines are half as fast."""
    n = math.prod(shape)
    memory = np.zeros(n + 16, dtype=np.float32)
    skip = -(memory.ctypes.data // 4) % 16
    return memory[skip : skip + n].reshape(shape)


def centre_of(cells: Any) -> np.ndarray:
    """Return the mean of cells [n, D], sparse or dense: float64 [D]."""
    return np.asarray(cells.mean(axis=0, dtype=np.float64)).ravel()


def _chains(gammas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Sort gammas into chains in which each is twice the one before.

    Return the positions of the gammas in the given list, int64 [gammas], chain by chain; and the
    lengths of the chains, int64 [chains].
    """
    left = sorted(range(len(gammas)), key=lambda i: gammas[i])
    places: list[int] = []
    lengths: list[int] = []
    while left:
        chain = [left.pop(0)]
        for i in list(left):
            if abs(gammas[i] / gammas[chain[-1]] - 2) < 1e-12:
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
        Clouds with the same centre. If `y` is None, all ordered pairs within `x`. Each cell then
        has distance 0 to itself exactly (float32 rounding would make it 1e-3).
    gammas
        Kernel widths.

    Returns
    -------
    numpy.ndarray
        float64 [1 + number of gammas], the sum of distances, then those of the kernels.
    """
    if y is None and x.is_constant:
        return np.append(0.0, np.full(len(gammas), float(len(x)) ** 2))
    if y is not None and (x.is_constant or y.is_constant):
        return _from_one(*((x, y) if x.is_constant else (y, x)), gammas)
    on_gpu = _on_gpu(x, y, gammas)
    if on_gpu is not None:
        return on_gpu
    places, lengths = _chains(gammas)
    firsts = places[np.cumsum(lengths) - lengths]
    chains = np.asarray(gammas, dtype=np.float64)[firsts], lengths
    rows, columns = (x, x) if y is None else sorted((x, y), key=lambda cloud: cloud.density)
    is_single = all(cloud.kind == np.float32 for cloud in (rows, columns))
    is_sparse = len(x) > 0 and rows.density <= SPARSE
    by_values = is_single and is_sparse and not (rows.shares_much or columns.shares_much)
    total = (_by_values if by_values else _by_products)(rows, columns, y is None, chains)
    out = np.empty_like(total)
    out[0] = total[0]
    out[1 + places] = total[1:]
    return out


def _from_one(constant: Cloud, others: Cloud, gammas: Sequence[float]) -> np.ndarray:
    """Return the sums between equal cells and other cells, computed in float64.

    One product per other cell is enough, so float64 is cheap. In float32 all pairs with one other
    cell would make the same error, which then does not average out.
    """
    square = others.squared_from(constant.first)
    kernels = [np.exp(-gamma * square).sum() for gamma in gammas]
    return len(constant) * np.array([np.sqrt(square).sum(), *kernels])


def _on_gpu(x: Cloud, y: Cloud | None, gammas: Sequence[float]) -> np.ndarray | None:
    """Return the sums from a GPU; None without one, below `LEAST_PRODUCTS`, or if it fails."""
    worth = len(x) * len(x if y is None else y) * x.width >= gpu_pairs.LEAST_PRODUCTS
    device = gpu() if worth else None
    if device is None:
        return None
    return on_gpu_or_none(
        lambda: gpu_pairs.pair_sums(x.on(device), None if y is None else y.on(device), gammas)
    )


_Chains = tuple[np.ndarray, np.ndarray]


def _by_values(rows: Cloud, columns: Cloud, within: bool, chains: _Chains) -> np.ndarray:
    panels, norms = columns.panels
    sums = np.zeros((len(panels), 1 + int(chains[1].sum())))
    with threads_for(len(rows) * len(columns)):
        fold_sparse(*rows.tiles, panels, norms, len(columns), within, *chains, sums)
    total: np.ndarray = sums.sum(axis=0)
    return total


def _by_products(x: Cloud, y: Cloud, within: bool, chains: _Chains) -> np.ndarray:
    (cells, lengths), (others, other_lengths) = x.dense, y.dense
    total = np.zeros(1 + int(chains[1].sum()))
    for rows in _blocks(len(x)):
        for columns in _blocks(len(y)):
            if within and columns.start < rows.start:
                continue
            products = cells[rows] @ others[columns].T
            diagonal = within and rows == columns
            sums = np.zeros((len(products), len(total)))
            arrays = cells[rows], others[columns], lengths[rows], other_lengths[columns]
            with threads_for(products.size):
                fold_products(products, *arrays, diagonal, *chains, sums)
            twice = 2.0 if within and not diagonal else 1.0
            total += twice * sums.sum(axis=0)
    return total
