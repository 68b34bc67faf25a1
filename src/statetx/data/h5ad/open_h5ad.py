"""Open an h5ad and reach what lies in it: the one gate through which all commands read.

`opened` recognises what is not an h5ad. `child` finds an element and refuses what would lead out of
the file, cannot be unpacked, or would fill the memory. `reading` turns whatever goes wrong while an
element is read into one `DataError` that names it.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from statetx.core.errors import DataError, StatetxError, did_you_mean
from statetx.core.writes import disk_full
from statetx.data.h5ad.foreign import refuse_foreign, refuse_other_hdf5

IN_MEMORY, MOST_ROWS, RATIO = 1 << 28, 1 << 24, 32
"""An array that is read as a whole is refused above so many bytes, or entries, where they are more
than so many times the whole file: deflate makes gigabytes of megabytes, data does not."""
IN_PIECES, PIECES_RATIO = 1 << 32, 300
"""The same, in bytes, for what is read in pieces: a dense matrix of few values packs well."""
MOST_OBJECTS, DEEPEST = 200_000, 64
"""Objects of a file, and groups inside each other: no writer of h5ads comes near."""

_REWRITE = "read it with a current anndata and write it again"


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open an h5ad for reading; whatever HDF5 cannot read inside the block is a DataError.

    Raises
    ------
    DataError
        The file is not an h5ad, is locked, damaged, or ends in the middle.
    """
    path = Path(path)
    refuse_foreign(path)
    try:
        file = h5py.File(path, "r")
    except Exception as error:
        raise _closed(path, error) from error
    with file:
        with reading(path, "this file"):
            refuse_other_hdf5(file, path)
        try:
            yield file
        except StatetxError:
            raise
        except Exception as error:
            # Only what the readers of h5ads raised is a fault of this file.
            if disk_full(error) or not _from_reader(error):
                raise
            raise unreadable(error, path, "this file") from error


@contextlib.contextmanager
def reading(path: Path, element: str) -> Iterator[None]:
    """Turn whatever goes wrong while an element is read into a DataError that names it.

    Parameters
    ----------
    path
        The file.
    element
        What is read, as a user would write it: ``obs['drug']``.
    """
    try:
        yield
    except StatetxError:
        raise
    except Exception as error:
        if disk_full(error):  # of a write inside the block: nothing is wrong with this file
            raise
        raise unreadable(error, path, element) from error


def _from_reader(error: BaseException) -> bool:
    at = error.__traceback__
    while at is not None:
        if str(at.tb_frame.f_globals.get("__name__")).split(".")[0] in ("h5py", "anndata"):
            return True
        at = at.tb_next
    return False


