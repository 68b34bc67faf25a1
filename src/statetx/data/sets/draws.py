"""Compiled draws of sets: the cells of each set and a control for each cell.

Every number comes from a counter: ``bits(key, i)`` is the i-th output of SplitMix64 (Steele, Lea,
Flood 2014) seeded with `key`. The key is made of seed, epoch, condition and window. A draw
therefore does not depend on the order of draws, the threads, the ranks, or the step at which a run
resumed.

Shapes: B sets of S cells; C conditions, K blocks, P control pools, R runs of controls.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numba
import numpy as np

_compiled: Any = numba.njit(nogil=True, cache=True)

_STEP = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(32)


class Conditions(NamedTuple):
    """Conditions and the blocks of rows that hold their cells.

    A block is a run of rows of one condition and one batch. The blocks of a condition are adjacent.
    Build it with keywords: six of its arrays have the same type.

    Attributes
    ----------
    keys
        Key of each condition, uint64 [C].
    n_cells
        Cells of each condition, int64 [C].
    windows
        Windows per round of each condition, int64 [C].
    identity
        Whether each cell of the condition is its own control, bool [C].
    first_block
        First block of each condition, and K at the end, int64 [C + 1].
    block_row
        First row of each block in the store of its line, int64 [K].
    block_before
        Cells of the same condition in earlier blocks, int64 [K].
    block_pool
        Control pool of each block, int64 [K].
    """

    keys: np.ndarray
    n_cells: np.ndarray
    windows: np.ndarray
    identity: np.ndarray
    first_block: np.ndarray
    block_row: np.ndarray
    block_before: np.ndarray
    block_pool: np.ndarray


class ControlRuns(NamedTuple):
    """Control pools, each a list of runs of rows. Build it with keywords.

    Attributes
    ----------
    first_run
        First run of each pool, and R at the end, int64 [P + 1].
    run_start
        First row of each run, int64 [R].
    run_before
        Controls of the pool before each run, then the size of the pool, int64 [R + P].
        ``run_before[r + p]`` belongs to run r of pool p.
    """

    first_run: np.ndarray
    run_start: np.ndarray
    run_before: np.ndarray


def name_key(*parts: object) -> np.uint64:
    """Return a 64-bit key made of names and numbers."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts).encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), dtype=np.uint64)[0]


@_compiled
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_compiled
def bits(key: np.uint64, counter: int) -> np.uint64:
    """Return 64 random bits: output `counter` of SplitMix64 seeded with `key`."""
    return _mix(np.uint64(key) + (np.uint64(counter) + np.uint64(1)) * _STEP)


@_compiled
def sub_key(key: np.uint64, value: int) -> np.uint64:
    """Return the key of stream `value` under `key`."""
    return _mix(np.uint64(key) ^ bits(np.uint64(0x5851F42D4C957F2D), value))


@_compiled
def below(key: np.uint64, counter: int, n: int) -> Any:
    """Return a random number in [0, n) for n < 2^32, with a bias below n / 2^32."""
    return np.int64(((bits(key, counter) >> _LOW) * np.uint64(n)) >> _LOW)


