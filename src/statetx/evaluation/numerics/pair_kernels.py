"""Compiled loops of `pair_sums`: from scalar products to sums over pairs of cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange

Array = np.ndarray[Any, Any]

WIDTH = 64
"""Cells per panel: four vector registers of float32."""

GENES = 160
"""Genes per tile: a tile of a panel (40 KiB) stays in the L1 cache while all rows use it."""

_CHUNK = 512
"""Rows whose products with a panel are in memory at once (128 KiB); a multiple of `WIDTH`."""

CLOSE = 1e-3
"""A float32 squared distance at or below this share of the sum of both squared lengths has lost too
many digits. It is computed again without that loss."""

_FAST = {"reassoc", "contract", "nsz"}
"""Flags that let sums run in vector registers; NaN and infinity keep their meaning."""


@njit(inline="always", fastmath=_FAST)
def _exponentials(
    square: Array,  # float32 [m]
    gamma: float,
    power: Array,  # float32 [m]
    bits: Array,  # int32 [m], the same memory as power
) -> None:
    """Fill power[j] = exp(-gamma square[j]), float32, with an error of 2e-7.

    The loop is vectorised, which makes it 40 times as fast as exp. With t = log2 of the result,
    2^t = 2^k 2^f, where k is the integer nearest to t. A Taylor polynomial gives 2^f for
    |f| <= 1/2, and k is added to the exponent bits. Results below 2^-126 become 2^-126.
    """
    rate = np.float32(-gamma * 1.4426950408889634)  # log2(e)
    for j in range(len(square)):
        t = max(rate * square[j], np.float32(-126.0))
        k = np.int32(t - np.float32(0.5))
        f = t - np.float32(k)
        p = np.float32(1.5403530e-4) * f + np.float32(1.3333558e-3)
        p = p * f + np.float32(9.6181291e-3)
        p = p * f + np.float32(5.5504109e-2)
        p = p * f + np.float32(2.4022651e-1)
        p = p * f + np.float32(6.9314718e-1)
        power[j] = p * f + np.float32(1.0)
        bits[j] += k << 23


@njit(inline="always", fastmath=_FAST)
def _fold(
    square: Array,  # float32 or float64 [m]
    gammas: Array,  # float64 [chains]
    lengths: Array,  # int64 [chains]
    power: Array,  # as square, scratch
    bits: Array,  # int32 view of power
    weight: float,
    out: Array,  # float64 [1 + sum of lengths]
) -> None:
    """Add the weighted sum of distances, then those of the kernels chain by chain, to `out`."""
    total = 0.0
    for j in range(len(square)):
        total += math.sqrt(square[j])
    out[0] += weight * total
    at = 1
    for chain in range(len(gammas)):
        if square.itemsize == 4:
            _exponentials(square, gammas[chain], power, bits)
        else:
            for j in range(len(square)):
                power[j] = math.exp(-gammas[chain] * square[j])
        for step in range(lengths[chain]):
            total = 0.0
            for j in range(len(square)):
                total += power[j]
            out[at] += weight * total
            at += 1
            if step + 1 < lengths[chain]:
                for j in range(len(square)):
                    power[j] *= power[j]


@njit(parallel=True, nogil=True, cache=True, fastmath=_FAST)
def fold_products(
    products: Array,
    x: Array,
    y: Array,
    norms_x: Array,
    norms_y: Array,
    diagonal: bool,
    gammas: Array,
    lengths: Array,
    out: Array,
) -> None:
    """Fill the sums of distances and kernels for each row of a block of scalar products.

    Parameters
    ----------
    products
        float32 or float64 [n, m], scalar products x.y.
    x, y
        [n, D] and [m, D], the cells, in the type of `products`.
    norms_x, norms_y
        [n] and [m], squared lengths, in the type of `products`.
    diagonal
        Whether row i and column i are the same cell.
    gammas, lengths
        float64 and int64 [chains]. A chain starts with a width and doubles it from step to step;
        its length is the number of its widths.
    out
        float64 [n, 1 + sum of lengths], zeros; receives the sums of distances, then those of the
        kernels chain by chain.
    """
    n, m = products.shape
    kind = products.dtype.type
    single = products.itemsize == 4
    least, two = kind(CLOSE if single else 1e-15), kind(2.0)
    for i in prange(n):
        square, power = np.empty(m, dtype=products.dtype), np.empty(m, dtype=products.dtype)  # [m]
        bits = power.view(np.int32)  # [m], or [2 m] for float64, which does not use it
        norm, row, close = norms_x[i], products[i], 0  # row [m]
        for j in range(m):
            both = norm + norms_y[j]
            squared = both - two * row[j]
            near = squared <= least * both
            square[j] = squared * kind(not near)
            close += near
        if diagonal:
            square[i] = 0
        if single and close > diagonal:
            for j in range(m):
                if square[j] == 0 and not (diagonal and i == j):
                    total = kind(0.0)
                    for k in range(x.shape[1]):
                        off = x[i, k] - y[j, k]
                        total += off * off
                    square[j] = total
        _fold(square, gammas, lengths, power, bits, 1.0, out[i])


@njit(inline="always", fastmath=_FAST)
def _multiply(
    pointers: Array,  # int64 [tiles n + 1]
    genes: Array,  # int32 [nnz], gene within its tile
    data: Array,  # float32 [nnz]
    at: int,
    panel: Array,  # float32 [GENES, WIDTH]
    acc: Array,  # float32 [WIDTH]
) -> None:
    """Add the products of one row's values in one tile with a panel to `acc`.

    `at` is tile * n + row.
    """
    k, end = np.uint64(pointers[at]), np.uint64(pointers[at + 1])
    while k + np.uint64(4) <= end:
        v0, v1 = data[k], data[k + np.uint64(1)]
        v2, v3 = data[k + np.uint64(2)], data[k + np.uint64(3)]
        r0, r1 = panel[np.uint64(genes[k])], panel[np.uint64(genes[k + np.uint64(1)])]
        r2 = panel[np.uint64(genes[k + np.uint64(2)])]
        r3 = panel[np.uint64(genes[k + np.uint64(3)])]
        for j in range(WIDTH):
            acc[j] += (v0 * r0[j] + v1 * r1[j]) + (v2 * r2[j] + v3 * r3[j])
        k += np.uint64(4)
    if k + np.uint64(2) <= end:
        v0, v1 = data[k], data[k + np.uint64(1)]
        r0, r1 = panel[np.uint64(genes[k])], panel[np.uint64(genes[k + np.uint64(1)])]
        for j in range(WIDTH):
            acc[j] += v0 * r0[j] + v1 * r1[j]
        k += np.uint64(2)
    if k < end:
        v0, r0 = data[k], panel[np.uint64(genes[k])]
        for j in range(WIDTH):
            acc[j] += v0 * r0[j]


@njit(parallel=True, nogil=True, cache=True, fastmath=_FAST)
def fold_sparse(
    pointers: Array,
    genes: Array,
    data: Array,
    norms_x: Array,
    panels: Array,
    norms_y: Array,
    n_columns: int,
    within: bool,
    gammas: Array,
    lengths: Array,
    out: Array,
) -> None:
    """Fill the sums of distances and kernels between sparse rows and each panel of columns.

    Parameters
    ----------
    pointers, genes, data
        Rows [n, G] in tiles of `GENES` genes, as `tile` writes them: int64 [tiles n + 1], int32
        [nnz] with the gene of each value within its tile, float32 [nnz] with the values.
    norms_x
        float64 [n], squared lengths of the rows.
    panels
        float32 [P, tiles GENES, WIDTH], columns in panels, as `fill_panels` writes them.
    norms_y
        float64 [P WIDTH], squared lengths of the columns, 0 for unused columns of the last panel.
    n_columns
        Number of columns.
    within
        Whether rows and columns are the same cells. Each pair is then counted in both orders, and
        each cell with itself at distance 0.
    gammas, lengths
        As for `fold_products`.
    out
        float64 [P, 1 + sum of lengths], zeros.
    """
    n, n_panels = len(norms_x), len(panels)
    tiles = (len(pointers) - 1) // n
    least = np.float32(CLOSE)
    for q in prange(n_panels):
        # If `within`, later panels have more rows, and each thread gets consecutive q. Panels are
        # taken from both ends in turn, so that all threads get about the same number of rows.
        p = q // 2 if q % 2 == 0 else n_panels - 1 - q // 2
        columns = min(WIDTH, n_columns - p * WIDTH)
        lengths_y = norms_y[p * WIDTH : (p + 1) * WIDTH]  # float64 [WIDTH]
        singles = lengths_y.astype(np.float32)  # [WIDTH]
        # 16 floats more than needed, so that `acc` can begin at a cache line.
        memory = np.empty(_CHUNK * WIDTH + 16, dtype=np.float32)
        skip = -(memory.ctypes.data // 4) % 16
        acc = memory[skip : skip + _CHUNK * WIDTH].reshape(_CHUNK, WIDTH)  # [_CHUNK, WIDTH]
        power, part = np.empty(WIDTH, dtype=np.float32), np.empty(WIDTH, dtype=np.float32)
        bits = power.view(np.int32)  # [WIDTH]
        last = min(n, (p + 1) * WIDTH) if within else n
        surplus = 0.0
        for begin in range(0, last, _CHUNK):
            end = min(last, begin + _CHUNK)
            acc[: end - begin] = 0
            for tile in range(tiles):
                panel = panels[p, tile * GENES : (tile + 1) * GENES]  # [GENES, WIDTH]
                for i in range(begin, end):
                    # Summed tile by tile, so that rounding errors grow with the tile, not with the
                    # row. Cells with much in common would make the same errors in all pairs.
                    part[:] = 0
                    _multiply(pointers, genes, data, tile * n + i, panel, part)
                    row = acc[i - begin]  # [WIDTH]
                    for j in range(WIDTH):
                        row[j] += part[j]
            for i in range(begin, end):
                square, norm, close = acc[i - begin], np.float32(norms_x[i]), 0  # square [WIDTH]
                for j in range(WIDTH):
                    both = norm + singles[j]
                    squared = both - np.float32(2.0) * square[j]
                    near = squared <= least * both
                    square[j] = squared * np.float32(not near)
                    close += near
                for j in range(columns, WIDTH):
                    square[j] = 0
                self_column = i - p * WIDTH if within else -1
                if self_column >= 0:
                    square[self_column] = 0
                if close > (self_column >= 0):
                    for j in range(columns):
                        if square[j] == 0 and j != self_column:
                            product = 0.0
                            for tile in range(tiles):
                                at = tile * n + i
                                for k in range(pointers[at], pointers[at + 1]):
                                    value = panels[p, tile * GENES + genes[k], j]
                                    product += np.float64(data[k]) * np.float64(value)
                            whole = norms_x[i] + lengths_y[j]
                            gap = whole - 2 * product
                            square[j] = gap if gap > 1e-14 * whole else 0.0
                weight = 2.0 if within and self_column < 0 else 1.0
                surplus += weight * (WIDTH - columns)
                _fold(square, gammas, lengths, power, bits, weight, out[p])
        out[p, 1:] -= surplus


@njit(nogil=True, cache=True)
def tile(
    pointers: Array,
    genes: Array,
    data: Array,
    starts: Array,
    places: Array,
    values: Array,
    norms: Array,
) -> None:
    """Sort CSR rows [n, G] into tiles of `GENES` genes; rows keep their order within each tile.

    Parameters
    ----------
    pointers, genes, data
        The CSR rows: [n + 1], [nnz], float32 [nnz].
    starts
        int64 [tiles n + 1], zeros; receives where the values of each (tile, row) begin.
    places, values
        int32 and float32 [nnz], receive the gene of each value within its tile, and the value.
    norms
        float64 [n], receives the squared length of each row.
    """
    n = len(norms)
    for i in range(n):
        norm = 0.0
        for k in range(pointers[i], pointers[i + 1]):
            starts[genes[k] // GENES * n + i + 1] += 1
            norm += np.float64(data[k]) * np.float64(data[k])
        norms[i] = norm
    for at in range(len(starts) - 1):
        starts[at + 1] += starts[at]
    place = starts[:-1].copy()  # [tiles n], where the next value of each (tile, row) is written
    for i in range(n):
        for k in range(pointers[i], pointers[i + 1]):
            at = genes[k] // GENES * n + i
            places[place[at]] = genes[k] % GENES
            values[place[at]] = data[k]
            place[at] += 1


@njit(parallel=True, nogil=True, cache=True)
def fill_panels(pointers: Array, genes: Array, data: Array, panels: Array) -> None:
    """Write CSR rows as columns of panels.

    Parameters
    ----------
    pointers, genes, data
        The CSR rows: [n + 1], [nnz], float32 [nnz].
    panels
        float32 [P, at least G, WIDTH], zeros; row i becomes column i % WIDTH of panel i // WIDTH.
    """
    n = len(pointers) - 1
    for p in prange(len(panels)):
        for i in range(p * WIDTH, min(n, (p + 1) * WIDTH)):
            for k in range(pointers[i], pointers[i + 1]):
                panels[p, genes[k], i - p * WIDTH] = data[k]
