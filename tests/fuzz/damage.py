"""Changes of files that people and accidents make: bytes, text, trees of values, tables.

Every function changes one file at random and says how.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

WORDS = (
    *(
        "",
        " ",
        "NA",
        "None",
        "null",
        "nan",
        "TRUE",
        "no",
        "on",
        "007",
        "1e5",
        "0x10",
        "1_000",
        "-0",
    ),
    *("inf", "-1", "1e400", "9" * 30, "3.5", "é", "e\u0301", "\ufeff", "\u202e", "\x00", "\x1b[2J"),
    *('"', "'", "\\", ",", ";", "\t", "{a,b}", "{wildcard}", "../..", ".", "=1+1", "#", "%41", "𝔘"),
    *("DMSO_TF_00", "L01", "Drug01_0.5", "ctrl+A", "[('Drug01', 0.5, 'uM')]", "x" * 300),
)
"""Text that readers take for something else."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308),
    *(math.nan, math.inf, [], {}, [None], [[]], {"": 0}, [1, "a"], {"a": {"a": {}}}),
)


def words(rng: random.Random) -> str:
    """Return a nasty word."""
    return rng.choice(WORDS)


def value(rng: random.Random) -> Any:
    """Return a nasty value of any type."""
    return words(rng) if rng.random() < 0.4 else copy.deepcopy(rng.choice(VALUES))


# ---------------------------------------------------------------------------------------------
# bytes


def in_bytes(path: Path, rng: random.Random) -> str:
    """Flip, cut, fill or move bytes of a file."""
    data = bytearray(path.read_bytes())
    at, other = (rng.randrange(len(data) + 1) for _ in range(2))
    low, high = min(at, other), max(at, other)
    how = rng.choices(
        ["flip", "flips", "cut", "zeros", "noise", "drop", "twice", "empty"],
        [8, 2, 2, 1, 1, 1, 1, 0.2],
    )[0]
    if how in ("flip", "flips") and data:
        for _ in range(1 if how == "flip" else 8):
            low = rng.randrange(len(data))
            data[low] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "zeros":
        data[low : low + 64] = bytes(len(data[low : low + 64]))
    elif how == "noise":
        data[low : low + 16] = rng.randbytes(16)
    elif how == "drop":
        del data[low : low + rng.choice((1, 4, 512))]
    elif how == "twice":
        data[low:low] = data[low : min(high, low + 512)]
    else:
        data.clear()
    path.write_bytes(bytes(data))
    return f"{path.name}: bytes, {how} at {low}"


def whole_file(path: Path, rng: random.Random, *more: str) -> str:
    """Put something else in the place of a file."""
    ways = ["missing", "directory", "loop", "dangling", "unreadable bytes", "gzip", "zip", *more]
    how = rng.choice(ways)
    path.unlink()
    if how == "directory":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "dangling":
        path.symlink_to("nowhere")
    elif how != "missing":
        start = {"gzip": b"\x1f\x8b\x08\x00", "zip": b"PK\x03\x04"}.get(how, b"\xff\xfe\x00")
        path.write_bytes(start + rng.randbytes(200))
    return f"{path.name}: {how}"


# ---------------------------------------------------------------------------------------------
# text


