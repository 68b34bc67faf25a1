"""Names of cells, names of genes, and columns of obs of an open h5ad."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from statetx.core.errors import DataError, did_you_mean
from statetx.data.h5ad.open_h5ad import attribute, child, has, in_memory, names_in, reading
from statetx.data.h5ad.stored_text import (
    OLD_CATEGORIES,
    codes_of,
    entries,
    number_text,
    stored,
    texts,
)

_PIECE = 1 << 18
"""Labels processed at once. Text takes about 60 bytes per cell as Python objects, and numpy
converts codes that it counts or uses as an index to 8 bytes."""

_NO_LABEL = ("", "nan", "NaN", "<NA>")
"""Text that a missing label becomes when a column is converted to text."""


@dataclass(frozen=True)
class Column:
    """An obs column as codes into its labels.

    Attributes
    ----------
    codes
        Code of each cell, [cells], in the smallest signed type. Every cell has a label.
    names
        Sorted labels that occur.
    """

    codes: np.ndarray
    names: list[str]

    def counts(self) -> dict[str, int]:
        """Return the number of cells per label."""
        counts = _tally(self.codes, len(self.names))
        return {name: int(n) for name, n in zip(self.names, counts, strict=True)}

    def values_at(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels of the cells at `rows`, as an object array."""
        return np.asarray(self.names, dtype=object)[self.codes[rows]]


def pieces(n: int) -> Iterator[slice]:
    """Yield the slices of n rows that are processed at once."""
    for start in range(0, n, _PIECE):
        yield slice(start, start + _PIECE)


def _tally(codes: np.ndarray, n_labels: int) -> np.ndarray:
    """Return how often each code occurs, int64 [n_labels]."""
    counts = np.zeros(n_labels, dtype=np.int64)
    for piece in pieces(len(codes)):
        counts += np.bincount(codes[piece], minlength=n_labels)
    return counts


def index_of(frame: Any, path: Path) -> h5py.Group | h5py.Dataset:
    """Return the index of obs or var, which holds the names of its rows.

    Parameters
    ----------
    frame
        The element ``obs`` or ``var``.
    path
        The file, for messages.

    Raises
    ------
    DataError
        The frame has no index, or is a single array, as anndata < 0.7 wrote it.
    """
    if not isinstance(frame, h5py.Group):
        raise DataError(
            f"{frame.name!r} is stored the way anndata < 0.7 did",
            where=path,
            fix="read and write the file once with a current anndata",
        )
    key = index_key(frame)
    if key is None:
        raise DataError(
            f"{str(frame.name).strip('/')} has no index, so its rows have no names",
            where=path,
            fix="write the file with anndata",
        )
    item: h5py.Group | h5py.Dataset = child(frame, key, path)
    return item


def index_key(frame: h5py.Group) -> str | None:
    """Return the name of the index column of obs or var, or None without an index."""
    key = attribute(frame, "_index")
    if isinstance(key, str):
        return key
    return next((name for name in ("_index", "index") if has(frame, name)), None)


def names(file: h5py.File, frame: str, path: Path, rows: slice = slice(None)) -> np.ndarray:
    """Return the names of the rows of obs or var, as an object array.

    Parameters
    ----------
    file, path
        The open file and its path.
    frame
        ``obs`` or ``var``.
    rows
        Rows to read.

    Raises
    ------
    DataError
        The names cannot be read, or one is missing.
    """
    with reading(path, f"the names of {frame}"):
        found = stored(index_of(child(file, frame, path), path), path)
        out, missing = entries(found, path, rows)
    if missing.any():
        raise DataError(
            f"{frame}_names has no name in row {int(np.argmax(missing)) + (rows.start or 0)} "
            f"({int(missing.sum())} such rows)",
            where=path,
            fix=f"give all rows a name: adata.{frame}_names",
        )
    return out


def n_rows(file: h5py.File, frame: str, path: Path) -> int:
    """Return the number of rows of ``obs`` or ``var``."""
    with reading(path, f"the names of {frame}"):
        return stored(index_of(child(file, frame, path), path), path).length


def columns(file: h5py.File) -> list[str]:
    """Return the names of the obs columns without repeats."""
    where = Path(file.filename)
    obs = child(file, "obs", where)
    with reading(where, "the names of the obs columns"):
        order = attribute(obs, "column-order")
        if order is None:
            not_columns = (index_key(obs), OLD_CATEGORIES)
            order = [name for name in names_in(obs) if name not in not_columns]
        listed = order if isinstance(order, list) else [order]
        return list(dict.fromkeys(map(str, listed)))


