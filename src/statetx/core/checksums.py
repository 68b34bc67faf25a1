"""Checksums of files, compared in the background while a stage already reads."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import xxhash

from statetx.core.errors import ResultsError

BLOCK = 16 << 20
"""Bytes per block. Each block has its own digest, so threads could hash blocks independently."""
PIECE = 1 << 20
"""Bytes per read: they stay in the processor's cache until they are hashed."""

AT_ONCE = 256 << 20
"""Bytes up to which a file is compared before it is read (about 30 ms); larger ones in threads."""

_WORKERS = 2
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pending: list[Future[None]] = []


def checksum(path: str | Path) -> str:
    """Return the checksum of a file: XXH3-128 of the XXH3-128 digests of its blocks of 16 MiB.

    Hashing runs at 30 GB/s from memory, so the time of a large file is that of reading the disk.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    str
        32 hex digits.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    total = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        piece = memoryview(bytearray(min(PIECE, os.fstat(file.fileno()).st_size + 1)))
        block, room = xxhash.xxh3_128(), BLOCK
        while n := file.readinto(piece[:room]):
            block.update(piece[:n])
            room -= n
            if not room:
                total.update(block.digest())
                block, room = xxhash.xxh3_128(), BLOCK
        if room < BLOCK:
            total.update(block.digest())
    return total.hexdigest()


def compare(path: Path, n_bytes: int, expected: str, fix: str) -> None:
    """Check a file against its size and checksum.

    Parameters
    ----------
    path
        The file.
    n_bytes
        Expected size in bytes.
    expected
        Expected `checksum`.
    fix
        Instruction for the error message.

    Raises
    ------
    ResultsError
        The size or the checksum differs, or the file cannot be read.
    """
    try:
        size = path.stat().st_size
        if size == n_bytes and checksum(path) == expected:
            return
    except OSError as error:
        raise ResultsError(
            f"cannot read the file: {error.strerror}", where=path, fix=fix
        ) from error
    what = f"it has {size} bytes, {n_bytes} were written" if size != n_bytes else "its bytes differ"
    raise ResultsError(
        f"{path.name} is not the file that its stage wrote: {what}", where=path, fix=fix
    )


def compare_in_background(path: Path, n_bytes: int, expected: str, fix: str) -> None:
    """Start `compare` of a large file in a thread; `settle` waits for it and raises its error.

    A file of up to `AT_ONCE` bytes is compared immediately, before anything reads it. Compiled
    loops over damaged row pointers would crash the process.

    Parameters
    ----------
    path, n_bytes, expected, fix
        As in `compare`.

    Raises
    ------
    ResultsError
        A small file differs from what its stage wrote, or cannot be read.
    """
    global _pool
    if n_bytes <= AT_ONCE:
        compare(path, n_bytes, expected, fix)
        return
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="checksum")
        _pending.append(_pool.submit(compare, path, n_bytes, expected, fix))


def settle() -> None:
    """Wait for all comparisons in the background.

    `writes.whole` calls this before it renames an output into place, so that no output is made
    from damaged files.

    Raises
    ------
    ResultsError
        A file differs from what its stage wrote.
    """
    with _lock:
        waiting = list(_pending)
        _pending.clear()
    for future in waiting:
        future.result()
