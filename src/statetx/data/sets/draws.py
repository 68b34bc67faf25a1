"""Compiled draws: which cells form a set, and which controls go with them.

Every number comes from a counter: ``bits(key, i)`` is the i-th output of SplitMix64 (Steele, Lea,
Flood 2014) seeded with `key`, and the key is made of what is drawn (seed, epoch, condition, window).
So a draw does not depend on the order of draws, on threads, on ranks, or on where a run was resumed.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numba
import numpy as np

_compiled: Any = numba.njit(nogil=True, cache=True)

_STEP = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(32)


def name_key(*parts: object) -> np.uint64:
    """Return a 64-bit key of names and numbers."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts).encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), dtype=np.uint64)[0]


@_compiled
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_compiled
def bits(key: np.uint64, counter: int) -> np.uint64:
    """Return 64 random bits."""
    return _mix(np.uint64(key) + (np.uint64(counter) + np.uint64(1)) * _STEP)


@_compiled
def sub_key(key: np.uint64, value: int) -> np.uint64:
    """Return the key of stream `value` under `key`."""
    return _mix(np.uint64(key) ^ bits(np.uint64(0x5851F42D4C957F2D), value))


@_compiled
def below(key: np.uint64, counter: int, n: int) -> Any:
    """Return a number in [0, n), n < 2^32; its bias is below n / 2^32."""
    return np.int64(((bits(key, counter) >> _LOW) * np.uint64(n)) >> _LOW)


@_compiled
def shuffled(key: np.uint64, n: int) -> np.ndarray:
    """Return a random permutation of n numbers (Fisher-Yates), int64."""
    out = np.arange(n)
    for i in range(n - 1):
        j = i + below(key, i, n - i)
        out[i], out[j] = out[j], out[i]
    return out