def in_text(path: Path, rng: random.Random) -> str:
    """Change words, lines, quotes or the encoding of a text file."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True) or [""]
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.choice(
        ["word", "word", "word", "line gone", "line twice", "swap", "insert", "encode"]
    )
    if how == "word":
        parts = _cells(lines[i])
        at = rng.randrange(len(parts))
        word = words(rng)
        how = f"word {parts[at]!r} -> {word[:20]!r}"
        parts[at] = word
        lines[i] = "".join(parts)
    elif how == "line gone":
        del lines[i]
    elif how == "line twice":
        lines.insert(j, lines[i])
    elif how == "swap":
        lines[i], lines[j] = lines[j], lines[i]
    elif how == "insert":
        at = rng.randrange(len(lines[i]) + 1)
        lines[i] = lines[i][:at] + words(rng) + lines[i][at:]
    text = "".join(lines)
    if how == "encode":
        how, data = _encoded(text, rng)
    else:
        data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    return f"{path.name}: line {i + 1}, {how}"


def _cells(line: str) -> list[str]:
    """Split a line into words and what stands between them."""
    parts, word = [], ""
    for sign in line:
        if sign in ",\t\n\r[]{}:=\" '":
            parts += [word, sign] if word else [sign]
            word = ""
        else:
            word += sign
    return [*parts, word] if word or not parts else parts


def _encoded(text: str, rng: random.Random) -> tuple[str, bytes]:
    how = rng.choice(["utf-8-sig", "utf-16", "latin-1", "crlf", "cr", "nfd", "no end", "deep"])
    if how == "crlf":
        return how, text.replace("\n", "\r\n").encode()
    if how == "cr":
        return how, text.replace("\n", "\r").encode()
    if how == "nfd":
        return how, unicodedata.normalize("NFD", text + "é").encode()
    if how == "no end":
        return how, text.rstrip("\n").encode()
    if how == "deep":
        deep = rng.choice(["[", "{", '{"a":', "- ", "a: {", "a=["])
        return how, (text if rng.random() < 0.5 else "").encode() + deep.encode() * 50_000
    body = text if how != "latin-1" else text + "é\n"
    return how, body.encode(how, "replace")


# ---------------------------------------------------------------------------------------------
# trees of values: JSON, YAML, TOML


def in_tree(tree: Any, rng: random.Random) -> tuple[Any, str]:
    """Return a changed copy of nested lists and dicts, and how it was changed."""
    tree = copy.deepcopy(tree)
    spots = list(_spots(tree))
    if not spots:
        return value(rng), "another value"
    owner, key, where = rng.choice(spots)
    how = rng.choice(["value", "value", "value", "gone", "renamed", "wrapped", "swap", "text"])
    old = owner[key]
    if how == "gone":
        del owner[key]
    elif how == "renamed" and isinstance(owner, dict):
        owner[words(rng)] = owner.pop(key)
    elif how == "wrapped":
        owner[key] = [old] if rng.random() < 0.5 else {"a": old}
    elif how == "swap":
        other = rng.choice([spot for spot in spots if spot[0] is owner])[1]
        owner[key], owner[other] = owner[other], owner[key]
    elif how == "text":
        owner[key] = str(old)
    else:
        owner[key] = value(rng)
        how = f"value {str(owner[key])[:30]!r}"
    return tree, f"{where}: {how}"


def _spots(tree: Any, where: str = "") -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, item in list(items):
        yield tree, key, f"{where}/{key}"
        if isinstance(item, dict | list):
            yield from _spots(item, f"{where}/{key}")


def in_json(path: Path, rng: random.Random) -> str:
    """Change a value, a key or the text of a JSON file."""
    if rng.random() < 0.25:
        return in_text(path, rng)
    tree, how = in_tree(json.loads(path.read_text(encoding="utf-8")), rng)
    path.write_text(json.dumps(tree, indent=1), encoding="utf-8")
    return f"{path.name}: {how}"


# ---------------------------------------------------------------------------------------------
# tables


def in_parquet(path: Path, rng: random.Random) -> str:
    """Change columns, types, rows or values of a parquet file, or its bytes."""
    if rng.random() < 0.4:
        return in_bytes(path, rng)
    table = pa.parquet.read_table(path)
    name = rng.choice(table.column_names)
    at = table.column_names.index(name)
    how = rng.choice(["gone", "renamed", "twice", "null", "retyped", "values", "rows", "metadata"])
    column = table[name]
    if how == "gone":
        table = table.drop_columns([name])
    elif how == "renamed":
        table = table.rename_columns(
            [words(rng) if i == at else n for i, n in enumerate(table.column_names)]
        )
    elif how == "twice":
        table = table.append_column(name, column)
    elif how == "null":
        items = column.to_pylist()
        items[rng.randrange(len(items))] = None
        table = table.set_column(at, name, pa.array(items, column.type))
    elif how == "retyped":
        how, new = _retyped(column, rng)
        table = table.set_column(at, name, new)
    elif how == "values":
        items = column.to_pylist()
        for _ in range(rng.choice((1, 3))):
            i, j = rng.randrange(len(items)), rng.randrange(len(items))
            items[i] = items[j] if rng.random() < 0.5 else _like(items[i], rng)
        table = table.set_column(at, name, pa.array(items, column.type, from_pandas=False))
    elif how == "rows":
        rows = list(range(len(table)))
        how = rng.choice(["rows gone", "rows twice", "rows shuffled", "no rows"])
        if how == "rows gone":
            del rows[rng.randrange(len(rows)) :]
        elif how == "rows twice":
            rows.append(rng.choice(rows))
        elif how == "rows shuffled":
            rng.shuffle(rows)
        else:
            rows = []
        table = table.take(rows)
    else:
        table = table.replace_schema_metadata({b"pandas": words(rng).encode("utf-8", "replace")})
    pa.parquet.write_table(table, path)
    return f"{path.name}: column {name!r}, {how}"


def _retyped(column: Any, rng: random.Random) -> tuple[str, Any]:
    items = column.to_pylist()
    to: dict[str, Callable[[Any], Any]] = {
        "text": str,
        "bytes": lambda item: str(item).encode() + b"\xff",
        "a list": lambda item: [item],
        "a struct": lambda item: {"a": item},
        "numbers": lambda item: rng.randrange(100),
        "truth": bool,
    }
    how = rng.choice([*to, "a dictionary"])
    if how == "a dictionary":
        kind = column.type
        plain = pa.types.is_string(kind) or pa.types.is_integer(kind)
        return how, column.combine_chunks().dictionary_encode() if plain else column
    return how, pa.array([to[how](item) for item in items])


def _like(item: Any, rng: random.Random) -> Any:
    if isinstance(item, bool):
        return not item
    if isinstance(item, int):
        return rng.choice([0, -1, item + 1, 2**31, 2**62])
    if isinstance(item, float):
        return rng.choice([math.nan, math.inf, -1.0, 1e300, item * (1 + 1e-6)])
    if isinstance(item, list):
        return item[: rng.randrange(len(item) + 1)]
    return words(rng)


def in_frame(path: Path, rng: random.Random) -> str:
    """Change a CSV as a spreadsheet or a script would, or its text."""
    if rng.random() < 0.6:
        return in_text(path, rng)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    name = rng.choice(list(table.columns))
    how = rng.choice(["index", "gone", "twice", "semicolons", "quoted", "order", "reordered"])
    if how == "gone":
        table = table.drop(columns=name)
    elif how == "twice":
        table = pd.concat([table, table[[name]]], axis=1)
    elif how == "order":
        table = table.sample(frac=1, random_state=rng.randrange(1000))
    elif how == "reordered":
        table = table[rng.sample(list(table.columns), table.shape[1])]
    table.to_csv(
        path,
        index=how == "index",
        sep=";" if how == "semicolons" else ",",
        quoting=1 if how == "quoted" else 0,
    )
    return f"{path.name}: column {name!r}, {how}"


def one_of(*ways: Callable[[Path, random.Random], str]) -> Callable[[Path, random.Random], str]:
    """Return a change of one file that is drawn among some; sometimes the file itself goes."""

    def change(path: Path, rng: random.Random) -> str:
        if rng.random() < 0.03:
            return whole_file(path, rng)
        return rng.choice(ways)(path, rng)

    return change


def files_below(home: Path, rng: random.Random, pattern: str) -> Path:
    """Draw a file of a directory."""
    return rng.choice(sorted(path for path in home.glob(pattern) if path.is_file()))
