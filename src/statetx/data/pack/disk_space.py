"""Check of free disk space before packing begins.

Packing does not import this module, so a change of the estimate makes no store stale.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from statetx.config import Dataset
from statetx.core.errors import ResultsError
from statetx.data.h5ad.header import header, opened
from statetx.data.h5ad.matrix import Matrix
from statetx.data.inspection.estimate import PackNeed, pack_bytes, value_bytes
from statetx.data.inspection.scale import look

log = logging.getLogger("statetx.pack")


def need(files: Sequence[str | Path], settings: Dataset) -> PackNeed:
    """Return the disk space that packing takes, from headers and a sample of cells.

    Parameters
    ----------
    files
        h5ad files.
    settings
        Settings of the data set.

    Raises
    ------
    DataError
        A file contradicts the settings, or cannot be read.
    """
    parts, store, spill = 0, 0, 0
    for path in map(Path, files):
        found = header(path, settings)
        with opened(path) as file:
            x = Matrix(file, "X", path)
            seen = look(x)
            if x.layout == "csc":  # a temporary file holds each value with two 4-byte numbers
                spill = max(spill, (8 + x.dtype.itemsize) * (x.nonzeros or 0))
        nonzeros = found.nonzeros
        if nonzeros is None:
            nonzeros = round((1.0 - seen.zeros) * found.n_cells * len(found.genes))
        dense = {key: width * bytes_each(key, settings) for key, width in found.widths.items()}
        kind = value_bytes(seen.largest_count)
        file_need = pack_bytes(found.n_cells, nonzeros, len(found.genes), kind, dense)
        parts, store = parts + file_need.parts, store + file_need.store
    return PackNeed(parts + spill, store)


def bytes_each(key: str, settings: Dataset) -> int:
    """Return the bytes per number of a packed obsm matrix: 2 for an embedding as float16, else 4."""
    narrow = settings.embed_dtype == "float16" and key != settings.expression_key
    return 2 if narrow else 4


def check_room(
    files: Sequence[str | Path],
    settings: Dataset,
    place: str | Path,
    parts: str | Path | None = None,
) -> None:
    """Log the disk space that packing takes, and check that it is free.

    Parameters
    ----------
    files
        h5ad files to pack.
    settings
        Settings of the data set.
    place
        Directory of the store, which need not exist.
    parts
        Directory of the parts of an interrupted packing. Parts and packed lines are used again or
        replaced, so their space counts as free.

    Raises
    ------
    DataError
        A file contradicts the settings, or cannot be read.
    ResultsError
        The disk does not have enough free space.
    """
    wanted = need(files, settings)
    directory = next(p for p in (Path(place), *Path(place).absolute().parents) if p.exists())
    earlier = [*Path(place).glob("*.h5ad"), *(Path(parts).rglob("*") if parts else ())]
    free = shutil.disk_usage(directory).free + sum(map(_size, earlier))
    total = wanted.parts + wanted.store
    needed = (
        f"{in_words(total)} of disk ({in_words(wanted.store)} for the store, the rest is temporary)"
    )
    log.info("packing takes about %s; %s are free", needed, in_words(free))
    if total > free:
        raise ResultsError(
            f"packing needs about {needed}, but only {in_words(free)} are free",
            where=directory.absolute(),
            fix="free disk space, or run in a directory on another disk",
        )


def _size(path: Path) -> int:
    """Return the size of a file; 0 if it is not a file or was just removed."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # another process has just removed it
        return 0


def in_words(n_bytes: float) -> str:
    """Return a number of bytes as text: ``3.2 GB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes / 1e3:.1f} kB"