@_compiled
def window(
    key: np.uint64,
    n: int,
    size: int,
    windows: int,
    number: int,
    mix: int,
    wrap: bool,
    out: np.ndarray,
) -> int:
    """Return the cells of one window of a condition.

    The condition is a ring of n cells, turned to a random start, and cut into windows of `size`.
    `mix` neighbouring windows share their cells anew. The ring, its start and the mixing are a
    function of `key`, the same for all windows of a condition and epoch.

    Parameters
    ----------
    key
        Of condition and epoch.
    n
        Cells of the condition.
    size
        Cells per set, S.
    windows
        Windows of one round, at least 1.
    number
        Which window. Numbers beyond the last start a new round with a new ring.
    mix
        Windows whose cells are mixed.
    wrap
        Fill the last window from the start of the ring, so that every set is full; a condition of
        fewer cells than S then repeats them, each as often as any other, to one.
    out
        int64 [S], gets the cells as numbers in [0, n).

    Returns
    -------
    int
        How many of `out` are cells; S when `wrap`.
    """
    round_key = sub_key(key, number // windows)
    number %= windows
    if n < size:
        if not wrap:
            order = shuffled(round_key, n)
            out[:n] = order
            return n
        for start in range(0, size, n):
            order = shuffled(sub_key(round_key, start), n)
            stop = min(size, start + n)
            out[start:stop] = order[: stop - start]
        return size
    turn = below(round_key, -1, n)
    first = number * size
    length = size if wrap else min(size, n - first)
    if mix <= 1:
        for i in range(length):
            out[i] = (turn + first + i) % n
    elif windows <= mix:
        order = shuffled(sub_key(round_key, 0), n)
        for i in range(length):
            out[i] = order[(first + i) % n]
    else:
        group = number // mix
        start = group * mix * size
        stop = min(start + mix * size, windows * size if wrap else n)
        order = shuffled(sub_key(round_key, 1 + group), stop - start)
        for i in range(length):
            out[i] = (turn + start + order[first - start + i]) % n
    return length


@_compiled
def controls(
    key: np.uint64,
    pool: np.ndarray,
    pool_first: np.ndarray,
    run_start: np.ndarray,
    run_before: np.ndarray,
    paired: bool,
    out: np.ndarray,
) -> None:
    """Draw a control for every cell of a set.

    Parameters
    ----------
    key
        Of the set.
    pool
        Pool of every cell, [n].
    pool_first
        First run of every pool, [pools + 1].
    run_start
        First row of every run of controls, [runs].
    run_before
        Controls of the pool before each run, [runs + 1 per pool]: ``run_before[r + p]`` for run r of
        pool p, and behind its last run the size of the pool.
    paired
        Without replacement inside the set until the pool is exhausted, then again; else
        independent draws.
    out
        int64 [n], gets rows.
    """
    done = np.zeros(pool.shape[0], dtype=np.bool_)
    for begin in range(pool.shape[0]):
        if done[begin]:
            continue
        p = pool[begin]
        first, last = pool_first[p], pool_first[p + 1]
        size = run_before[last + p]
        own = sub_key(key, p)
        taken = np.zeros(size if paired else 0, dtype=np.uint8)
        used, counter = 0, 0
        for i in range(begin, pool.shape[0]):
            if pool[i] != p:
                continue
            done[i] = True
            number = below(own, counter, size)
            counter += 1
            if paired:
                if used == size:  # all were taken: the next round
                    taken[:] = 0
                    used = 0
                while taken[number]:
                    number = below(own, counter, size)
                    counter += 1
                taken[number] = 1
                used += 1
            run = first
            while run_before[run + 1 + p] <= number:
                run += 1
            out[i] = run_start[run] + number - run_before[run + p]


@_compiled
def draw_sets(
    chosen: np.ndarray,
    number: np.ndarray,
    keys: np.ndarray,
    n_cells: np.ndarray,
    windows: np.ndarray,
    identity: np.ndarray,
    first_block: np.ndarray,
    block_row: np.ndarray,
    block_before: np.ndarray,
    block_pool: np.ndarray,
    pool_first: np.ndarray,
    run_start: np.ndarray,
    run_before: np.ndarray,
    seed: int,
    epoch: int,
    mix: int,
    wrap: bool,
    paired: bool,
    rows: np.ndarray,
    basal: np.ndarray,
    length: np.ndarray,
) -> None:
    """Draw sets and their controls.

    Parameters
    ----------
    chosen, number
        Condition, and window of it, of every set, [B].
    keys, n_cells, windows, identity
        Of every condition: its key, cells, windows per round, whether a cell is its own control.
    first_block
        First block of every condition, [conditions + 1]. A block is a run of rows of one batch.
    block_row, block_before, block_pool
        Of every block: first row, cells of the condition before it, pool of its controls.
    pool_first, run_start, run_before
        Pools, see `controls`.
    seed, epoch, mix, wrap, paired
        See `window` and `controls`.
    rows, basal
        int64 [B, S], get the rows of cells and of their controls.
    length
        int64 [B], gets the number of cells of every set; what lies behind is its first cell.
    """
    size = rows.shape[1]
    pool = np.empty(size, dtype=np.int64)
    for b in range(chosen.shape[0]):
        c = chosen[b]
        key = sub_key(sub_key(keys[c], seed), epoch)
        n = window(key, n_cells[c], size, windows[c], number[b], mix, wrap, rows[b])
        length[b] = n
        for i in range(n):
            cell = rows[b, i]
            low, high = first_block[c], first_block[c + 1] - 1
            while low < high:  # the last block that starts at or before the cell
                middle = (low + high + 1) // 2
                if block_before[middle] <= cell:
                    low = middle
                else:
                    high = middle - 1
            rows[b, i] = block_row[low] + cell - block_before[low]
            pool[i] = block_pool[low]
        if identity[c]:
            basal[b, :n] = rows[b, :n]
        else:
            own = sub_key(sub_key(key, number[b]), -2)
            controls(own, pool[:n], pool_first, run_start, run_before, paired, basal[b, :n])
        rows[b, n:] = rows[b, 0]
        basal[b, n:] = basal[b, 0]
