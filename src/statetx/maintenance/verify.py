"""Verification of all files in a results directory against the records of their stages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from statetx.core import records
from statetx.core.checksums import compare
from statetx.core.errors import ResultsError

RESULTS = frozenset(
    {".h5ad", ".parquet", ".csv", ".json", ".safetensors", ".npz", ".toml", ".html"}
)
"""Suffixes of files that stages write."""


@dataclass
class Checked:
    """Result of a verification.

    Attributes
    ----------
    n_files
        Number of files that were read.
    n_bytes
        Size of these files in bytes.
    damaged
        One error per file or record that differs from what its stage wrote, and per result without
        a record.
    """

    n_files: int = 0
    n_bytes: int = 0
    damaged: list[ResultsError] = field(default_factory=list)


def verify_all(places: Sequence[str | Path]) -> Checked:
    """Compare every file that has a record with that record.

    Parameters
    ----------
    places
        Directories that are searched to any depth, such as ``results`` or a model directory.

    Raises
    ------
    ResultsError
        A directory does not exist, or does not contain records.
    """
    found = Checked()
    paths: list[Path] = []
    for place in map(Path, places):
        here = _records(place)
        if not here:
            raise ResultsError(
                "the directory does not contain records"
                if place.is_dir()
                else "this is not a directory",
                where=place,
                fix="give a results directory, or a model directory in it",
            )
        paths += here
    for path in tqdm(paths, "verify", unit="record", disable=None, leave=False):
        try:
            record = records.read_record(path)
        except ResultsError as error:
            found.damaged.append(error)
            continue
        for name, (n_bytes, expected) in record.files.items():
            file = path.parent / name
            found.n_files += 1
            found.n_bytes += n_bytes
            try:
                compare(file, n_bytes, expected, records.REMAKE)
            except ResultsError as error:
                found.damaged.append(error)
    found.damaged += _without_record(paths)
    return found


def _records(place: Path) -> list[Path]:
    """Return all records below a directory; links are followed."""
    found, seen = [], set()
    for home, below, files in os.walk(place, followlinks=True):
        if (real := os.path.realpath(home)) in seen:
            below.clear()
            continue
        seen.add(real)
        found += [Path(home) / name for name in files if name.endswith(records.NAME)]
    return sorted(found)


def _without_record(paths: list[Path]) -> list[ResultsError]:
    """Return an error for each result next to records that no record describes."""
    known: dict[Path, set[Path]] = {}
    for path in paths:
        try:
            names = records.read_record(path).files
        except ResultsError:
            names = {}
        known.setdefault(path.parent, set()).update(path.parent / name for name in names)
    return [
        ResultsError("this result has no record", where=file, fix=records.AGAIN)
        for home, described in known.items()
        for file in sorted(home.iterdir())
        if file.suffix in RESULTS
        and file.is_file()
        and not file.name.endswith(records.NAME)
        and file.name != "content.json"
        and file not in described
    ]
