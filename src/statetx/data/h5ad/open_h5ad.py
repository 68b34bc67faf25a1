"""Safe access to an h5ad and its elements. All commands read h5ads through this module.

`opened` refuses files that are not h5ads. `child` returns an element; it refuses links to other
files, data that cannot be decompressed, and data that would fill the memory. `reading` converts any
error while an element is read into a `DataError` that names the element.
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
"""Limits of an array that is read as a whole: bytes, entries, and bytes relative to the file.

An array is refused if it exceeds one of the first two and the last. Deflate can turn megabytes into
gigabytes, but real data does not compress that much.
"""
IN_PIECES, PIECES_RATIO = 1 << 32, 300
"""The same limits, in bytes, of an array that is read in pieces.

They are higher, because a dense matrix with few different values compresses well.
"""
MOST_OBJECTS, DEEPEST = 200_000, 64
"""Most objects that `walk` visits, and deepest nesting of groups. h5ads stay far below."""

_REWRITE = "read it with a current anndata and write it again"


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open an h5ad for reading, and convert errors of HDF5 inside the block to a DataError.

    Raises
    ------
    DataError
        The file is not an h5ad, or is locked, damaged or truncated.
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
            # Only errors raised by h5py or anndata are due to this file.
            if disk_full(error) or not _from_reader(error):
                raise
            raise unreadable(error, path, "this file") from error


@contextlib.contextmanager
def reading(path: Path, element: str) -> Iterator[None]:
    """Convert any error while an element is read into a DataError that names the element.

    Parameters
    ----------
    path
        The file.
    element
        Name of the element as a user writes it: ``obs['drug']``.
    """
    try:
        yield
    except StatetxError:
        raise
    except Exception as error:
        if disk_full(error):  # raised by a write inside the block, not by reading this file
            raise
        raise unreadable(error, path, element) from error


def _from_reader(error: BaseException) -> bool:
    """Return whether an error passed through code of h5py or anndata."""
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
            f"cannot read {element}: it takes more memory than is available ({said})",
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
    """Return the DataError that says why HDF5 did not open a file."""
    said = str(error)
    if "lock file" in said:
        return DataError(
            "cannot read this file: another process has it open for writing",
            where=path,
            fix="close it in that process (in a notebook: adata.file.close(), or restart the kernel). "
            "If no process writes to it and the disk cannot lock files, set "
            "HDF5_USE_FILE_LOCKING=FALSE",
        )
    if "already open for" in said:
        return DataError(
            "cannot read this file: it is marked as open for writing, by a program that is running "
            "or was killed",
            where=path,
            fix=f"close it in that program, or remove the mark: h5clear -s {path}",
        )
    return unreadable(error, path, "this file")


# ---------------------------------------------------------------------------------------------
# elements


def has(group: h5py.Group, name: str) -> bool:
    """Return whether a group lists a name, even as a link without a target."""
    item: Any = group
    for part in name.split("/"):
        if part in ("", ".") or not isinstance(item, h5py.Group):
            return False
        if not item.id.links.exists(_bytes(part)):
            return False
        item = _target(item, part)
    return True


def _target(group: h5py.Group, name: str) -> Any:
    """Return the target of a link; None if it has no target or is circular."""
    with contextlib.suppress(KeyError, RuntimeError, OSError):
        return group[_bytes(name)]
    return None


def child(group: h5py.Group, name: str, path: Path) -> Any:
    """Return ``group[name]``, a group or a dataset that can be read.

    Parameters
    ----------
    group
        The open file, or a group of it.
    name
        Name inside the group, with ``/`` between levels.
    path
        The file, for messages.

    Raises
    ------
    DataError
        The element does not exist, is a link to another file or without a target, needs a filter
        that is not installed, or would fill the memory.
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
    """Return the names in a group of the file; [] if the group does not exist."""
    if not has(file, name):
        return []
    group = child(file, name, path)
    return names_in(group) if isinstance(group, h5py.Group) else []


def attribute(item: h5py.Group | h5py.Dataset, name: str) -> Any:
    """Return an attribute with text as str and arrays as lists; None if it does not exist."""
    if name not in item.attrs:
        return None
    value = item.attrs[name]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_text(entry) for entry in value]
    return _text(value)


def names_in(group: h5py.Group) -> list[str]:
    """Return the names in a group as text; bytes that are not UTF-8 become surrogates."""
    names = list(group)
    return [n.decode("utf-8", "surrogateescape") if isinstance(n, bytes) else n for n in names]


def readable(name: str) -> str:
    """Return a printable name: bytes that are not UTF-8 are written as escapes."""
    return name.encode(errors="backslashreplace").decode()


def _text(value: Any) -> Any:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _place(item: Any) -> str:
    return readable(str(item.name)).strip("/") or "the file"


def refuse_link(group: h5py.Group, name: str, path: Path) -> None:
    """Refuse a link to another file or without a target.

    Changes of data in another file would not be noticed.

    Raises
    ------
    DataError
        ``group[name]`` is such a link.
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
            f"{place!r} is a broken link to {target!r}",
            where=path,
            fix="copy or write the file again, with the data in it",
        )


def sound(item: h5py.Dataset, path: Path) -> None:
    """Check that a dataset can be read in pieces.

    Raises
    ------
    DataError
        The dataset has an unreadable type, is stored in other files, needs a filter that is not
        installed, or would fill the memory.
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
            f"{name!r} is stored in other files",
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
    """Return a dataset after a check that it can be read as a whole.

    Raises
    ------
    DataError
        The dataset would unpack to many times the size of the file.
    """
    entries = int(np.prod(item.shape or (1,), dtype=object))
    size, held = entries * item.dtype.itemsize, item.file.id.get_filesize()
    if (size > IN_MEMORY or entries > MOST_ROWS) and size > RATIO * held:
        raise swollen(_place(item), path, size, held)
    return item


def swollen(name: str, path: Path, size: int, held: int) -> DataError:
    """Return the error about an element that would unpack to many times the size of the file.

    Parameters
    ----------
    name, path
        Element and file.
    size
        Bytes of the element.
    held
        Bytes of the file.
    """
    return DataError(
        f"{name!r} would unpack to {size / 1e9:,.3g} GB, but the whole file has {held / 1e6:,.3g} MB",
        where=path,
        fix="real data does not compress that much: write the file again",
    )


def _plugin(number: int) -> bool:
    """Return whether a filter is available after importing hdf5plugin, if it is installed."""
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
    """Yield (name, object) of all groups and datasets, each once, a group before its members.

    The names are sorted, as HDF5 visits them. Soft and external links give their target as text.
    Objects deeper than `DEEPEST`, or after the first `MOST_OBJECTS`, are skipped.
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
            waiting += [(f"{full}/{part}", item, part) for part in inside]


def _address(item: Any) -> tuple[int, int]:
    info = h5py.h5o.get_info(item.id)
    return info.fileno, info.addr
