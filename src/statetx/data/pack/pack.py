"""Pack h5ad files into the store: one h5ad per cell line, sorted by condition, mappable.

Packing is an external sort in three steps, each a separate job in the workflow. `survey` reads the
headers, `scatter` splits one source file by line, `gather` sorts one line. `finish` then writes the
tables of the whole store. `pack` runs all steps in one process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from statetx.config import Dataset
from statetx.core import locks
from statetx.core.digests import digest, versions
from statetx.core.errors import DataError, ResultsError
from statetx.core.fingerprint import code_fingerprint
from statetx.core.text_files import write_json, write_text
from statetx.core.writes import whole
from statetx.data.h5ad.identity import identity
from statetx.data.pack.gather import gather
from statetx.data.pack.scatter import scatter
from statetx.data.pack.segments import check_bytes, read_index
from statetx.data.pack.survey import CODE, Survey, survey, watched
from statetx.data.store.layout import FORMAT, check_case, file_name
from statetx.shared import labels
from statetx.shared.label_kinds import read_as, with_drugs

__all__ = ["finish", "gather", "pack", "part_names", "scatter", "survey"]

log = logging.getLogger("statetx.pack")


def part_names(survey: Survey) -> list[str]:
    """Return the directory names of the parts, one per source file."""
    return [f"{number:04d}" for number in range(len(survey.sources))]


def pack(
    files: Sequence[str | Path],
    settings: Dataset,
    name: str,
    out_dir: str | Path,
    parts_dir: str | Path | None = None,
    packed_as: Any = None,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write the store of a data set: one h5ad per line, ``conditions.parquet``, ``manifest.json``.

    Equal data gives equal bytes, for any modification times and paths. Every file appears whole or
    not at all. The manifest is written last, and a directory without it is not a store. After an
    interruption, the next attempt uses the finished parts and lines of the same data.

    Memory is bounded by one chunk of a file or one block of a line, and about 30 bytes per cell of
    the largest file or line.

    Parameters
    ----------
    files
        h5ad files, which are only read.
    settings
        Settings of the data set.
    name
        Name of the data set.
    out_dir
        Directory of the store, created if it does not exist.
    parts_dir
        Directory of the parts until the store is finished; None: ``<out_dir>.parts``.
    packed_as
        Content of ``content.json``, in the workflow.
    provenance
        Entries to add to ``provenance`` in the manifest.

    Raises
    ------
    DataError
        The files contradict the settings.
    ResultsError
        `out_dir` cannot be written to, or its disk is full.
    """
    out = Path(out_dir)
    home = out.with_name(out.name + ".parts") if parts_dir is None else Path(parts_dir)
    _make_parent(out)
    with locks.held(locks.beside(out), f"the store {out}"):
        found = survey(files, settings, name)
        _make(out)
        parts = _pack_lines(found, settings, out, home)
        finish(found, settings, out, parts, packed_as, provenance)
        shutil.rmtree(home, ignore_errors=True)


def _pack_lines(found: Survey, settings: Dataset, out: Path, home: Path) -> list[Path]:
    """Pack the lines that no earlier attempt has finished; return the directories of the parts."""
    _make(home)
    check_case(map(file_name, found.cells), out)
    (out / "manifest.json").unlink(missing_ok=True)
    parts = [home / part for part in part_names(found)]
    lines = {line: out / f"{file_name(line)}.h5ad" for line in found.cells}
    done = {line: home / f"{path.stem}.done" for line, path in lines.items()}
    missing = [
        line for line, mark in done.items() if not _finished(mark, lines[line], found.digest)
    ]
    try:
        for number, part in enumerate(parts):
            if not _is_part_of(part, found.digest):
                shutil.rmtree(part, ignore_errors=True)
                scatter(found, number, settings, part)
        for line in missing:
            gather(found, parts, line, settings, lines[line])
            write_text(done[line], _mark(lines[line], found.digest))
    finally:
        with contextlib.suppress(OSError):
            home.rmdir()  # succeeds only if nothing was finished
    return parts


