"""Sources of conditions for `statetx lint`: a packed store, a table of counts, or h5ad files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from statetx.core.documents import Wanted
from statetx.core.errors import SplitError, did_you_mean
from statetx.data.h5ad.header import Column, Header, column, opened
from statetx.data.inspection.design import Columns, looks_like_control, tally
from statetx.data.store.layout import file_name
from statetx.data.store.store import open_store
from statetx.shared.label_kinds import read_as, with_drugs
from statetx.shared.labels import AUTO, Reading
from statetx.shared.tables import check_columns, count, read_table

NEEDED = ("line", "perturbation", "n_cells")
WANTED = Wanted("the conditions", SplitError, "give a packed store or a table")


@dataclass(frozen=True)
class Source:
    """Conditions of a data set, and further facts for the checks.

    Attributes
    ----------
    conditions
        Like ``Store.conditions``, without rows of cells.
    controls
        The control label and its aliases.
    reading
        How labels are read.
    setting
        Setting ``labels`` that led to `reading`; None: the store holds the reading.
    chosen_outside
        Matrix made outside of any split, in which the data are modelled; None: no such matrix.
    """

    conditions: pd.DataFrame
    controls: tuple[str, ...]
    reading: Reading
    setting: str | None = None
    chosen_outside: str | None = None


def from_data(path: Path, controls: list[str], setting: str = AUTO) -> Source:
    """Read conditions from a packed store, or from a table (parquet or CSV).

    Parameters
    ----------
    path
        Directory of a store, or a table with the columns ``line, perturbation, n_cells``. The
        column ``batch`` is optional; checks of plates need it.
    controls
        Control labels; used for tables only.
    setting
        How labels are read, as in `labels` of a data set; used for tables only.

    Raises
    ------
    SplitError
        The table does not contain these columns, or no control label is given or found.
    """
    if path.is_dir():
        store = open_store(path)
        reading = store.reading
        chosen = store.manifest.get("expression_key")
        return Source(store.conditions, reading.controls, reading, chosen_outside=chosen)
    table = read_table(path, WANTED)
    check_columns(table, NEEDED, path, WANTED)
    return source_from(table, controls, path, setting)


def source_from(table: pd.DataFrame, controls: list[str], where: object, setting: str) -> Source:
    """Return conditions like ``Store.conditions`` from ``line, perturbation, n_cells[, batch]``.

    Parameters
    ----------
    table
        One row per condition and batch.
    controls
        Control labels; the first one replaces the others.
    where
        Path of the table, for messages.
    setting
        How labels are read, as in `labels` of a data set.

    Raises
    ------
    SplitError
        A number of cells is not a whole number, or no condition has a control label.
    """
    cells = [count(value) for value in table["n_cells"]]
    if None in cells:
        row = cells.index(None)
        raise SplitError(
            f"row {row + 1} has {table['n_cells'].iloc[row]!r} cells",
            where=where,
            fix="give n_cells, the number of cells of the condition, as a whole number",
        )
    names = table["perturbation"].astype(str)
    is_control = names.isin(controls)
    if not is_control.any():
        every = sorted(names.unique())
        like = [name for name in every if looks_like_control(name)] or every
        hint = did_you_mean(controls[0] if controls else "", like)
        raise SplitError(
            f"no cells have the control label {controls[0]!r}" if controls else "no control label",
            where=where,
            fix=f"--control-pert: {hint}",
        )
    conditions = pd.DataFrame(
        {
            "line": table["line"].astype(str),
            "perturbation": names.where(~is_control, controls[0]),
            "batch": table["batch"].astype(str) if "batch" in table.columns else "",
            "is_control": is_control,
            "n_cells": np.array(cells, dtype=np.int64),
        }
    )
    reading = read_as(setting, names, controls)
    return Source(with_drugs(conditions, reading), tuple(controls), reading, setting)


def from_h5ads(path: str, toml: Path, columns: Columns) -> Source:
    """Read conditions from the files that the path of a data set in a TOML names.

    Parameters
    ----------
    path
        As written under ``[datasets]``: a file, a directory, or a pattern with ``* ? [ ] { }``.
    toml
        The TOML file. Relative paths are tried from the working directory, then from its directory.
    columns
        Names of the obs columns, control labels, and how labels are read.

    Raises
    ------
    SplitError
        The path, or a member of its braces, matches no file.
    DataError
        A file is not an h5ad, or does not contain a column.
    """
    files = matches(path, toml.parent, f"{toml}: [datasets]")
    stores = {file.parent for file in files if (file.parent / "manifest.json").is_file()}
    if stores:
        return _from_store(stores, files, f"{toml}: [datasets]")
    tallies = []
    for file in files:
        with opened(file) as handle:
            perturbation = column(handle, file, str(columns.pert_col), "--pert-col")
            line = column(handle, file, str(columns.cell_type_key), "--cell-type-key")
            batch = Column(0 * line.codes, [""])
            if columns.batch_col is not None:
                batch = column(handle, file, columns.batch_col, "--batch-col")
        head = Header(file, len(line.codes), [], perturbation, line, batch)
        tallies.append(tally(head).rename(columns={"cells": "n_cells"}))
    counted = pd.concat(tallies).groupby(["line", "perturbation", "batch"], as_index=False).sum()
    return source_from(counted, list(columns.control_pert), files[0], columns.labels)


def _from_store(stores: set[Path], files: list[Path], where: str) -> Source:
    """Return the conditions of those lines of a packed store whose files are named."""
    home = min(stores)
    other = [file for file in files if file.parent != home]
    if other:
        raise SplitError(
            f"the path names the packed store {str(home)!r} and other files, such as "
            f"{str(other[0])!r}",
            where=where,
            fix="name one store, or source files only",
        )
    source, named = from_data(home, []), {file.name for file in files}
    lines = {line: f"{file_name(line)}.h5ad" for line in source.conditions["line"].unique()}
    chosen = [line for line, file in lines.items() if file in named]
    lost = sorted(file for file in lines.values() if not (home / file).is_file())
    if lost:
        raise SplitError(
            f"the packed store does not contain the file {lost[0]!r} of one of its lines",
            where=home,
            fix="pack the data set again",
        )
    return replace(source, conditions=source.conditions[source.conditions["line"].isin(chosen)])


def matches(path: str, beside: Path, where: object = "[datasets]") -> list[Path]:
    """Return the h5ad files of a path as cell-load reads it, sorted, each once.

    The path is a file, a directory or a pattern. A directory means the ``*.h5`` and ``*.h5ad``
    files in it, without those in subdirectories. In a pattern, braces with commas are expanded
    first, then each part is globbed. ``~`` and environment variables are expanded too. Paths are
    relative to the working directory, or to `beside` if the working directory has no match.

    Parameters
    ----------
    path
        As written in a TOML.
    beside
        The directory of the TOML.
    where
        Place of the path, for messages.

    Raises
    ------
    SplitError
        The path, or a member of its braces, matches no file: cell-load would skip it.
    """
    members = list(braces(os.path.expandvars(path)))
    for base in (Path(), beside):
        files_of = {member: _files(base, member) for member in members}
        missing = [member for member, files in files_of.items() if not files]
        if len(missing) < len(members):
            break
    if missing:
        part = f"{missing[0]!r}, a part of {path!r},"
        named = repr(path) if len(missing) == len(members) else part
        raise SplitError(
            f"{named} matches no file",
            where=where,
            fix=f"{_hint(base, missing[0])}correct the path, or give the data with --data",
        )
    every = sorted(set().union(*files_of.values()))
    once = {
        file.resolve(): file for file in reversed(every)
    }  # links and `..` can name a file twice
    return sorted(once.values())


def _files(base: Path, member: str) -> set[Path]:
    start = str(base / os.path.expanduser(member))  # noqa: PTH111 (an unknown user is not an error)
    entire = [start] if Path(start).exists() else glob.glob(start)  # noqa: PTH207
    files: set[Path] = set()
    for entry in map(Path, entire):
        files.update([*entry.glob("*.h5"), *entry.glob("*.h5ad")] if entry.is_dir() else [entry])
    return files


def _hint(base: Path, member: str) -> str:
    """Return a hint, such as a similar file name as a question; "" if there is no hint."""
    place = base / os.path.expanduser(member)  # noqa: PTH111
    if place.is_dir():
        return "the directory does not contain .h5ad or .h5 files: "
    try:
        names = sorted(file.name for file in place.parent.iterdir())
    except OSError:
        return ""
    near = did_you_mean(place.name, names) if names else ""
    return f"{near} Else " if near.startswith("did you mean") else ""


def braces(pattern: str) -> Iterator[str]:
    """Yield a pattern with each option of its ``{a,b}`` in turn."""
    group = re.search(r"\{([^{}]*)\}", pattern)
    if group is None:
        yield pattern
        return
    for option in group[1].split(","):
        yield from braces(pattern[: group.start()] + option.strip() + pattern[group.end() :])
