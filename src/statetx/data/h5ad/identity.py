"""Identity of a source file, computed without reading its cells.

A copy of a file has the same identity, so copying reruns nothing. A change that the digest covers
gives another identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from statetx.data.h5ad.open_h5ad import opened, walk

_EDGE = 4096
"""Elements at each end of a large HDF5 dataset that enter the digest."""
_PIECE = 1 << 18
"""Rows read at once of a dataset that enters the digest as a whole."""


def identity(path: str | Path, columns: Iterable[str | None]) -> str:
    """Return the identity of a file: its size and a digest, without the modification time.

    The digest covers name, attributes, type, shape and storage size of every HDF5 object. It covers
    the given obs columns and all of var as a whole, and both ends of every other dataset.

    Parameters
    ----------
    path
        The h5ad.
    columns
        Columns of obs that enter as a whole. None entries are skipped; a missing column enters as
        missing.

    Raises
    ------
    DataError
        The file is missing or unreadable.
    """
    wanted = [f"obs/{name}" for name in sorted({name for name in columns if name is not None})]
    seen = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        seen.update(name.encode("utf-8", "surrogateescape"))
        if isinstance(item, str):  # a link inside the file
            seen.update(item.encode())
            return
        try:
            for key in sorted(item.attrs):
                seen.update(f"{key}={item.attrs[key]!r}".encode())
            if isinstance(item, h5py.Dataset):
                seen.update(f"{item.dtype}{item.shape}{item.id.get_storage_size()}".encode())
                entire = name.startswith("var/") or any(
                    f"{name}/".startswith(f"{w}/") for w in wanted
                )
                for part in _parts(item, entire):
                    seen.update(_bytes(part))
        except Exception:  # packing reads what it needs again and raises the error
            seen.update(b"unreadable")

    with opened(path) as file:
        seen.update(repr([name in file for name in wanted]).encode())
        for name, item in walk(file, Path(path)):
            add(name, item)
    return f"{Path(path).stat().st_size}-{seen.hexdigest()[:16]}"


def _parts(item: h5py.Dataset, entire: bool) -> Iterator[Any]:
    """Yield the parts of a dataset that enter the digest: all, or both ends if it is large."""
    if item.shape is None:
        return
    if item.shape == () or item.size <= 2 * _EDGE:
        yield item[()]
    elif entire:
        for start in range(0, item.shape[0], _PIECE):
            yield item[start : start + _PIECE]
    else:
        rows = max(1, _EDGE * item.shape[0] // item.size)
        yield item[:rows]
        yield item[-rows:]


def _bytes(part: Any) -> bytes:
    values = np.asarray(part)
    return repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
