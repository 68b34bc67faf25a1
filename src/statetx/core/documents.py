"""Readers of text, JSON, YAML and TOML files that users write.

Text may have any usual encoding. Size and depth are checked before the values are built in memory;
YAML aliases count each time they are used. Every failure raises the kind of error that the caller
names.
"""

from __future__ import annotations

import codecs
import json
import struct
import tomllib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from statetx.core.errors import StatetxError

MAX_BYTES = 16 * 2**20
"""Largest TOML file. A split of 50 cell lines and 1,000 drugs has 2 MB."""
MAX_YAML = 4 * 2**20
"""Largest YAML file, in bytes."""
MAX_DEPTH = 60
"""Most levels of nested values."""
MAX_VALUES = 1_000_000
"""Most values in a file; YAML aliases count each time they are used."""

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Wanted(NamedTuple):
    """Parts of the error that a reader raises.

    Attributes
    ----------
    what
        Name of the file in messages, such as ``the split``.
    kind
        Class of the error.
    fix
        Instruction for the user.
    """

    what: str
    kind: type[StatetxError]
    fix: str

    def error(self, why: object, path: object, fix: str | None = None) -> StatetxError:
        """Return the error for a reason.

        Parameters
        ----------
        why
            The reason, as text or exception.
        path
            The file.
        fix
            Instruction that replaces the usual one.
        """
        if str(why).startswith("Exceeds the limit"):
            why = "a number has thousands of digits"
        return self.kind(f"cannot read {self.what}: {why}", where=path, fix=fix or self.fix)


def encoding_of(start: bytes) -> str:
    """Return the encoding that a byte order mark states; UTF-8 without one.

    Parameters
    ----------
    start
        The first four bytes of the text, or more.
    """
    return next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")


def decoded(data: bytes) -> str:
    """Return bytes as text: UTF-8 with or without a byte order mark, or UTF-16 or 32 with one.

    Parameters
    ----------
    data
        The whole file.

    Raises
    ------
    ValueError
        The bytes are in another encoding, or are not text.
    """
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} is not {encoding.removesuffix('-sig')} text "
            f"(byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(
            "it contains NUL characters: it is not a text file, or it is UTF-16 without a "
            "byte order mark"
        )
    return text


def read_text(path: str | Path, wanted: Wanted, limit: int | None = None) -> str:
    """Read a text file; the locale does not matter.

    Parameters
    ----------
    path
        The file.
    wanted
        Parts of the error.
    limit
        Most bytes; None: any number.

    Raises
    ------
    StatetxError
        Of the kind in `wanted`: no such file, not text, or more than `limit` bytes.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read() if limit is None else file.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise ValueError(f"it has more than {limit:,} bytes")
        return decoded(data)
    except OSError as error:
        raise wanted.error(error.strerror or error, path) from error
    except ValueError as error:  # also a NUL in the path
        raise wanted.error(error, path) from error


def read_json(path: str | Path, wanted: Wanted) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path
        The file.
    wanted
        Parts of the error.

    Raises
    ------
    StatetxError
        Of the kind in `wanted`: the file cannot be read or parsed.
    """
    try:
        return json.loads(read_text(path, wanted))
    except RecursionError as error:
        raise wanted.error("it is nested too deeply", path) from error
    except ValueError as error:  # also a number of thousands of digits
        raise wanted.error(error, path) from error


def read_toml(path: str | Path, wanted: Wanted) -> dict[str, Any]:
    """Read a TOML file.

    Parameters
    ----------
    path
        The file.
    wanted
        Parts of the error.

    Raises
    ------
    StatetxError
        Of the kind in `wanted`: the file cannot be read or parsed, or it is too large or too deep.
    """
    try:
        value = tomllib.loads(read_text(path, wanted, MAX_BYTES))
        check_size(value)
        return value
    except RecursionError as error:
        raise wanted.error("it is nested too deeply", path) from error
    except ValueError as error:
        raise wanted.error(error, path) from error