@_compiled
def shuffled(key: np.uint64, n: int) -> np.ndarray:
    """Return a random permutation of 0 … n - 1 (Fisher-Yates), int64 [n]."""
    out = np.arange(n)  # int64 [n]
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
    """Write the cells of one window of a condition into `out`.

    The condition is a ring of n cells with a random start, cut into windows of `size` cells. The
    cells of `mix` neighbouring windows are shuffled together. Ring, start and shuffle depend on
    `key` and the round alone, so all windows of a round share them.

    Parameters
    ----------
    key
        Key of condition and epoch.
    n
        Cells of the condition.
    size
        Cells per set, S.
    windows
        Windows of one round, at least 1.
    number
        Number of the window. A number of `windows` or more belongs to a later round, with a new
        ring.
    mix
        Neighbouring windows that are shuffled together.
    wrap
        Fill the last window from the start of the ring, so that every set is full. A condition of
        fewer than S cells then repeats its cells; their frequencies differ by one at most.
    out
        Cells as numbers in [0, n), int64 [S], written here.

    Returns
    -------
    int
        Number of cells written to `out`; S when `wrap`.
    """
    round_key = sub_key(key, number // windows)
    number %= windows
    if n < size:
        if not wrap:
            order = shuffled(round_key, n)  # [n]
            out[:n] = order
            return n
        for start in range(0, size, n):
            order = shuffled(sub_key(round_key, start), n)  # [n]
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
        order = shuffled(sub_key(round_key, 0), n)  # [n]
        for i in range(length):
            out[i] = order[(first + i) % n]
    else:
        group = number // mix
        start = group * mix * size
        stop = min(start + mix * size, windows * size if wrap else n)
        order = shuffled(sub_key(round_key, 1 + group), stop - start)  # [mix * S or fewer]
        for i in range(length):
            out[i] = (turn + start + order[first - start + i]) % n
    return length


@_compiled
def controls(
    key: np.uint64,
    pool: np.ndarray,
    runs: ControlRuns,
    paired: bool,
    out: np.ndarray,
) -> None:
    """Draw a control for every cell of a set.

    Parameters
    ----------
    key
        Key of the set.
    pool
        Pool of each cell, int64 [n].
    runs
        Control pools.
    paired
        Draw without replacement until the pool is exhausted, then start again. False: independent
        draws.
    out
        Row of each cell's control, int64 [n], written here.
    """
    done = np.zeros(pool.shape[0], dtype=np.bool_)  # [n]
    for begin in range(pool.shape[0]):
        if done[begin]:
            continue
        p = pool[begin]
        first, last = runs.first_run[p], runs.first_run[p + 1]
        size = runs.run_before[last + p]
        pool_key = sub_key(key, p)
        taken = np.zeros(size if paired else 0, dtype=np.uint8)  # [controls of the pool]
        used, counter = 0, 0
        for i in range(begin, pool.shape[0]):
            if pool[i] != p:
                continue
            done[i] = True
            number = below(pool_key, counter, size)
            counter += 1
            if paired:
                if used == size:  # all were taken: the next round
                    taken[:] = 0
                    used = 0
                while taken[number]:
                    number = below(pool_key, counter, size)
                    counter += 1
                taken[number] = 1
                used += 1
            run = first
            while runs.run_before[run + 1 + p] <= number:
                run += 1
            out[i] = runs.run_start[run] + number - runs.run_before[run + p]


@_compiled
def draw_sets(
    chosen: np.ndarray,
    number: np.ndarray,
    conditions: Conditions,
    runs: ControlRuns,
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
    chosen
        Condition of each set, int64 [B].
    number
        Window of that condition, int64 [B], see `window`.
    conditions
        Conditions and their blocks.
    runs
        Control pools.
    seed, epoch
        Part of every key.
    mix, wrap
        See `window`.
    paired
        See `controls`.
    rows
        Row of each cell, int64 [B, S], written here.
    basal
        Row of each cell's control, int64 [B, S], written here.
    length
        Number of cells of each set, int64 [B], written here. Later entries of `rows` and `basal`
        repeat the first one.
    """
    size = rows.shape[1]
    pool = np.empty(size, dtype=np.int64)  # [S]
    for b in range(chosen.shape[0]):
        c = chosen[b]
        key = sub_key(sub_key(conditions.keys[c], seed), epoch)
        n_cells, windows = conditions.n_cells[c], conditions.windows[c]
        n = window(key, n_cells, size, windows, number[b], mix, wrap, rows[b])
        length[b] = n
        for i in range(n):
            cell = rows[b, i]
            low, high = conditions.first_block[c], conditions.first_block[c + 1] - 1
            while low < high:  # the last block that starts at or before the cell
                middle = (low + high + 1) // 2
                if conditions.block_before[middle] <= cell:
                    low = middle
                else:
                    high = middle - 1
            rows[b, i] = conditions.block_row[low] + cell - conditions.block_before[low]
            pool[i] = conditions.block_pool[low]
        if conditions.identity[c]:
            basal[b, :n] = rows[b, :n]
        else:
            set_key = sub_key(sub_key(key, number[b]), -2)
            controls(set_key, pool[:n], runs, paired, basal[b, :n])
        rows[b, n:] = rows[b, 0]
        basal[b, n:] = basal[b, 0]