def unreadable(error: BaseException, path: Path, element: str) -> DataError:
    """Return the DataError that says why an element could not be read."""
    said = " ".join(str(error.args[0] if error.args else "").split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return DataError(
            f"cannot read {element}: it takes more memory than there is ({said})",
            where=path,
            fix="check its shape, or use a machine with more memory",
        )
    if (
        isinstance(error, OSError)
        and error.errno is None
        and re.search("required filter|plugin|not registered", said)
    ):
        return _no_filter(element, path, said)
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return DataError(
            f"cannot read {element}: the disk or the network failed ({error.strerror or said})",
            where=path,
            fix="try again, or copy the file to another disk",
        )
    if isinstance(error, OSError) or "read data" in said:
        return DataError(
            f"cannot read {element}: {said}",
            where=path,
            fix="it is truncated or damaged: copy or write it again",
        )
    return DataError(
        f"cannot read {element}: it is not stored as in an h5ad ({type(error).__name__}: {said})",
        where=path,
        fix=_REWRITE,
    )


def _closed(path: Path, error: BaseException) -> DataError:
    """Say why HDF5 did not open a file."""
    said = str(error)
    if "lock file" in said:
        return DataError(
            "cannot read this file: another process has it open for writing",
            where=path,
            fix="close it there (in a notebook: adata.file.close(), or restart the kernel). If "
            "nobody writes to it and the disk cannot lock files, set HDF5_USE_FILE_LOCKING=FALSE",
        )
    if "already open for" in said:
        return DataError(
            "cannot read this file: it is marked as open for writing, by a program that writes to "
            "it or that died",
            where=path,
            fix=f"close it there, or remove the mark: h5clear -s {path}",
        )
    return unreadable(error, path, "this file")


# ---------------------------------------------------------------------------------------------
# elements


def has(group: h5py.Group, name: str) -> bool:
    """Whether a group lists a name, even as a link that leads nowhere."""
    item: Any = group
    for part in name.split("/"):
        if part in ("", ".") or not isinstance(item, h5py.Group):
            return False
        if not item.id.links.exists(_bytes(part)):
            return False
        item = _target(item, part)
    return True


def _target(group: h5py.Group, name: str) -> Any:
    """Return what a link leads to; None where it leads nowhere, or in a circle."""
    with contextlib.suppress(KeyError, RuntimeError, OSError):
        return group[_bytes(name)]
    return None


def child(group: h5py.Group, name: str, path: Path) -> Any:
    """Return ``group[name]``, a group or a dataset that can be read.

    Raises
    ------
    DataError
        There is none; a link leads out of the file or nowhere; its filter is not installed; it would
        fill the memory.
    """
    item: Any = group
    for part in name.split("/"):
        if not isinstance(item, h5py.Group) or not has(item, part):
            held = list(map(readable, names_in(item))) if isinstance(item, h5py.Group) else []
            raise DataError(
                f"{_place(item)} has no {part!r}", where=path, fix=did_you_mean(part, held)
            )
        refuse_link(item, part, path)
        with reading(path, f"{_place(item)}/{part}"):
            item = item[_bytes(part)]
    if isinstance(item, h5py.Dataset):
        sound(item, path)
    return item


def members(file: h5py.File, name: str, path: Path) -> list[str]:
    """Return the names in a group of the file, [] where there is no such group."""
    if not has(file, name):
        return []
    group = child(file, name, path)
    return names_in(group) if isinstance(group, h5py.Group) else []


def attribute(item: h5py.Group | h5py.Dataset, name: str) -> Any:
    """Return an attribute: text as str, lists as lists of str or numbers; None: there is none."""
    if name not in item.attrs:
        return None
    value = item.attrs[name]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_text(one) for one in value]
    return _text(value)


def names_in(group: h5py.Group) -> list[str]:
    """Return the names in a group as text, whatever their bytes."""
    names = list(group)
    return [n.decode("utf-8", "surrogateescape") if isinstance(n, bytes) else n for n in names]


def readable(name: str) -> str:
    """Return a name of HDF5 with bytes that are not UTF-8 spelt out, so that it can be printed."""
    return name.encode(errors="backslashreplace").decode()


def _text(value: Any) -> Any:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _place(item: Any) -> str:
    return readable(str(item.name)).strip("/") or "the file"


def refuse_link(group: h5py.Group, name: str, path: Path) -> None:
    """Refuse a link that leads into another file, or nowhere.

    Raises
    ------
    DataError
        The data is not in this file: whether it changed could not be told.
    """
    links = group.id.links
    kind = links.get_info(_bytes(name)).type
    place = f"{_place(group)}/{readable(name)}".removeprefix("the file/")
    if kind == h5py.h5l.TYPE_EXTERNAL:
        target = " in ".join(repr(_text(part)) for part in reversed(links.get_val(_bytes(name))))
        raise DataError(
            f"{place!r} is a link to {target}, another file",
            where=path,
            fix="links to other files are not followed: put the data into the file itself with "
            "anndata.read_h5ad(path).write_h5ad(new)",
        )
    if kind == h5py.h5l.TYPE_SOFT and _target(group, name) is None:
        target = _text(links.get_val(_bytes(name)))
        raise DataError(
            f"{place!r} is a link to {target!r}, which leads nowhere",
            where=path,
            fix="copy or write the file again, with the data in it",
        )


