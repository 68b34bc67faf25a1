"""Names and labels as h5ads store them: text, categories, masked values, numbers, enumerations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from statetx.core.errors import DataError
from statetx.data.h5ad.numbers import native
from statetx.data.h5ad.open_h5ad import attribute, child, has, in_memory, readable

_FIRST, _PIECE = 64, 1 << 18
"""Texts in the first read and in later ones. Overlong texts are found before they fill memory."""
LONGEST = 1 << 14
"""Characters of the longest name or label."""
_NOT_LABELS = {
    "c": "complex numbers",
    "V": "records",
    "O": "references or lists",
    "M": "dates",
    "m": "times",
}
OLD_CATEGORIES = "__categories"
"""Where anndata < 0.8 kept categories."""


def texts(item: h5py.Dataset, path: Path, rows: slice = slice(None)) -> np.ndarray:
    """Return entries of a one-dimensional array as text, in an object array.

    Whole numbers have no decimals (1.0 is ``1``). Entries of an enumeration give their names.

    Parameters
    ----------
    item
        The array.
    path
        The file, for messages.
    rows
        Rows to read.

    Raises
    ------
    DataError
        Bytes are not UTF-8, a text has more than `LONGEST` characters, or the values are neither
        text nor numbers.
    """
    if item.ndim != 1:
        raise DataError(
            f"{place_of(item)} has {item.ndim} dimensions instead of 1",
            where=path,
            fix="store one value per row",
        )
    if h5py.check_string_dtype(item.dtype) is None:
        return _spelt(item, path, rows)
    start, stop, _ = rows.indices(item.shape[0])
    out = np.empty(max(0, stop - start), dtype=object)
    at, step = start, _FIRST
    while at < stop:
        end = min(stop, at + step)
        try:
            part = item.asstr("utf-8")[at:end]
        except UnicodeDecodeError as error:
            raise _not_text(item, path, at, end) from error
        longest = max(map(len, part.tolist()), default=0)
        if longest > LONGEST:
            raise DataError(
                f"{place_of(item)} holds a text of {longest:,} characters, in rows {at} to {end}",
                where=path,
                fix=f"names and labels have at most {LONGEST:,}: check that this is the right column",
            )
        out[at - start : end - start] = part
        at, step = end, _PIECE
    return out


def _not_text(item: h5py.Dataset, path: Path, start: int, stop: int) -> DataError:
    """Return the error about the first entry that is not UTF-8."""
    for row, raw in enumerate(item[start:stop].tolist(), start):
        try:
            raw.decode()
        except UnicodeDecodeError:
            return DataError(
                f"{place_of(item)} holds bytes that are not UTF-8: {raw[:60]!r} in row {row}",
                where=path,
                fix=f"store it as UTF-8; as Latin-1 these bytes are {raw[:60].decode('latin-1')!r}",
            )
    raise AssertionError("every entry can be decoded")


def _spelt(item: h5py.Dataset, path: Path, rows: slice) -> np.ndarray:
    """Return numbers or entries of an enumeration as text."""
    names = h5py.check_enum_dtype(item.dtype)
    if names is None and item.dtype.kind not in "biuf":
        what = _NOT_LABELS.get(item.dtype.kind, f"values of type {item.dtype}")
        raise DataError(
            f"{place_of(item)} holds {what}, not names or labels",
            where=path,
            fix="store it as text, as categories or as numbers",
        )
    values = item[rows].tolist()
    if names is not None:
        name_of = {number: name for name, number in names.items()}
        return np.asarray([name_of.get(value, str(value)) for value in values], dtype=object)
    return np.asarray([number_text(value) for value in values], dtype=object)


def number_text(value: Any) -> str:
    """Return a number as text, without decimals if it is whole.

    pandas stores whole numbers as decimals in a column that once had a missing value.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def place_of(item: h5py.Group | h5py.Dataset) -> str:
    """Return the name of an element as users write it: ``obs['drug']``, ``obs['drug'] (codes)``."""
    parts = readable(str(item.name)).strip("/").split("/")
    if parts[0] not in ("obs", "var", "uns", "obsm") or len(parts) < 2:
        return repr("/".join(parts))
    if parts[1] == OLD_CATEGORIES and len(parts) > 2:
        parts = [parts[0], parts[2], "categories"]
    more = f" ({', '.join(parts[2:])})" if len(parts) > 2 else ""
    return f"{parts[0]}[{parts[1]!r}]{more}"


