"""Records: beside the files of a stage, what they were made from, and their checksums.

A stage that has a directory for itself leaves ``record.json`` in it; one that shares a directory
with others leaves ``<file>.record.json`` beside its main file. Paths in a record are relative to it,
so that a results directory may be moved or copied as a whole.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from statetx.core.checksums import checksum, compare, compare_in_background
from statetx.core.digests import digest, sealed, unsealed, versions
from statetx.core.errors import ResultsError
from statetx.core.text_files import write_json

FORMAT = 1
NAME = "record.json"

COMPANIONS = {
    "conditions.parquet": "manifest.json",
    "sources.json": "manifest.json",
    "split.toml": "plan.parquet",
    "lint.json": "plan.parquet",
    "leaderboard.csv": "verdict.json",
}
"""Files that the record of another file in the same directory describes."""

SETTLED = 100_000_000
"""Nanoseconds after which another write of a file has another time: kernels count in steps of 4 ms or so."""

ALIKE = frozenset({"pack", "reference", "evaluate"})
"""Stages whose results stand side by side, so that they must come from the same code and settings.
Plans of folds, and models, differ in what they are made with."""

REMAKE = "delete it and run snakemake again, which makes it anew; or copy it back from a backup"
AGAIN = "run snakemake again: it remakes what is stale"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the files of one stage were made from.

    Attributes
    ----------
    stage
        Name of the stage.
    code
        Fingerprint of the code that ran.
    settings
        The settings that it read.
    inputs
        Checksum of every input, by its path relative to the record.
    files
        Bytes and checksum of every file, by its path relative to the record.
    versions
        Of the packages.
    """

    stage: str
    code: str
    settings: Any
    inputs: Mapping[str, str]
    files: Mapping[str, tuple[int, str]]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """One checksum for all files."""
        return digest({name: list(entry) for name, entry in self.files.items()}, 32)


def record_path(path: str | Path) -> Path:
    """Return where the record of a file, or of a directory that one stage wrote, lies."""
    path = Path(path)
    if path.is_dir():
        return path / NAME
    beside = path.with_name(f"{COMPANIONS.get(path.name, path.name)}.{NAME}")
    return beside if beside.exists() or not (path.parent / NAME).exists() else path.parent / NAME


def write_record(
    path: Path,
    *,
    stage: str,
    code: str,
    settings: Any,
    inputs: Mapping[Path, str],
    outputs: Iterable[Path],
) -> None:
    """Write the record of finished files, last of all.

    Parameters
    ----------
    path
        The record.
    stage, code, settings
        As in `Record`.
    inputs
        Checksum of every input.
    outputs
        The files, or directories with them.
    """
    files = [file for output in outputs for file in _files(output) if file != path]
    body = {
        "format": FORMAT,
        "stage": stage,
        "code": code,
        "settings": settings,
        "inputs": {_relative(file, path): known for file, known in inputs.items()},
        "files": {
            _relative(file, path): [file.stat().st_size, checksum(file)] for file in sorted(files)
        },
        "versions": versions(),
    }
    write_json(path, sealed(body))


def read_record(path: Path) -> Record:
    """Read a record, once as long as the file stays what it is.

    Raises
    ------
    ResultsError
        There is none, or it is damaged.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ResultsError(
            "there is no record of what this was made from", where=path, fix=AGAIN
        ) from error
    fresh = abs(time.time_ns() - found.st_mtime_ns) < SETTLED
    read = _read.__wrapped__ if fresh else _read
    return read(path.absolute(), (found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=1024)
def _read(path: Path, identity: tuple[int, int, int]) -> Record:
    """Read a record; `identity` tells one state of the file from the next."""
    try:
        body = unsealed(json.loads(path.read_text(encoding="utf-8")))
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']!r}, this version reads {FORMAT}")
        files = {name: (int(n), str(known)) for name, (n, known) in body["files"].items()}
        return Record(
            stage=body["stage"],
            code=body["code"],
            settings=body["settings"],
            inputs=body["inputs"],
            files=files,
            versions=body["versions"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResultsError(f"the record is damaged: {error}", where=path, fix=REMAKE) from error


def verify(path: str | Path, background: bool = False) -> Path:
    """Check a file against the record beside it; without a record nothing is known of it.

    Parameters
    ----------
    path
        A file that a stage wrote.
    background
        Return at once and let `checksums.settle` raise, for large files.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ResultsError
        The bytes are not those that the stage wrote.
    """
    path = Path(path)
    beside = record_path(path)
    if beside.exists():
        entry = read_record(beside).files.get(_relative(path, beside))
        if entry is not None and not path.is_file():
            raise ResultsError("the file that a stage wrote is not there", where=path, fix=AGAIN)
        if entry is not None:
            (compare_in_background if background else compare)(path, *entry, REMAKE)
    return path


def known_checksum(path: Path) -> str:
    """Return the checksum of a stage's output by its record; of a file without one, its own.

    Raises
    ------
    ResultsError
        A directory without a record, or a damaged record.
    OSError
        The file cannot be read.
    """
    beside = record_path(path)
    if not path.is_dir() and not beside.exists():
        return checksum(path)
    record = read_record(beside)
    if path.is_dir():
        return record.content
    entry = record.files.get(_relative(path, beside))
    return checksum(path) if entry is None else entry[1]


def refuse_mixture(inputs: Sequence[Path]) -> None:
    """Check that the inputs of a stage belong together.

    Everything that an input was made from must be what is there now, down to the packed cells, and
    inputs of one stage must come from the same code and settings.

    Raises
    ------
    ResultsError
        They do not: the message names the file and the command.
    """
    seen: set[Path] = set()
    first: dict[str, tuple[Path, Record]] = {}
    for path in inputs:
        beside = record_path(path)
        if not path.exists():
            continue  # whoever reads it says so
        if not beside.exists():
            raise ResultsError(
                f"{path.name} has no record of what it was made from", where=path, fix=AGAIN
            )
        _refuse_stale(path, beside, seen)
        record = read_record(beside)
        other, known = first.setdefault(record.stage, (path, record))
        if record.stage not in ALIKE:
            continue
        for what, ours, theirs in (
            ("code", record.code, known.code),
            ("settings", digest(record.settings), digest(known.settings)),
        ):
            if ours != theirs:
                raise ResultsError(
                    f"two results of stage {record.stage} were made with different {what}",
                    where=f"{path} and {other}",
                    fix=AGAIN,
                )


def _refuse_stale(path: Path, beside: Path, seen: set[Path]) -> None:
    """Compare the inputs that a record names with what is there now, and theirs in turn."""
    beside = beside.absolute()
    if beside in seen:
        return
    seen.add(beside)
    for name, known in read_record(beside).inputs.items():
        source = resolved(beside, name)
        above = record_path(source)
        if not source.exists() or not above.exists():
            continue
        if known_checksum(source) != known:
            raise ResultsError(
                f"{path} was made from another {source.name} than the one that is there now",
                where=source,
                fix=AGAIN,
            )
        _refuse_stale(source, above, seen)


def resolved(record: Path, name: str) -> Path:
    """Return the file behind a name in a record, as an absolute path."""
    return Path(os.path.normpath(record.absolute().parent / name))


def _files(output: Path) -> list[Path]:
    return [file for file in output.rglob("*") if file.is_file()] if output.is_dir() else [output]


def _relative(path: Path, record: Path) -> str:
    return Path(os.path.relpath(path.absolute(), record.parent.absolute())).as_posix()
