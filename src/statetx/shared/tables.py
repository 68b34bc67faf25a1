"""Reader of tables that users make, writer of tables that users open.

Text stays text: a label may be NA, None, 1e5 or 007. Encoding, separator and format are detected
from the content of a file, not from its name or the locale.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from statetx.core.documents import Wanted, decoded, encoding_of
from statetx.core.errors import did_you_mean

MAX_BYTES = 2 * 2**30
"""Largest text, in bytes."""
SPARE = 64 * 2**20
"""Bytes that a compressed file may unpack to in addition to `MAX_RATIO` times its size."""
MAX_RATIO = 50
"""Largest ratio of unpacked to compressed size; text rarely shrinks by more than a factor of 20."""
SEPARATORS = (",", "\t", ";")
FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Start of text that a spreadsheet would read as a formula, with or without the `guarded` mark."""


def read_table(path: str | Path, wanted: Wanted) -> pd.DataFrame:
    """Read a table: text separated by commas, semicolons or tabs (also gzipped), or parquet.

    Parameters
    ----------
    path
        The file.
    wanted
        Parts of the error.

    Returns
    -------
    pandas.DataFrame
        Text as str without the marks of `guarded`, missing text as an empty string; numbers of a
        parquet file unchanged. Blanks around column names are removed. In text files, rows without
        a value and columns without name and value are left out.

    Raises
    ------
    StatetxError
        Of the kind in `wanted`: the file is unreadable or has another format, or its rows do not
        fit the header.
    """
    try:
        if is_parquet(path):
            return _parquet(Path(path))
        if str(path).lower().endswith(".parquet"):
            raise ValueError("it is not a parquet file")
        return _from_text(text_of(path))
    except OSError as error:
        raise wanted.error(error.strerror or error, path) from error
    except (ValueError, csv.Error, zlib.error, EOFError, MemoryError, pa.ArrowException) as error:
        raise wanted.error(error, path) from error


def text_of(path: str | Path) -> str:
    """Return the text of a table, unpacked if the file is gzipped.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    OSError, EOFError
        The file cannot be read or unpacked.
    ValueError
        The file is not text, or is too large.
    """
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes; save it as parquet")
    data = Path(path).read_bytes()
    if data.startswith(b"\x1f\x8b"):
        limit = min(MAX_BYTES, MAX_RATIO * size + SPARE)
        with gzip.open(io.BytesIO(data)) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"it unpacks to more than {limit:,} bytes")
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ValueError("it is an Excel workbook or a zip file: save the sheet as CSV UTF-8")
    if data.startswith(b"\x89HDF"):
        raise ValueError("it is an HDF5 file, not a table")
    return decoded(data)


def separator(header: str) -> str:
    """Return the character that separates the columns of a table.

    Parameters
    ----------
    header
        First line of the table.
    """
    bare = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=bare.count)


def is_parquet(path: str | Path) -> bool:
    """Return whether the content of a file is parquet; its name does not matter."""
    with Path(path).open("rb") as file:
        return file.read(4) == b"PAR1"


def encoding(path: str | Path) -> str:
    """Return the encoding that a text file states by its byte order mark; UTF-8 without one."""
    with Path(path).open("rb") as file:
        return encoding_of(file.read(4))


def first_line(path: str | Path) -> str:
    """Return the first line of a large text file, without the line break.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The line is not text.
    """
    with Path(path).open(encoding=encoding(path)) as file:
        line = file.readline(2**20)
    if "\0" in line:
        raise ValueError(
            "it contains NUL characters: it is not a text file, or it is UTF-16 without a "
            "byte order mark"
        )
    return line.rstrip("\n")


def _from_text(text: str) -> pd.DataFrame:
    lines = text.lstrip("\r\n")
    first = lines.split("\n", 1)[0].rstrip("\r")
    # Excel reads the separator from such a first line.
    stated = re.fullmatch("sep=(.)", first, re.IGNORECASE)
    if stated:
        lines = lines.split("\n", 1)[-1]
        first = lines.split("\n", 1)[0]
    if not lines.strip():
        raise ValueError("it is empty")
    above = text.count("\n", 0, len(text) - len(lines))
    split_by = stated[1] if stated else separator(first)
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=split_by, strict=True)
    names, rows = [name.strip() for name in next(reader)], []
    for row in reader:
        if not any(map(str.strip, row)):
            continue
        extra = row[len(names) :]
        if len(row) < len(names) or any(map(str.strip, extra)):
            raise ValueError(
                f"line {above + reader.line_num} has {len(row)} values, but the header has "
                f"{len(names)} column names"
            )
        rows.append(row[: len(names)] if extra else row)
    columns: list[Sequence[str]] = list(zip(*rows, strict=True)) or [()] * len(names)
    kept = [i for i, name in enumerate(names) if name or any(map(str.strip, columns[i]))]
    _check_names([names[i] for i in kept])
    return pd.DataFrame(
        {names[i]: pd.Series([unguarded(x) for x in columns[i]], dtype=object) for i in kept}
    )


