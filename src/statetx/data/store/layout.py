"""Names and format number of the store on disk.

Kept apart from its reader: whoever only writes a store, or only names its files, does not become
stale when the reader changes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from statetx.core.errors import DataError

FORMAT = 2
"""Of ``manifest.json`` and everything beside it."""

ALIGNMENT = 64
"""Bytes: every large array starts on a cache line, so that a mapped array of any type is aligned."""

LONGEST = 220
"""Characters of a name; file systems take 255, of which logs and temporary files need some."""

SAFE = "._+-"
"""Characters that a cell line keeps in file names; others are percent-encoded."""


def file_name(line: str) -> str:
    """Return the cell line as it stands in paths: percent-encoded, safe set ``A-Za-z0-9_.+-``.

    Names of nothing but dots are encoded too.

    Raises
    ------
    DataError
        The name is too long for a file.
    """
    name = quote(line, safe=SAFE, errors="surrogatepass").replace("~", "%7E")
    if len(name) > LONGEST:
        raise DataError(
            f"the cell line {line[:40]!r}… has a name of {len(name)} characters as a file name",
            fix=f"rename it: {LONGEST} fit, and a character outside A-Za-z0-9_.+- takes 3 for each byte",
        )
    # A line named ".." would otherwise write into the directory above.
    return name if name.strip(".") else name.replace(".", "%2E")


def folder_name(line: str) -> str:
    """Return the cell line as cell-eval names its directory, or percent-encoded where that is not safe.

    Raises
    ------
    DataError
        The name is too long for a file.
    """
    name = line.replace("/", "-")
    try:
        long = len(os.fsencode(name)) > 255
    except UnicodeEncodeError:  # of an old locale
        return file_name(line)
    return name if name.isprintable() and name.strip(".") and not long else file_name(line)


def check_case(names: Iterable[str], home: Path) -> None:
    """Check that names can be files or directories of their own in a directory.

    Raises
    ------
    DataError
        Two differ in upper and lower case only, and the file system does not tell them apart.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name and _ignores_case(home):
            raise DataError(
                f"{other!r} and {name!r} differ in upper and lower case only",
                where=home,
                fix="rename one of them, or write to a file system that tells them apart",
            )


def _ignores_case(home: Path) -> bool:
    there = next(path for path in (home, *home.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(prefix="case", dir=there) as file:
            return Path(file.name).with_name(Path(file.name).name.upper()).exists()
    except OSError:
        return False  # whoever writes there says so
