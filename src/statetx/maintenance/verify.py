"""Check every file of a results directory against the record of the stage that wrote it."""

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
"""Endings of files that stages write."""


@dataclass
class Checked:
    """What a check found.

    Attributes
    ----------
    n_files, n_bytes
        Files that were read, and their bytes.
    damaged
        One error per file, or record, that is not what its stage wrote.
    """

    n_files: int = 0
    n_bytes: int = 0
    damaged: list[ResultsError] = field(default_factory=list)


def verify_all(places: Sequence[str | Path]) -> Checked:
    """Read every file that has a record and compare it.

    Parameters
    ----------
    places
        Directories, searched to any depth: results, or a single model directory.

    Raises
    ------
    ResultsError
        A place does not exist, or holds no records.
    """
    found = Checked()
    paths: list[Path] = []
    for place in map(Path, places):
        here = _records(place)
        if not here:
            raise ResultsError(
                "no records here" if place.is_dir() else "this is not a directory",
                where=place,
                fix="name a results directory, or a model directory in it",
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
    """Return all records below a directory, behind links too."""
    found, seen = [], set()
    for home, below, files in os.walk(place, followlinks=True):
        if (real := os.path.realpath(home)) in seen:
            below.clear()
            continue
        seen.add(real)
        found += [Path(home) / name for name in files if name.endswith(records.NAME)]
    return sorted(found)


def _without_record(paths: list[Path]) -> list[ResultsError]:
    """Name results that lie beside records and that none of them describes."""
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