def _check_names(names: Sequence[str]) -> None:
    for name, n in Counter(names).items():
        if n > 1:
            raise ValueError(
                f"{n} columns are named {name!r}" if name else f"{n} columns do not have a name"
            )


def _parquet(path: Path) -> pd.DataFrame:
    size = path.stat().st_size
    with pa.parquet.ParquetFile(path) as file:
        meta, schema = file.metadata, file.schema_arrow
    unpacked = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    if unpacked > MAX_RATIO * size + SPARE or meta.num_rows * meta.num_columns > size + SPARE:
        raise ValueError(
            f"the file of {size:,} bytes unpacks to {unpacked:,} bytes ({meta.num_rows:,} rows of "
            f"{meta.num_columns:,} columns), which is too large for a table of labels"
        )
    # Read as dictionary, so that a long text in many rows stays one object in memory.
    text = [field.name for field in schema if _is_text(field.type)]
    table = pa.parquet.read_table(path, read_dictionary=text)
    _check_names([name.strip() for name in table.column_names])
    told = table.schema.pandas_metadata
    known = told.get("index_columns") if isinstance(told, dict) else None
    index = [n for n in known if n in table.column_names] if isinstance(known, list) else []
    ordered = [*index, *(name for name in table.column_names if name not in index)]
    return pd.DataFrame({name.strip(): _values(table[name]) for name in ordered})


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _values(column: Any) -> pd.Series:
    if not _is_text(column.type):
        return pd.Series(column.to_pandas())
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    values = [x.decode() if isinstance(x, bytes) else x for x in encoded.dictionary.to_pylist()]
    known = np.array([*map(unguarded, values), ""], dtype=object)
    places = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    if len(places) and not 0 <= places.min() <= places.max() < len(known):
        raise ValueError("a column has category codes without a label")
    return pd.Series(known[places.astype(np.int64)], dtype=object)


def check_columns(
    table: pd.DataFrame, names: Iterable[str], path: object, wanted: Wanted, fix: str = ""
) -> None:
    """Check that a table has all required columns.

    Parameters
    ----------
    table
        The table.
    names
        Required columns.
    path
        The file, for the message.
    wanted
        Parts of the error.
    fix
        Text before the suggestion of the nearest column.

    Raises
    ------
    StatetxError
        A column is missing. The message suggests the nearest column of the table.
    """
    for name in names:
        if name not in table.columns:
            near = did_you_mean(name, list(map(str, table.columns)))
            raise wanted.kind(f"the table has no column {name!r}", where=path, fix=f"{fix}{near}")


def count(value: object) -> int | None:
    """Return a number of cells, such as ``30`` or ``30.0``, as int.

    Parameters
    ----------
    value
        Text or number.

    Returns
    -------
    int or None
        None if the value is not a whole number from 0 to 10^15.
    """
    text = str(value).strip()
    if not re.fullmatch(r"\+?\d{1,16}(\.0*)?([eE]\+?\d{1,2})?", text, re.ASCII):
        return None
    number = float(text)
    return int(number) if number.is_integer() and number <= 1e15 else None


def guarded(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would read as a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def unguarded(text: Any) -> Any:
    """Return text without the apostrophe of `guarded`; other values unchanged."""
    if isinstance(text, str) and text.startswith("'") and FORMULA.match(text):
        return text[1:]
    return text


def field(text: str) -> str:
    """Return text as a CSV field: guarded, and in quotes where necessary."""
    text = guarded(text)
    return '"' + text.replace('"', '""') + '"' if re.search('[,"\r\n]', text) else text


def _cell(value: object) -> str:
    if isinstance(value, str):
        return field(value)
    missing = value is None or value is pd.NA or (isinstance(value, float) and value != value)
    return "" if missing else str(value)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV that `read_table` reads back without loss: full numbers, unchanged text.

    Parameters
    ----------
    table
        The table; its index is not written.
    path
        The file.
    """
    columns = [table[name].tolist() for name in table.columns]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(map(_cell, table.columns)) + "\n")
        file.writelines(",".join(map(_cell, row)) + "\n" for row in zip(*columns, strict=True))
