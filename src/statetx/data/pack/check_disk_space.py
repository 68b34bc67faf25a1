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
from statetx.data.inspection.disk_and_memory import FileSize, PackNeed, pack_need
from statetx.data.inspection.scale import look

log = logging.getLogger("statetx.pack")


def need(files: Sequence[str | Path], settings: Dataset) -> PackNeed:
    """Return what packing the files takes on disk, from their headers and a sample of cells."""
    return pack_need((_size_of(Path(path), settings) for path in files), settings)


def _size_of(path: Path, settings: Dataset) -> FileSize:
    found = header(path, settings)
    with opened(path) as file:
        x = Matrix(file, "X", path)
        seen = look(x)
    nonzeros = found.nonzeros
    if nonzeros is None:
        nonzeros = round((1.0 - seen.zeros) * found.n_cells * len(found.genes))
    return FileSize(
        n_cells=found.n_cells,
        nonzeros=nonzeros,
        n_genes=len(found.genes),
        largest_count=seen.largest_count,
        widths=found.widths,
        csc_value_bytes=x.dtype.itemsize if x.layout == "csc" else None,
    )


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