def _make(directory: Path) -> None:
    """Create a directory and its parents."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(
            f"cannot create this directory: {error.strerror}",
            where=directory,
            fix="make its parent writable, or choose another results directory",
        ) from error


def _make_parent(directory: Path) -> None:
    """Create the directory of the lock. `directory` itself is created after the survey."""
    if not directory.parent.is_dir():
        _make(directory)


def _mark(path: Path, digest: str) -> str:
    """Return the content of a mark: digest of the survey, size and mtime of the file."""
    stat = path.stat()
    return f"{digest} {stat.st_size} {stat.st_mtime_ns}"


def _finished(mark: Path, path: Path, digest: str) -> bool:
    """Return whether a packed line exists and its mark says that it was made from this survey."""
    exist = mark.is_file() and path.is_file()
    return exist and mark.read_bytes() == _mark(path, digest).encode()


def _is_part_of(part: Path, digest: str) -> bool:
    """Return whether an earlier attempt has left a whole part of the same data."""
    if not part.exists():
        return False
    try:
        if read_index(part)["survey"] != digest:
            return False
        check_bytes(part)
    except ResultsError as error:
        log.warning("%s is made again: %s", part, error.what)
        return False
    return True


def finish(
    survey: Survey,
    settings: Dataset,
    out_dir: str | Path,
    parts: Sequence[str | Path],
    packed_as: Any = None,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write the tables of the whole store.

    They are ``conditions.parquet``; ``sources.json`` with the paths, stamps and digests of the
    source files; and ``manifest.json`` without paths, so that moving the source files does not
    change it.

    Parameters
    ----------
    survey
        Survey of the source files.
    settings
        Settings of the data set.
    out_dir
        Directory of the store with its packed lines.
    parts
        Directories that `scatter` wrote, in the order of the survey.
    packed_as
        Content of ``content.json`` when packing began.
    provenance
        Entries to add to ``provenance`` in the manifest.

    Raises
    ------
    DataError
        A source file changed since the survey.
    ResultsError
        A packed line is missing or has another number of cells.
    """
    out = Path(out_dir)
    for source in survey.sources:
        if identity(source.path, watched(settings)) != source.identity:
            raise DataError(
                "the file changed while it was packed",
                where=source.path,
                fix="wait until it is complete, then pack again",
            )
    tables, entries = [], []
    for line, n_cells in survey.cells.items():
        path = out / f"{file_name(line)}.h5ad"
        if not path.is_file():
            raise ResultsError(
                f"the packed cells of line {line!r} are missing", where=path, fix="pack again"
            )
        table, entry = _line(path, line, settings)
        if entry["n_cells"] != n_cells:
            raise ResultsError(
                f"line {line!r} has {n_cells} cells in the source files, but {entry['n_cells']} were "
                "packed",
                where=path,
                fix="delete the file and pack again",
            )
        tables.append(table)
        entries.append(entry)
    conditions = pd.concat(tables, ignore_index=True)
    names, known = conditions["perturbation"].unique(), labels.controls(settings.control_pert)
    reading = read_as(settings.labels, names, known)
    with whole(out / "conditions.parquet") as part:
        with_drugs(conditions, reading).to_parquet(part, index=False)
    contents = [str(read_index(Path(part))["content"]) for part in parts]
    sources = [
        {"path": source.path, "stamp": source.stamp, "content": content}
        for source, content in zip(survey.sources, contents, strict=True)
    ]
    write_json(out / "sources.json", {"packed_as": packed_as, "sources": sources})
    manifest = _manifest(survey, settings, entries, contents, provenance or {})
    write_json(out / "manifest.json", manifest | reading.said())


def _line(path: Path, line: str, settings: Dataset) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the conditions of a packed line, without drugs, and its entry in the manifest."""
    with h5py.File(path, "r") as file:
        obs = file["obs"]
        perturbation, batch = obs["perturbation/codes"][()], obs["batch/codes"][()]
        perturbations = obs["perturbation/categories"].asstr()[()]
        batches = obs["batch/categories"].asstr()[()]
        counts = bool(json.loads(file["uns/statetx"][()])["counts"])
        kind = str(file["X/data"].dtype)
    changes = (perturbation[1:] != perturbation[:-1]) | (batch[1:] != batch[:-1])
    starts = np.flatnonzero(np.r_[True, changes])
    names = perturbations[perturbation[starts]]
    control = labels.controls(settings.control_pert)[0]
    n_cells = np.diff(np.r_[starts, len(perturbation)]).astype(np.int64)
    table = pd.DataFrame(
        {
            "line": line,
            "perturbation": names.astype(object),
            "batch": batches[batch[starts]].astype(object),
            "is_control": names == control,
            "row_start": starts.astype(np.int64),
            "n_cells": n_cells,
        }
    )
    entry = {
        "name": line,
        "file": path.name,
        "n_cells": len(perturbation),
        "n_controls": int(n_cells[names == control].sum()),
        "counts": counts,
        "values": kind,
    }
    return table, entry


def _manifest(
    survey: Survey,
    settings: Dataset,
    lines: list[dict[str, Any]],
    contents: list[str],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of ``manifest.json`` without the reading of labels."""
    declared = labels.controls(settings.control_pert)
    hvg = survey.expression_genes
    return {
        "format": FORMAT,
        "made_from": digest(
            [FORMAT, contents, survey.genes, survey.settings, code_fingerprint(CODE)]
        ),
        "dataset": survey.dataset,
        "genes": survey.genes,
        "expression_key": settings.expression_key,
        "expression_genes": survey.genes if hvg is None else hvg,
        "embeddings": survey.widths,
        "control_pert": declared[0],
        "control_aliases": declared[1:],
        "pert_col": settings.pert_col,
        "cell_type_key": settings.cell_type_key,
        "batch_col": settings.batch_col,
        "scale": settings.scale,
        "target_sum": settings.target_sum,
        "total_counts_col": settings.total_counts_col,
        "labels_are_genes": settings.labels_are_genes,
        "lines": lines,
        "sources": contents,
        "provenance": {
            "versions": versions(("statetx", "numpy", "pandas", "anndata", "h5py")),
            **provenance,
        },
    }