def column(file: h5py.File, path: Path, name: str, key: str = "") -> Column:
    """Read a label column of obs: categories, text, or numbers, which are converted to text.

    Parameters
    ----------
    file, path
        The open file and its path.
    name
        Column of obs.
    key
        Setting or option that gave the name, for the message.

    Raises
    ------
    DataError
        The column is missing, cannot be read, has another length, or some cells have no label.
    """
    codes, listed, lost = _read(file, path, name, key)
    if lost.any():
        raise DataError(
            f"obs[{name!r}] has no label in {int(lost.sum())} of {len(lost)} cells, first in row "
            f"{int(np.argmax(lost))}",
            where=path,
            fix="label these cells or remove them: adata[adata.obs[...].notna()]",
        )
    return _sorted(codes, listed)


def labels_or_none(file: h5py.File, path: Path, name: str, key: str = "") -> np.ndarray:
    """Return the label of every cell as an object array, with None for a missing label.

    Parameters
    ----------
    file, path, name, key
        See `column`.

    Raises
    ------
    DataError
        The column is missing, cannot be read or has another length.
    """
    codes, listed, lost = _read(file, path, name, key)
    labels = np.asarray([*listed, None], dtype=object)
    return labels[np.where(lost, len(listed), codes)]


def _read(
    file: h5py.File, path: Path, name: str, key: str
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return codes [cells], their labels, and whether a cell has no label, bool [cells]."""
    obs = child(file, "obs", path)
    n = n_rows(file, "obs", path)
    if not has(obs, name):
        raise DataError(
            f"obs has no column {name!r}",
            where=path,
            fix=did_you_mean(name, columns(file))
            + (f" Name the right column with `{key}`" if key else ""),
        )
    with reading(path, f"obs[{name!r}]"):
        item = stored(child(obs, name, path), path)
        if item.length != n:
            raise DataError(
                f"obs[{name!r}] has {item.length} rows, but there are {n} cells",
                where=path,
                fix="the file is damaged: write it again",
            )
        in_memory(item.values, path)
        missing = None if item.mask is None else item.mask[()] != 0
        if item.categories is not None:
            codes = codes_of(item, path)
            listed = texts(in_memory(item.categories, path), path).tolist()
            missing = codes < 0
        else:
            codes, listed = _factorised(item.values, path)
        empty = [i for i, text in enumerate(listed) if text.strip() in _NO_LABEL]
        lost = np.isin(codes, empty) if empty else np.zeros(len(codes), dtype=bool)
        return codes, listed, lost if missing is None else lost | missing


def in_order(file: h5py.File, path: Path, name: str) -> list[str]:
    """Return the labels of an obs column in the order of its categories or numbers; [] for text."""
    with reading(path, f"obs[{name!r}]"):
        item = stored(child(file, f"obs/{name}", path), path)
        if item.categories is not None:
            return [str(text) for text in texts(in_memory(item.categories, path), path)]
        if item.values.dtype.kind in "biuf" and not h5py.check_enum_dtype(item.values.dtype):
            numbers = np.unique(in_memory(item.values, path)[()])
            return [number_text(number) for number in numbers.tolist()]
    return []


def _sorted(codes: np.ndarray, listed: list[str]) -> Column:
    """Return a column whose codes number the labels that occur, in sorted order."""
    used = np.flatnonzero(_tally(codes, len(listed))).tolist()
    sorted_names = sorted({listed[i] for i in used})
    number = {text: i for i, text in enumerate(sorted_names)}
    place = np.zeros(len(listed), dtype=np.min_scalar_type(-max(1, len(sorted_names))))
    place[used] = [number[listed[i]] for i in used]
    out = np.empty(len(codes), dtype=place.dtype)
    for piece in pieces(len(codes)):
        out[piece] = place[codes[piece]]
    return Column(out, sorted_names)


def _factorised(item: h5py.Dataset, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return codes, int32 [cells], and their labels in order of appearance."""
    codes = np.empty(item.shape[0], dtype=np.int32)
    known: dict[str, int] = {}
    for piece in pieces(len(codes)):
        part = texts(item, path, piece).tolist()
        codes[piece] = [known.setdefault(text, len(known)) for text in part]
    return codes, list(known)
