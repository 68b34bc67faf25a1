"""Read tables that somebody made, and write tables that people open.

Text stays text: a label may be called NA, None, 1e5 or 007. Encoding, separator and format are told from
what a file holds, not from its name or the locale.
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
"""Of text."""
SPARE = 64 * 2**20
MAX_RATIO = 50
"""A compressed file may unpack to `MAX_RATIO` times its size and `SPARE` bytes: text is rarely a twentieth
of its size when it is compressed."""
SEPARATORS = (",", "\t", ";")
FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Text that a spreadsheet would take for a formula, and such text that is marked already."""


def read_table(path: str | Path, wanted: Wanted) -> pd.DataFrame:
    """Read a table: text separated by commas, semicolons or tabs (also gzipped), or parquet.

    Returns
    -------
    Text as str, empty where nothing stands, without the marks of `guarded`; numbers of a parquet file as
    they are. Blanks around names of columns, rows without a value, and columns without a name or a value
    are left out.

    Raises
    ------
    StatetxError
        Of the kind in `wanted`: unreadable, of another format, or rows that do not fit the header.
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
    """Return the text of a table.

    Raises
    ------
    OSError, ValueError, EOFError
        Unreadable, not text, or too large.
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
    """Return what separates the names in the first line of a table."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=bare.count)


def is_parquet(path: str | Path) -> bool:
    """Whether a file is parquet; its name does not count."""
    with Path(path).open("rb") as file:
        return file.read(4) == b"PAR1"


def encoding(path: str | Path) -> str:
    """Return the encoding that a text file states."""
    with Path(path).open("rb") as file:
        return encoding_of(file.read(4))


def first_line(path: str | Path) -> str:
    """Return the first line of a large text file, without what ends it."""
    with Path(path).open(encoding=encoding(path)) as file:
        line = file.readline(2**20)
    if "\0" in line:
        raise ValueError("it holds NUL characters: it is not a text file, or UTF-16 without a mark")
    return line.rstrip("\n")


def _from_text(text: str) -> pd.DataFrame:
    lines = text.lstrip("\r\n")
    first = lines.split("\n", 1)[0].rstrip("\r")
    stated = re.fullmatch("sep=(.)", first, re.IGNORECASE)  # Excel's first line
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
                f"line {above + reader.line_num} has {len(row)} values, the header has {len(names)} "
                "names of columns"
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
                f"{n} columns are named {name!r}" if name else f"{n} columns lack a name"
            )


def _parquet(path: Path) -> pd.DataFrame:
    size = path.stat().st_size
    with pa.parquet.ParquetFile(path) as file:
        meta, schema = file.metadata, file.schema_arrow
    unpacked = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    if unpacked > MAX_RATIO * size + SPARE or meta.num_rows * meta.num_columns > size + SPARE:
        raise ValueError(
            f"{size:,} bytes that unpack to {unpacked:,} ({meta.num_rows:,} rows of {meta.num_columns:,} "
            "columns) are not a table of labels"
        )
    # A long text that repeats stays one object.
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
        raise ValueError("codes of a column are not those of its labels")
    return pd.Series(known[places.astype(np.int64)], dtype=object)


def check_columns(
    table: pd.DataFrame, names: Iterable[str], path: object, wanted: Wanted, fix: str = ""
) -> None:
    """Check that a table has columns.

    Raises
    ------
    StatetxError
        One is missing; the message names the nearest one that there is.
    """
    for name in names:
        if name not in table.columns:
            near = did_you_mean(name, list(map(str, table.columns)))
            raise wanted.kind(f"the table has no column {name!r}", where=path, fix=f"{fix}{near}")


def count(value: object) -> int | None:
    """Return a number of cells: ``30``, ``30.0``; None: it is not a whole number from 0 to 10^15."""
    text = str(value).strip()
    if not re.fullmatch(r"\+?\d{1,16}(\.0*)?([eE]\+?\d{1,2})?", text, re.ASCII):
        return None
    number = float(text)
    return int(number) if number.is_integer() and number <= 1e15 else None


def guarded(text: str) -> str:
    """Mark text that a spreadsheet would take for a formula by an apostrophe in front of it."""
    return f"'{text}" if FORMULA.match(text) else text


def unguarded(text: Any) -> Any:
    """Return text without the mark of `guarded`."""
    if isinstance(text, str) and text.startswith("'") and FORMULA.match(text):
        return text[1:]
    return text


def field(text: str) -> str:
    """Return text as it stands in a CSV."""
    text = guarded(text)
    return '"' + text.replace('"', '""') + '"' if re.search('[,"\r\n]', text) else text


def _cell(value: object) -> str:
    if isinstance(value, str):
        return field(value)
    missing = value is None or value is pd.NA or (isinstance(value, float) and value != value)
    return "" if missing else str(value)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV that `read_table` reads back: every number in full, every text as it is."""
    columns = [table[name].tolist() for name in table.columns]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(map(_cell, table.columns)) + "\n")
        file.writelines(",".join(map(_cell, row)) + "\n" for row in zip(*columns, strict=True))
