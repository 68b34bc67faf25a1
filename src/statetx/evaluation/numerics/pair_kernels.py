"""The compiled loops behind `statetx.evaluation.numerics.pair_sums`: from scalar products to sums over pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange

Array = np.ndarray[Any, Any]

WIDTH = 64
"""Cells per panel: four vector registers of float32."""

GENES = 160
"""Genes per tile: a tile of a panel (40 KiB) stays in the first cache while all rows pass."""

_CHUNK = 512
"""Rows whose products with a panel are kept at once (128 KiB); a multiple of `WIDTH`."""

CLOSE = 1e-3
"""A squared distance below this share of both squared lengths has lost too many digits of its
products in float32 and is taken again with more of them."""

_FAST = {"reassoc", "contract", "nsz"}
"""Lets sums run in vector registers; NaN and infinity keep their meaning."""


@njit(inline="always", fastmath=_FAST)
def _exponentials(square: Array, gamma: float, power: Array, bits: Array) -> None:
    """Fill power[j] = exp(-gamma square[j]), float32, to 2e-7: vectorised, 40 times as fast as exp.

    2^t = 2^k 2^f with k the integer next to t; the Taylor polynomial of 2^f for |f| <= 1/2, and k
    added to the exponent's bits. Below 2^-126 the result is 2^-126.
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
    square: Array,
    gammas: Array,
    lengths: Array,
    power: Array,
    bits: Array,
    weight: float,
    out: Array,
) -> None:
    """Add the sum of distances, then of the kernels chain by chain, to out [1 + sum of lengths]."""
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
    """Fill the sums of distances and kernels of each row of a block of scalar products.

    Parameters
    ----------
    products
        [n, m], x.y, float32 or float64.
    x, y
        [n, D] and [m, D], the cells.
    norms_x, norms_y
        [n] and [m], squared lengths.
    diagonal
        Whether row i and column i are the same cell.
    gammas, lengths
        First width of each chain, and how often it doubles, itself included.
    out
        float64 [n, 1 + sum of lengths], zeros; receives distances, then kernels chain by chain.
    """
    n, m = products.shape
    kind = products.dtype.type
    single = products.itemsize == 4
    least, two = kind(CLOSE if single else 1e-15), kind(2.0)
    for i in prange(n):
        square, power = np.empty(m, dtype=products.dtype), np.empty(m, dtype=products.dtype)
        bits = power.view(np.int32)
        norm, row, close = norms_x[i], products[i], 0
        for j in range(m):
            both = norm + norms_y[j]
            found = both - two * row[j]
            near = found <= least * both
            square[j] = found * kind(not near)
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
    pointers: Array, genes: Array, data: Array, at: int, panel: Array, acc: Array
) -> None:
    """Add the products of the values of one row in one tile with a panel [GENES, WIDTH] to acc."""
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
    """Fill the sums of distances and kernels of sparse rows with each panel of columns.

    Parameters
    ----------
    pointers, genes, data
        Rows [n, G] in tiles of `GENES` genes (`tile`): int64 [tiles n + 1], then per value its
        gene within the tile and itself, float32.
    norms_x
        float64 [n], squared lengths.
    panels
        float32 [P, tiles GENES, WIDTH], columns in panels (`fill_panels`).
    norms_y
        float64 [P WIDTH], squared lengths, 0 where no column is.
    n_columns
        Their number.
    within
        Whether rows and columns are the same cells: each pair is then counted in both orders, and
        that of a cell with itself at distance 0.
    gammas, lengths
        As for `fold_products`.
    out
        float64 [P, 1 + sum of lengths], zeros.
    """
    n, n_panels = len(norms_x), len(panels)
    tiles = (len(pointers) - 1) // n
    least = np.float32(CLOSE)
    for q in prange(n_panels):
        # First and last in turns: within, late panels have more rows, and every thread takes a stretch.
        p = q // 2 if q % 2 == 0 else n_panels - 1 - q // 2
        columns = min(WIDTH, n_columns - p * WIDTH)
        lengths_y = norms_y[p * WIDTH : (p + 1) * WIDTH]
        singles = lengths_y.astype(np.float32)
        room = np.empty(_CHUNK * WIDTH + 16, dtype=np.float32)
        skip = -(room.ctypes.data // 4) % 16
        acc = room[skip : skip + _CHUNK * WIDTH].reshape(_CHUNK, WIDTH)
        power, part = np.empty(WIDTH, dtype=np.float32), np.empty(WIDTH, dtype=np.float32)
        bits = power.view(np.int32)
        last = min(n, (p + 1) * WIDTH) if within else n
        surplus = 0.0
        for begin in range(0, last, _CHUNK):
            end = min(last, begin + _CHUNK)
            acc[: end - begin] = 0
            for tile in range(tiles):
                panel = panels[p, tile * GENES : (tile + 1) * GENES]
                for i in range(begin, end):
                    # Summed tile by tile: rounding then grows with the tile, not with the row, and
                    # cells that share much make the same errors in all pairs.
                    part[:] = 0
                    _multiply(pointers, genes, data, tile * n + i, panel, part)
                    row = acc[i - begin]
                    for j in range(WIDTH):
                        row[j] += part[j]
            for i in range(begin, end):
                square, norm, close = acc[i - begin], np.float32(norms_x[i]), 0
                for j in range(WIDTH):
                    both = norm + singles[j]
                    found = both - np.float32(2.0) * square[j]
                    near = found <= least * both
                    square[j] = found * np.float32(not near)
                    close += near
                for j in range(columns, WIDTH):
                    square[j] = 0
                own = i - p * WIDTH if within else -1
                if own >= 0:
                    square[own] = 0
                if close > (own >= 0):
                    for j in range(columns):
                        if square[j] == 0 and j != own:
                            product = 0.0
                            for tile in range(tiles):
                                at = tile * n + i
                                for k in range(pointers[at], pointers[at + 1]):
                                    value = panels[p, tile * GENES + genes[k], j]
                                    product += np.float64(data[k]) * np.float64(value)
                            whole = norms_x[i] + lengths_y[j]
                            gap = whole - 2 * product
                            square[j] = gap if gap > 1e-14 * whole else 0.0
                weight = 2.0 if within and own < 0 else 1.0
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
    """Sort CSR rows [n, G] into tiles of `GENES` genes, rows in order within each.

    Parameters
    ----------
    pointers, genes, data
        The rows.
    starts
        int64 [tiles n + 1], zeros; receives where the values of each (tile, row) begin.
    places, values
        [nnz], receive each value's gene within its tile, and the value.
    norms
        float64 [n], receives the squared lengths.
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
    place = starts[:-1].copy()
    for i in range(n):
        for k in range(pointers[i], pointers[i + 1]):
            at = genes[k] // GENES * n + i
            places[place[at]] = genes[k] % GENES
            values[place[at]] = data[k]
            place[at] += 1


@njit(parallel=True, nogil=True, cache=True)
def fill_panels(pointers: Array, genes: Array, data: Array, panels: Array) -> None:
    """Write CSR rows as columns of panels, zeros [P, at least G, WIDTH]."""
    n = len(pointers) - 1
    for p in prange(len(panels)):
        for i in range(p * WIDTH, min(n, (p + 1) * WIDTH)):
            for k in range(pointers[i], pointers[i + 1]):
                panels[p, genes[k], i - p * WIDTH] = data[k]
