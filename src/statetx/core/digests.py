"""What a result was made from: digests, code fingerprints, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from statetx.core.text_files import plain


def digest(value: Any, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    # A file may have a name that is not text.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:length]


def as_json(value: Any) -> Any:
    """Return `value` as it comes back from a JSON file."""
    return json.loads(json.dumps(plain(value), ensure_ascii=False))


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return `value` as JSON keeps it, with a ``digest`` of itself, for `unsealed`."""
    kept = as_json(value)
    return {**kept, "digest": digest(kept)}


def unsealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return what `sealed` was given.

    Raises
    ------
    ValueError
        The content is not that of its digest.
    """
    kept = {key: item for key, item in value.items() if key != "digest"}
    if value.get("digest") != digest(kept):
        raise ValueError("the content does not match its own digest")
    return kept


def file_digest(path: str | Path, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:length]


def versions(packages: Iterable[str] = ("statetx", "numpy", "pandas", "anndata")) -> dict[str, str]:
    """Return the installed version of each package, and of Python."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


# ---------------------------------------------------------------------------------------------
# code fingerprints


# ---------------------------------------------------------------------------------------------
# small files
