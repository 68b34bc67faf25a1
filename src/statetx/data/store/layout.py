"""Names and format number of the store on disk.

This module does not import the reader of the store. Stages that only write a store, or only name
its files, therefore do not become stale when the reader changes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from statetx.core.errors import DataError

FORMAT = 2
"""Format number of the files of a store."""

ALIGNMENT = 64
"""Bytes of a cache line. Large arrays start on one, so mapped arrays of any type are aligned."""

LONGEST = 220
"""Most characters of a name. File systems allow 255; logs and temporary files add a suffix."""

SAFE = "._+-"
"""Characters that a cell line keeps in file names; others are percent-encoded."""


def file_name(line: str) -> str:
    """Return the name of a cell line in paths: percent-encoded, except ``A-Za-z0-9_.+-``.

    A name that consists of dots is encoded too.

    Raises
    ------
    DataError
        The name is too long for a file.
    """
    name = quote(line, safe=SAFE, errors="surrogatepass").replace("~", "%7E")
    if len(name) > LONGEST:
        raise DataError(
            f"the file name of cell line {line[:40]!r}… would have {len(name)} characters",
            fix=f"rename the line: at most {LONGEST} characters are allowed, and each byte of a "
            "character outside A-Za-z0-9_.+- takes 3",
        )
    # Files of a line named ".." would otherwise be written into the parent directory.
    return name if name.strip(".") else name.replace(".", "%2E")


def folder_name(line: str) -> str:
    """Return the directory name that cell-eval gives a cell line, or `file_name` if it is unsafe.

    Raises
    ------
    DataError
        The name is too long for a file.
    """
    name = line.replace("/", "-")
    try:
        long = len(os.fsencode(name)) > 255
    except UnicodeEncodeError:  # in a locale that is not UTF-8
        return file_name(line)
    return name if name.isprintable() and name.strip(".") and not long else file_name(line)


def check_case(names: Iterable[str], home: Path) -> None:
    """Check that no two names would be the same file on the file system of a directory.

    Parameters
    ----------
    names
        Names of files or directories.
    home
        Directory, which need not exist.

    Raises
    ------
    DataError
        Two names differ in case only, and the file system ignores case.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name and _ignores_case(home):
            raise DataError(
                f"{other!r} and {name!r} differ in upper and lower case only",
                where=home,
                fix="rename one of them, or write to a file system that distinguishes case",
            )


def _ignores_case(home: Path) -> bool:
    """Return whether the file system of a directory ignores case."""
    existing = next(path for path in (home, *home.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(prefix="case", dir=existing) as file:
            return Path(file.name).with_name(Path(file.name).name.upper()).exists()
    except OSError:
        return False  # the error is raised when the files are written
