"""Names of cells and genes, and columns of obs, of an open h5ad."""

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
"""Labels handled at once: text takes some 60 bytes a cell while it is Python objects, and numpy widens
codes that it counts or looks up to 8."""


_NO_LABEL = ("", "nan", "NaN", "<NA>")
"""What a missing label turns into when somebody makes text of it."""


@dataclass(frozen=True)
class Column:
    """An obs column as codes into its labels.

    Attributes
    ----------
    codes
        [cells], of the smallest signed type that holds them; no cell is without a label.
    names
        Labels in use, sorted.
    """

    codes: np.ndarray
    names: list[str]

    def counts(self) -> dict[str, int]:
        """Number of cells per label."""
        found = _tally(self.codes, len(self.names))
        return {name: int(n) for name, n in zip(self.names, found, strict=True)}

    def values_at(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels of the given cells (objects)."""
        return np.asarray(self.names, dtype=object)[self.codes[rows]]


def pieces(n: int) -> Iterator[slice]:
    """Yield runs of rows that are handled at once."""
    for start in range(0, n, _PIECE):
        yield slice(start, start + _PIECE)


def _tally(codes: np.ndarray, n_labels: int) -> np.ndarray:
    """Return how often each code occurs, int64 [n_labels]."""
    found = np.zeros(n_labels, dtype=np.int64)
    for piece in pieces(len(codes)):
        found += np.bincount(codes[piece], minlength=n_labels)
    return found


def index_of(frame: Any, path: Path) -> h5py.Group | h5py.Dataset:
    """Return the element that names the rows of obs or var.

    Raises
    ------
    DataError
        There is none, or the frame is one array, as anndata < 0.7 wrote it.
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
            f"{str(frame.name).strip('/')} has no index: nothing names its rows",
            where=path,
            fix="write the file with anndata",
        )
    item: h5py.Group | h5py.Dataset = child(frame, key, path)
    return item


def index_key(frame: h5py.Group) -> str | None:
    """Return the name of the index of obs or var; None: it has none."""
    key = attribute(frame, "_index")
    if isinstance(key, str):
        return key
    return next((name for name in ("_index", "index") if has(frame, name)), None)


def names(file: h5py.File, frame: str, path: Path, rows: slice = slice(None)) -> np.ndarray:
    """Return the names of the rows of ``obs`` or ``var`` (objects), of all or of some.

    Raises
    ------
    DataError
        They cannot be read, or one is missing.
    """
    with reading(path, f"the names of {frame}"):
        found = stored(index_of(child(file, frame, path), path), path)
        out, missing = entries(found, path, rows)
    if missing.any():
        raise DataError(
            f"{frame}_names has no name in row {int(np.argmax(missing)) + (rows.start or 0)} "
            f"({int(missing.sum())} such rows)",
            where=path,
            fix=f"name all rows: adata.{frame}_names",
        )
    return out


def n_rows(file: h5py.File, frame: str, path: Path) -> int:
    """Return the number of rows of ``obs`` or ``var``."""
    with reading(path, f"the names of {frame}"):
        return stored(index_of(child(file, frame, path), path), path).length


def columns(file: h5py.File) -> list[str]:
    """Return the names of the obs columns, each once."""
    where = Path(file.filename)
    obs = child(file, "obs", where)
    with reading(where, "the names of the obs columns"):
        order = attribute(obs, "column-order")
        if order is None:
            apart = (index_key(obs), OLD_CATEGORIES)
            order = [name for name in names_in(obs) if name not in apart]
        listed = order if isinstance(order, list) else [order]
        return list(dict.fromkeys(map(str, listed)))


def column(file: h5py.File, path: Path, name: str, key: str = "") -> Column:
    """Read a label column of obs: categorical, strings or numbers (read as text).

    Parameters
    ----------
    file, path
        The open file and its path.
    name
        obs column.
    key
        Setting or option that named it, for the message.

    Raises
    ------
    DataError
        No such column, one that cannot be read or has another length, or cells without a label.
    """
    codes, listed, lost = _read(file, path, name, key)
    if lost.any():
        raise DataError(
            f"obs[{name!r}] has no label in {int(lost.sum())} of {len(lost)} cells, first in row "
            f"{int(np.argmax(lost))}",
            where=path,
            fix="label these cells or drop them: adata[adata.obs[...].notna()]",
        )
    return _sorted(codes, listed)


def labels_or_none(file: h5py.File, path: Path, name: str, key: str = "") -> np.ndarray:
    """Return the label of every cell (objects), None where a cell has none; else as `column`."""
    codes, listed, lost = _read(file, path, name, key)
    found = np.asarray([*listed, None], dtype=object)[np.where(lost, len(listed), codes)]
    return found


def _read(
    file: h5py.File, path: Path, name: str, key: str
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return codes, what they stand for, and which cells have no label."""
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
        found = stored(child(obs, name, path), path)
        if found.length != n:
            raise DataError(
                f"obs[{name!r}] has {found.length} rows, but there are {n} cells",
                where=path,
                fix="the file is damaged: write it again",
            )
        in_memory(found.values, path)
        missing = None if found.mask is None else found.mask[()] != 0
        if found.categories is not None:
            codes = codes_of(found, path)
            listed = texts(in_memory(found.categories, path), path).tolist()
            missing = codes < 0
        else:
            codes, listed = _factorised(found.values, path)
        empty = [i for i, text in enumerate(listed) if text.strip() in _NO_LABEL]
        lost = np.isin(codes, empty) if empty else np.zeros(len(codes), dtype=bool)
        return codes, listed, lost if missing is None else lost | missing


def in_order(file: h5py.File, path: Path, name: str) -> list[str]:
    """Return the labels of an obs column in the order of its categories, or of its numbers."""
    with reading(path, f"obs[{name!r}]"):
        found = stored(child(file, f"obs/{name}", path), path)
        if found.categories is not None:
            return [str(text) for text in texts(in_memory(found.categories, path), path)]
        if found.values.dtype.kind in "biuf" and not h5py.check_enum_dtype(found.values.dtype):
            numbers = np.unique(in_memory(found.values, path)[()])
            return [number_text(number) for number in numbers.tolist()]
    return []


def _sorted(codes: np.ndarray, listed: list[str]) -> Column:
    """Number the labels in use in sorted order, each once."""
    used = np.flatnonzero(_tally(codes, len(listed))).tolist()
    sorted_names = sorted({listed[i] for i in used})
    number = {text: i for i, text in enumerate(sorted_names)}
    place = np.zeros(len(listed), dtype=np.min_scalar_type(-max(1, len(sorted_names))))
    place[used] = [number[listed[i]] for i in used]
    found = np.empty(len(codes), dtype=place.dtype)
    for piece in pieces(len(codes)):
        found[piece] = place[codes[piece]]
    return Column(found, sorted_names)


def _factorised(item: h5py.Dataset, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return codes, int32 [cells], and the labels that they point to, in order of appearance."""
    codes = np.empty(item.shape[0], dtype=np.int32)
    known: dict[str, int] = {}
    for piece in pieces(len(codes)):
        found = texts(item, path, piece).tolist()
        codes[piece] = [known.setdefault(text, len(known)) for text in found]
    return codes, list(known)