def read_yaml(path: str | Path, wanted: Wanted) -> Any:
    """Read a YAML file with plain values.

    Parameters
    ----------
    path
        The file.
    wanted
        Parts of the error.

    Raises
    ------
    StatetxError
        Of the kind in `wanted`: the file cannot be read or parsed, or it is too large or too deep.
    """
    text = read_text(path, wanted, MAX_YAML)
    try:
        _check_events(text)
        value = yaml.load(text, _YAML)
        check_size(value)
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = "" if mark is None else f", line {mark.line + 1}"
        raise wanted.error(error.problem or error.context or error, f"{path}{at}") from error
    except yaml.YAMLError as error:
        raise wanted.error(error, path) from error
    except (ValueError, OverflowError, RecursionError) as error:  # 5,000 digits, 31 February
        raise wanted.error(error, path) from error


def _check_events(text: str) -> None:
    """Check depth and size of a YAML text before any value is built."""
    known: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, _YAML):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (name for name, _ in open_):
                raise ValueError(f"the alias *{event.anchor} contains itself")
            total += known.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                known[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = open_.pop()
            if name is not None:
                known[name] = total - before
        if len(open_) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if total > MAX_VALUES:
            raise ValueError(f"with aliases expanded, it has more than {MAX_VALUES:,} values")


def source_texts(path: str | Path) -> dict[tuple[str, ...], str]:
    """Return the source text of every scalar of a YAML file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        Text by the path of keys and list positions that leads to it. Empty if the file cannot be
        read or parsed.
    """
    try:
        root = yaml.compose(decoded(Path(path).read_bytes()), _YAML)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    out: dict[tuple[str, ...], str] = {}

    def walk(node: Any, at: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                walk(value, (*at, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for place, value in enumerate(node.value):
                walk(value, (*at, str(place)))
        elif node is not None:
            out[at] = str(node.value)

    walk(root, ())
    return out


def check_size(value: Any) -> None:
    """Check depth and number of nested values; shared dicts and lists count at each use.

    Parameters
    ----------
    value
        Nested dicts, lists and tuples.

    Raises
    ------
    ValueError
        There are more than `MAX_DEPTH` levels or `MAX_VALUES` values, or a value contains itself.
    """
    known: dict[int, tuple[int, int]] = {}
    above: set[int] = set()

    def size(item: Any) -> tuple[int, int]:
        """Return the number of values and the depth."""
        if not isinstance(item, dict | list | tuple):
            return 1, 0
        if id(item) in known:
            return known[id(item)]
        if id(item) in above:
            raise ValueError("a value contains itself")
        above.add(id(item))
        if len(above) <= MAX_DEPTH:
            inside = [size(each) for each in (item.values() if isinstance(item, dict) else item)]
            found = (
                1 + sum(n for n, _ in inside),
                1 + max((depth for _, depth in inside), default=0),
            )
        if len(above) > MAX_DEPTH or found[1] > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if found[0] > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES:,} values, with shared values expanded")
        above.discard(id(item))
        known[id(item)] = found
        return found

    size(value)


def zip_entries(path: str | Path) -> list[zipfile.ZipInfo]:
    """Return the table of contents of a zip file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ValueError
        The file is not a complete zip file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return file.infolist()
    # zipfile raises NotImplementedError for versions and compressions that it does not know.
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error) as error:
        raise ValueError(f"it is truncated or damaged: {error}") from error


def check_zip(path: str | Path) -> None:
    """Check that a zip file, as numpy and torch write it, is uncompressed and its sizes are true.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ValueError
        A part is compressed, two parts have the same name, the parts claim to be larger than the
        file, or the file is not a complete zip file.
    """
    entries, size = zip_entries(path), Path(path).stat().st_size
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its part {entry.filename!r} is compressed, which is not read")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"its parts claim to be larger than the file of {size:,} bytes")
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise ValueError("two of its parts have the same name")
