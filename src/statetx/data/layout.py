"""Names and format number of the store on disk.

Kept apart from its reader: whoever only writes a store, or only names its files, does not become
stale when the reader changes.
"""

from __future__ import annotations

from urllib.parse import quote

FORMAT = 2
"""Of ``manifest.json`` and everything beside it."""

ALIGNMENT = 64
"""Bytes: every large array starts on a cache line, so that a mapped array of any type is aligned."""

SAFE = "._+-"
"""Characters that a cell line keeps in file names; others are percent-encoded."""


def file_name(line: str) -> str:
    """Return the cell line as it stands in paths: percent-encoded, safe set ``A-Za-z0-9_.+-``.

    Names of nothing but dots are encoded too.
    """
    name = quote(line, safe=SAFE).replace("~", "%7E")
    # A line named ".." would otherwise write into the directory above.
    return name if name.strip(".") else name.replace(".", "%2E")
