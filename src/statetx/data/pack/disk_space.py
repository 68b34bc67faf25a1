"""Whether there is disk enough to pack, asked before the work begins.

Apart from packing itself: a better estimate must not make stores stale.
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
    """Return what packing the files takes on disk, from their headers and a sample of cells."""
    parts, store, spill = 0, 0, 0
    for path in map(Path, files):
        found = header(path, settings)
        with opened(path) as file:
            x = Matrix(file, "X", path)
            seen = look(x)
            if (
                x.layout == "csc"
            ):  # dealt into rows beside the part, with two numbers of 4 bytes each
                spill = max(spill, (8 + x.dtype.itemsize) * (x.nonzeros or 0))
        nonzeros = found.nonzeros
        if nonzeros is None:
            nonzeros = round((1.0 - seen.zeros) * found.n_cells * len(found.genes))
        dense = {key: width * bytes_each(key, settings) for key, width in found.widths.items()}
        kind = value_bytes(seen.largest_count)
        one = pack_bytes(found.n_cells, nonzeros, len(found.genes), kind, dense)
        parts, store = parts + one.parts, store + one.store
    return PackNeed(parts + spill, store)


def bytes_each(key: str, settings: Dataset) -> int:
    """Return the bytes of a stored number of an obsm matrix: only embeddings may be narrowed."""
    narrow = settings.embed_dtype == "float16" and key != settings.expression_key
    return 2 if narrow else 4


def check_room(
    files: Sequence[str | Path],
    settings: Dataset,
    place: str | Path,
    parts: str | Path | None = None,
) -> None:
    """Say what packing takes on disk, and refuse to begin where that is not free.

    Parameters
    ----------
    files, settings
        What is to be packed.
    place
        Directory where the store will lie; need not exist.
    parts
        Directory of the parts of an interrupted packing: what lies there, and packed lines, is
        used again or replaced, so its room counts as free.

    Raises
    ------
    DataError
        The files cannot be read.
    ResultsError
        The disk has not enough room.
    """
    wanted = need(files, settings)
    here = next(path for path in (Path(place), *Path(place).absolute().parents) if path.exists())
    lying = [*Path(place).glob("*.h5ad"), *(Path(parts).rglob("*") if parts else ())]
    free = shutil.disk_usage(here).free + sum(map(_size, lying))
    total = wanted.parts + wanted.store
    said = f"{in_words(total)} of disk ({in_words(wanted.store)} for the store, the rest while it is made)"
    log.info("packing takes about %s; %s are free", said, in_words(free))
    if total > free:
        raise ResultsError(
            f"packing needs about {said}, but only {in_words(free)} are free",
            where=here.absolute(),
            fix="free disk space, or run in a directory on another disk",
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # another process has just removed it
        return 0


def in_words(n_bytes: float) -> str:
    """Return bytes in words: ``3.2 GB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes / 1e3:.1f} kB"
