"""Records: the inputs, settings, code and checksums of the files of a stage.

A stage with its own directory writes ``record.json`` into it. A stage that shares a directory with
other stages writes ``<file>.record.json`` next to its main file. Paths in a record are relative to
the record, so a results directory can be moved or copied as a whole.
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
"""Files that are described by the record of another file in the same directory."""

SETTLED = 100_000_000
"""Nanoseconds after which a new write changes a file's time: kernels use steps of about 4 ms."""

ALIKE = frozenset({"pack", "reference", "evaluate"})
"""Stages whose results are compared with each other and so must share code and settings.
Plans of folds, and models, are made with different settings on purpose."""

REMAKE = "delete it and run snakemake again to remake it; or copy it back from a backup"
AGAIN = "run snakemake again: it remakes stale results"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record of the files of one stage.

    Attributes
    ----------
    stage
        Name of the stage.
    code
        Fingerprint of the code that ran.
    settings
        Settings that the stage read.
    inputs
        Checksum of every input, by its path relative to the record.
    files
        Size in bytes and checksum of every output, by its path relative to the record.
    versions
        Installed versions, by name of the package.
    """

    stage: str
    code: str
    settings: Any
    inputs: Mapping[str, str]
    files: Mapping[str, tuple[int, str]]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """Return one checksum for all files."""
        return digest({name: list(entry) for name, entry in self.files.items()}, 32)


def record_path(path: str | Path) -> Path:
    """Return the path of the record of a file, or of a directory that one stage wrote."""
    path = Path(path)
    return path / NAME if path.is_dir() else _record_of_file(path)


def _record_of_file(path: Path) -> Path:
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
    """Write the record of finished files; call this after all files are in place.

    Parameters
    ----------
    path
        The record.
    stage, code, settings
        As in `Record`.
    inputs
        Checksum of every input, by its path.
    outputs
        Files, or directories whose files are all recorded.
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
    """Read a record; an unchanged file is parsed once.

    Parameters
    ----------
    path
        The record.

    Raises
    ------
    ResultsError
        The record does not exist, or is damaged.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ResultsError(
            "the record of what this was made from does not exist", where=path, fix=AGAIN
        ) from error
    # A file written just now may be written again without a change of its time: it is not cached.
    fresh = abs(time.time_ns() - status.st_mtime_ns) < SETTLED
    read = _read.__wrapped__ if fresh else _read
    return read(path.absolute(), (status.st_ino, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=1024)
def _read(path: Path, identity: tuple[int, int, int]) -> Record:
    """Read a record; `identity` (inode, bytes, nanoseconds) distinguishes versions of the file."""
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
    """Check a file against its record; a file without a record is not checked.

    Parameters
    ----------
    path
        A file that a stage wrote.
    background
        Whether large files are compared in a thread, so that `checksums.settle` raises the error.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ResultsError
        The file differs from what its stage wrote, or does not exist, or its record is damaged.
    """
    path = Path(path)
    beside = _record_of_file(path)  # a directory in the place of a file is damage
    if beside.exists():
        entry = read_record(beside).files.get(_relative(path, beside))
        if entry is not None and not path.is_file():
            raise ResultsError("the file that a stage wrote does not exist", where=path, fix=AGAIN)
        if entry is not None:
            (compare_in_background if background else compare)(path, *entry, REMAKE)
    return path


def known_checksum(path: Path) -> str:
    """Return the checksum that the record of an output states; compute it if there is no record.

    Parameters
    ----------
    path
        A file, or a directory that one stage wrote.

    Raises
    ------
    ResultsError
        The directory has no record, or the record is damaged.
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

    The files that an input was made from must be the present ones, up to the packed cells. Results
    of one stage in `ALIKE` must come from the same code and settings.

    Parameters
    ----------
    inputs
        The files and directories that the stage reads.

    Raises
    ------
    ResultsError
        An input is stale, has no record, or comes from other code or settings. The message names
        the file and the command to run.
    """
    seen: set[Path] = set()
    first: dict[str, tuple[Path, Record]] = {}
    for path in inputs:
        beside = record_path(path)
        if not path.exists():
            continue  # the stage itself reports a missing input
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
    """Compare the inputs in a record, and recursively the inputs of these, with present files."""
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
                f"{path} was made from a different {source.name} than the present one",
                where=source,
                fix=AGAIN,
            )
        _refuse_stale(source, above, seen)


def resolved(record: Path, name: str) -> Path:
    """Return the absolute path of a file that a record names.

    Parameters
    ----------
    record
        The record.
    name
        Path relative to the record.
    """
    return Path(os.path.normpath(record.absolute().parent / name))


def _files(output: Path) -> list[Path]:
    return [file for file in output.rglob("*") if file.is_file()] if output.is_dir() else [output]


def _relative(path: Path, record: Path) -> str:
    return Path(os.path.relpath(path.absolute(), record.parent.absolute())).as_posix()