@dataclass(frozen=True)
class Stored:
    """The arrays of a column or an index.

    Attributes
    ----------
    values
        One entry per row: a value, or a code into `categories`.
    categories
        Values behind the codes; None: `values` holds the values.
    mask
        True where a value is missing; None: no value is.
    """

    values: h5py.Dataset
    categories: h5py.Dataset | None = None
    mask: h5py.Dataset | None = None

    @property
    def length(self) -> int:
        """Number of rows."""
        return int(self.values.shape[0])


def stored(item: h5py.Group | h5py.Dataset, path: Path) -> Stored:
    """Return the arrays of a column, for all encodings of h5ad.

    Parameters
    ----------
    item
        Element of the column or index.
    path
        The file, for messages.

    Raises
    ------
    DataError
        The encoding is unknown, or its arrays do not fit together.
    """
    if isinstance(item, h5py.Dataset):
        found = Stored(item)
        if "categories" in item.attrs:  # anndata < 0.8
            listed = item.attrs["categories"]
            categories = item.file[listed] if isinstance(listed, h5py.Reference) else None
            if not isinstance(categories, h5py.Dataset):
                raise DataError(
                    f"{place_of(item)} does not say where its categories are",
                    where=path,
                    fix="read it with a current anndata and write it again",
                )
            found = Stored(item, categories)
    elif has(item, "codes") and has(item, "categories"):
        found = Stored(child(item, "codes", path), child(item, "categories", path))
        if isinstance(found.categories, h5py.Group):  # categories stored as values with a mask
            inner = stored(found.categories, path)
            if inner.categories is not None:
                raise DataError(
                    f"{place_of(item)} has categories of categories",
                    where=path,
                    fix="store it as text: adata.obs[...].astype(str)",
                )
            found = Stored(found.values, inner.values)
    elif has(item, "values"):
        mask = child(item, "mask", path) if has(item, "mask") else None
        found = Stored(child(item, "values", path), mask=mask)
    else:
        kind = attribute(item, "encoding-type") or "an unknown kind of group"
        raise DataError(
            f"{place_of(item)} is stored as {kind!r}, which cannot be read as names or labels",
            where=path,
            fix="store it as text, as categories or as numbers",
        )
    for part in (found.values, found.categories, found.mask):
        if part is None:
            continue
        if not isinstance(part, h5py.Dataset) or part.shape is None or part.ndim != 1:
            raise DataError(
                f"{place_of(part)} is not a list of values", where=path, fix="write the file again"
            )
    if found.mask is not None and found.mask.shape != found.values.shape:
        raise DataError(
            f"{place_of(item)} has {found.length} values, but its mask has {found.mask.shape[0]}",
            where=path,
            fix="the file is damaged: write it again",
        )
    if found.categories is not None and found.values.dtype.kind not in "iu":
        raise DataError(
            f"{place_of(item)} has codes of type {found.values.dtype} instead of whole numbers",
            where=path,
            fix="the file is damaged: write it again",
        )
    return found


def codes_of(found: Stored, path: Path, rows: slice = slice(None)) -> np.ndarray:
    """Return the checked codes of some rows, in the byte order of the machine.

    Parameters
    ----------
    found
        A column with categories.
    path
        The file, for messages.
    rows
        Rows to read.

    Raises
    ------
    DataError
        A code is larger than the number of categories allows.
    """
    assert found.categories is not None
    codes = native(found.values[rows])
    n = int(found.categories.shape[0])
    if codes.size and int(codes.max()) >= n:
        row = int(np.argmax(codes >= n))
        raise DataError(
            f"{place_of(found.values.parent)} has the code {int(codes[row])} in row "
            f"{row + (rows.start or 0)}, but only {n} categories",
            where=path,
            fix="the file is damaged: write it again",
        )
    return codes.astype(np.int64) if codes.dtype == np.uint64 else codes


def entries(found: Stored, path: Path, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return some rows as text, in an object array [n], and whether each is missing, bool [n].

    Parameters
    ----------
    found
        The column or index.
    path
        The file, for messages.
    rows
        Rows to read.
    """
    whole = rows == slice(None)
    values = in_memory(found.values, path) if whole else found.values
    if found.categories is not None:
        codes = codes_of(found, path, rows)
        listed = texts(in_memory(found.categories, path), path)
        if not len(listed):  # all codes are negative: no category exists that they could index
            return np.full(len(codes), "", dtype=object), codes < 0
        return listed[codes], codes < 0
    out = texts(values, path, rows)
    missing = np.zeros(len(out), bool) if found.mask is None else found.mask[rows] != 0
    return out, missing
