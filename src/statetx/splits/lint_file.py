"""Check a split TOML against data, for the command `statetx lint`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from statetx.config.splits import DrugTable, TomlSplit
from statetx.core.documents import Wanted, read_toml
from statetx.core.errors import SplitError
from statetx.data.inspection.design import Columns
from statetx.data.store.store import open_store
from statetx.splits.compounds.drug_tables import facts_of
from statetx.splits.findings import Findings
from statetx.splits.lint.lint import Facts, Report
from statetx.splits.sources import Source, from_data, from_h5ads
from statetx.splits.split import checked
from statetx.splits.toml import parse


def lint_file(
    path: Path,
    data: Path | None,
    columns: Columns,
    *,
    compat: bool = False,
    allow: tuple[str, ...] = (),
    one_hot: bool = True,
    partition: bool = False,
    min_cells: int = 0,
    drug_table: DrugTable | None = None,
) -> Iterator[tuple[str, pd.DataFrame, Report]]:
    """Check a split TOML against data, one data set after the other.

    Parameters
    ----------
    path
        The split TOML.
    data
        A packed store or a table of conditions; None: the files that the TOML names.
    columns
        Names of obs columns, control labels, and how labels are read. A packed store ignores them.
    compat, allow
        As in the configuration of a split from a TOML.
    one_hot
        Whether the models know perturbations by their id only.
    partition
        Whether controls will be partitioned between the roles.
    min_cells
        Number of cells below which a test condition is reported; 0: the default.
    drug_table
        Table with the structures of drugs.

    Yields
    ------
    str, pandas.DataFrame, Report
        Name of the data set, its plan, and the report of the checks.

    Raises
    ------
    SplitError
        The file cannot be read or names no data set, or its path matches no file.
    """
    content = read_toml(path, Wanted("the split", SplitError, "correct it"))
    file = parse(content, Findings())
    if not file.used:
        raise SplitError(
            "the file splits no data set",
            where=path,
            fix='name lines as "dataset.line" in [zeroshot] or [fewshot], '
            "or a data set in [training]",
        )
    facts = facts_of(TomlSplit(dataset="", toml=str(path), drug_table=drug_table))
    for name in file.used if data is None else [_only(file.used, data, path)]:
        source = _source(path, data, columns, file.datasets.get(name, ""))
        settings = TomlSplit(
            dataset=name,
            toml=str(path),
            compat=compat,
            allow=list(allow),
            controls="partition" if partition else "shared",
        )
        known = Facts(
            source.controls,
            one_hot=one_hot,
            kind=source.reading.kind,
            setting=source.setting,
            chosen_outside=source.chosen_outside,
        )
        known = replace(known, fewest_cells=min_cells or known.fewest_cells)
        table, report = checked(source.conditions, settings, None, content, facts, known)
        yield name, table, report


def _only(used: list[str], data: Path, path: Path) -> str:
    """Return the name of the data set of the file that the given data hold."""
    if len(used) == 1:
        return used[0]
    manifest = data / "manifest.json"
    name = str(open_store(data).manifest["dataset"]) if manifest.is_file() else None
    if name not in used:
        raise SplitError(
            f"the file splits several data sets ({', '.join(used)}), and it is not clear which of "
            f"them {str(data)!r} is",
            where=path,
            fix="give the packed store of one of them, or leave out --data",
        )
    return name


def _source(path: Path, data: Path | None, columns: Columns, place: str) -> Source:
    if data is not None:
        return from_data(data, list(columns.control_pert), columns.labels)
    if not place:
        raise SplitError(
            "the data set has no path",
            where=f"{path}: [datasets]",
            fix="give the data with --data",
        )
    return from_h5ads(place, path, columns)