def sound(item: h5py.Dataset, path: Path) -> None:
    """Refuse a dataset that lies elsewhere, cannot be unpacked, or would fill the memory in pieces.

    Raises
    ------
    DataError
        As said.
    """
    name = _place(item)
    try:
        kind = item.dtype
    except TypeError as error:
        raise DataError(
            f"{name!r} holds values of a type that cannot be read ({error})",
            where=path,
            fix="store it as numbers or as text",
        ) from error
    if item.shape is None:
        return
    if item.is_virtual or item.external:
        raise DataError(
            f"{name!r} lies in other files",
            where=path,
            fix="put the data into the file itself: anndata.read_h5ad(path).write_h5ad(new)",
        )
    settings = item.id.get_create_plist()
    for i in range(settings.get_nfilters()):
        number, _, _, label = settings.get_filter(i)
        if not h5py.h5z.filter_avail(number) and not _plugin(number):
            raise _no_filter(name, path, _text(label) or f"filter {number}")
    chunk = int(np.prod(item.chunks or (0,), dtype=object)) * kind.itemsize
    size = int(np.prod(item.shape, dtype=object)) * kind.itemsize
    held = item.file.id.get_filesize()
    if chunk > max(IN_MEMORY, RATIO * held) or size > max(IN_PIECES, PIECES_RATIO * held):
        raise swollen(name, path, max(chunk, size), held)


def in_memory(item: h5py.Dataset, path: Path) -> h5py.Dataset:
    """Return a dataset that is about to be read as a whole.

    Raises
    ------
    DataError
        A small file would become gigabytes.
    """
    entries = int(np.prod(item.shape or (1,), dtype=object))
    size, held = entries * item.dtype.itemsize, item.file.id.get_filesize()
    if (size > IN_MEMORY or entries > MOST_ROWS) and size > RATIO * held:
        raise swollen(_place(item), path, size, held)
    return item


def swollen(name: str, path: Path, size: int, held: int) -> DataError:
    """Return the error about an element that would unpack to many times the file."""
    return DataError(
        f"{name!r} would unpack to {size / 1e9:,.3g} GB, but the whole file has {held / 1e6:,.3g} MB",
        where=path,
        fix="no data looks like that: write the file again",
    )


def _plugin(number: int) -> bool:
    """Whether a filter is known once the package of filters is loaded, where it is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")
    return bool(h5py.h5z.filter_avail(number))


def _no_filter(element: str, path: Path, said: str) -> DataError:
    return DataError(
        f"cannot read {element}: it is compressed by a filter that is not installed ({said})",
        where=path,
        fix="pip install hdf5plugin, or write the file again with compression='gzip'",
    )


def walk(file: h5py.File, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (name, object) of groups and datasets, each once, groups before what lies in them.

    In the order of names, as HDF5 visits them. Of a link that names its target, the target comes as
    text. What lies deeper than `DEEPEST`, or after `MOST_OBJECTS`, is left out: nothing is read there.
    """
    seen = {_address(file)}
    waiting = [(name, file, name) for name in sorted(names_in(file), key=_bytes, reverse=True)]
    while waiting and len(seen) <= MOST_OBJECTS:
        full, group, name = waiting.pop()
        if group.id.links.get_info(_bytes(name)).type != h5py.h5l.TYPE_HARD:
            yield full, str(group.id.links.get_val(_bytes(name)))
            continue
        with reading(path, full):
            item = group[_bytes(name)]
            address = _address(item)
        if address in seen:
            continue
        seen.add(address)
        yield full, item
        if isinstance(item, h5py.Group) and full.count("/") < DEEPEST:
            inside = sorted(names_in(item), key=_bytes, reverse=True)
            waiting += [(f"{full}/{one}", item, one) for one in inside]


def _address(item: Any) -> tuple[int, int]:
    found = h5py.h5o.get_info(item.id)
    return found.fileno, found.addr
