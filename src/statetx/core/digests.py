"""Digests of values, digests of files, versions of packages."""

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
    """Return the first `length` hex digits of the SHA-256 of `value` as canonical JSON.

    Parameters
    ----------
    value
        Anything that JSON can hold; other objects count as their ``str``.
    length
        Number of hex digits, at most 64.
    """
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    # Names of files may contain bytes that are not text.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:length]


def as_json(value: Any) -> Any:
    """Return `value` as a JSON file would return it after writing and reading."""
    return json.loads(json.dumps(plain(value), ensure_ascii=False))


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return `value` as JSON values, with a ``digest`` of the content that `unsealed` checks."""
    kept = as_json(value)
    return {**kept, "digest": digest(kept)}


def unsealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return a value that `sealed` returned, checked and without its ``digest``.

    Parameters
    ----------
    value
        The value, for example read from a JSON file.

    Raises
    ------
    ValueError
        The content does not match the digest.
    """
    kept = {key: item for key, item in value.items() if key != "digest"}
    if value.get("digest") != digest(kept):
        raise ValueError("the content does not match its own digest")
    return kept


def file_digest(path: str | Path, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of a file's bytes.

    Parameters
    ----------
    path
        The file.
    length
        Number of hex digits, at most 64.
    """
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:length]


def versions(packages: Iterable[str] = ("statetx", "numpy", "pandas", "anndata")) -> dict[str, str]:
    """Return the version of Python and of each package; ``absent`` if it is not installed.

    Parameters
    ----------
    packages
        Names of the packages.
    """
    installed = {"python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "absent"
    return installed
