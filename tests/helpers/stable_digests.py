"""Digests of results without what may change from run to run: times, versions, code, paths."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from safetensors.numpy import load_file

VOLATILE_KEYS = frozenset(
    {"code", "digest", "files", "made_from", "provenance", "sources", "versions", "written"}
)
"""Entries of JSON documents that say when, where and by which code something was made."""
TIMES = ("cells_per_second", "seconds", "waiting")
"""Columns of metrics.csv that are measured."""
UNREAD = re.compile(
    r"(snakemake_timestamp|record\.json|sources\.json|prune\.json|\.svg|\.html|\.tsv|\.md)$|/benchmarks/"
)
"""Files that hold nothing but provenance and times, or are pictures of other files."""


def stable_digests(results: Path) -> dict[str, str]:
    """Return the digest of every result below a directory, by relative path."""
    files = sorted(path for path in results.rglob("*") if path.is_file())
    return {
        name: stable_digest(path)
        for path in files
        if not UNREAD.search("/" + (name := path.relative_to(results).as_posix()))
    }


def stable_digest(path: Path) -> str:
    """Return the SHA-256 of what a file says."""
    state = hashlib.sha256()
    if path.suffix == ".json":
        state.update(json.dumps(_kept(json.loads(path.read_text())), sort_keys=True).encode())
    elif path.suffix == ".h5ad":
        _feed_h5ad(path, state)
    elif path.suffix == ".safetensors":
        for name, value in sorted(load_file(path).items()):
            state.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    elif path.name == "metrics.csv":
        table = pd.read_csv(path, dtype=str).drop(columns=list(TIMES), errors="ignore")
        state.update(table.to_csv(index=False).encode())
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            for name in sorted(file.files):
                value = file[name]
                state.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    else:
        state.update(path.read_bytes())
    return state.hexdigest()


def _kept(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _kept(item) for key, item in value.items() if key not in VOLATILE_KEYS}
    return [_kept(item) for item in value] if isinstance(value, list) else value


def _feed_h5ad(path: Path, state: Any) -> None:
    def feed(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("uns"):
            value = item[()]
            if isinstance(value, np.ndarray) and value.dtype == object:
                value = np.array([str(one) for one in value.ravel()])
            value = np.asarray(value)
            state.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())

    with h5py.File(path) as file:
        file.visititems(feed)
