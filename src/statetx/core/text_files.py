"""Writers of small text and JSON files, whole or not at all."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from statetx.core.writes import whole


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all.

    Parameters
    ----------
    path
        The file.
    text
        Its content.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON (non-finite numbers as null), whole or not at all.

    Parameters
    ----------
    path
        The file.
    value
        Anything that `plain` accepts.
    """
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        # Names of files may contain bytes that are not text; escapes keep them.
        text = json.dumps(plain(value), indent=1, allow_nan=False)
    write_text(path, text + "\n")


def plain(value: Any) -> Any:
    """Return `value` with types that JSON has: arrays as lists, paths and dates as text.

    Parameters
    ----------
    value
        Nested dicts, lists, tuples, numpy arrays, paths, dates and scalars. Non-finite floats
        become None; values of other types stay as they are.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):  # TOML files contain dates and times
        return value.isoformat()
    return value
