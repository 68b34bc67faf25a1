"""Groups, strata and structures of drugs and lines, read from tables and obs columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from statetx.config import splits as config
from statetx.core.documents import Wanted
from statetx.core.errors import ConfigError, SplitError, did_you_mean
from statetx.data.h5ad.header import column, opened
from statetx.data.h5ad.obs_columns import labels_or_none
from statetx.shared.label_kinds import read_as
from statetx.shared.labels import AUTO, WITH_DOSES
from statetx.shared.tables import check_columns, read_table
from statetx.splits.compounds.structures import scaffold, structure_key
from statetx.splits.findings import Findings, shown
from statetx.splits.grid import Grid, Known


def facts_of(
    settings: config.Held,
    files: Sequence[str | Path] = (),
    pert_col: str = "",
    cell_type_key: str = "",
    controls: Sequence[str] = (),
    setting: str = AUTO,
) -> dict[str, Any]:
    """Return the facts that a split's settings ask for, as JSON values for `known_from`.

    Parameters
    ----------
    settings
        Settings of a split. Paths of its tables are used as written.
    files, pert_col, cell_type_key, controls
        Source files of the data set, their columns and control labels, for strata by an obs column.
    setting
        How labels are read, as in `labels` of the data set.

    Raises
    ------
    ConfigError
        A table or column is missing, a drug is listed twice, or rows of a line disagree.
    """
    drugs = settings.drug_table
    table = None if drugs is None else named_rows(drugs.path, drugs.name, "drug_table", unique=True)
    out: dict[str, Any] = {}
    if drugs is not None and table is not None:
        out["listed"] = sorted(table.index)
        if drugs.smiles is not None:
            smiles = _column(table, drugs.smiles, drugs.path)
            out["structures"] = {name: structure_key(text, name) for name, text in smiles.items()}
        group = getattr(settings, "group", None)
        if group is not None:
            out["groups"] = _column(table, group, drugs.path)
        elif getattr(settings, "generator", None) == "scaffold_out" and drugs.smiles is not None:
            smiles = _column(table, drugs.smiles, drugs.path)
            out["groups"] = {name: scaffold(text, name) for name, text in smiles.items()}
    strata = _strata(settings, table, files, pert_col, cell_type_key, controls, setting)
    return {**out, "strata": strata} if strata else out


def _strata(
    settings: config.Held,
    drugs: pd.DataFrame | None,
    files: Sequence[str | Path],
    pert_col: str,
    cell_type_key: str,
    controls: Sequence[str],
    setting: str,
) -> dict[str, dict[str, str]]:
    if not isinstance(settings, config.Generated):
        return {}
    out = {}
    by_drug, by_line = settings.stratify.drugs, settings.stratify.lines
    if by_drug is not None and by_drug != "effect":
        if drugs is not None and by_drug in drugs.columns:
            out["drugs"] = _column(drugs, by_drug, "drug_table")
        else:
            out["drugs"] = obs_column(files, pert_col, by_drug, controls, setting)
    if by_line is not None:
        where = settings.line_table
        if where is not None:
            table = named_rows(where.path, where.name, "line_table", unique=False)
            out["lines"] = _agreed(table, by_line, where.path)
        else:
            out["lines"] = obs_column(files, cell_type_key, by_line, None)
    return out


def known_from(facts: dict[str, Any], grid: Grid, log: Findings) -> Known:
    """Return the facts of `facts_of`, by the names in the data.

    A name that is not in a table is looked up in other spellings: labels often have blanks around
    them.

    Parameters
    ----------
    facts
        From `facts_of`.
    grid
        The conditions.
    log
        Gets the names that were found in another spelling.

    Raises
    ------
    SplitError
        The drug table does not contain a drug of the data, or a drug or line has no stratum.
    """
    names = {"drugs": sorted({*grid.names("drug"), *grid.compounds}), "lines": grid.names("line")}
    if "listed" in facts:
        listed = dict.fromkeys(facts["listed"], "")
        _by_name(listed, names["drugs"], grid, log, "drug_table", "drugs")
    strata = {
        unit: _by_name(table, names[unit], grid, log, f"stratify.{unit}", unit)
        for unit, table in facts.get("strata", {}).items()
    }
    groups, structures = (
        _by_name(facts.get(key, {}), names["drugs"], grid, None) for key in ("groups", "structures")
    )
    return Known(groups, strata, structures)


def _by_name(
    table: dict[str, str],
    names: list[str],
    grid: Grid,
    log: Findings | None,
    key: str = "",
    what: str = "",
) -> dict[str, str]:
    """Return the entries of a table by the names in the data; a log makes all names required."""
    spelt = grid.spellings(table)
    exact = {name: table[name] for name in names if name in table}
    other = {name: spelt.find(name) for name in names if name not in exact}
    stripped = {name: table[same] for name, same in other.items() if same is not None}
    missing = [name for name in names if name not in exact and name not in stripped]
    if log is not None and stripped:
        log.found("names-stripped", f"{shown(stripped)} are listed in another spelling", key)
    if log is not None and missing:
        dosed = WITH_DOSES.parse(missing[0]).drug != missing[0]
        doses = " If labels end in doses, set `labels: drug_dose` of the data set" if dosed else ""
        raise SplitError(
            f"{len(missing)} of {len(names)} {what} of the data are not listed: {shown(missing)}",
            where=key,
            fix=f"add them as written in the data; {did_you_mean(missing[0], list(table))}{doses}",
        )
    return exact | stripped


def named_rows(path: str, name: str, key: str, *, unique: bool) -> pd.DataFrame:
    """Read a table of drugs or lines; the index holds the names.

    Parameters
    ----------
    path
        The table.
    name
        Column with the names.
    key
        Setting of the table, for messages.
    unique
        Whether repeated names are refused.

    Raises
    ------
    ConfigError
        The file or column does not exist, a name is empty, or names that must be unique are
        repeated.
    """
    wanted = Wanted("the table", ConfigError, f"correct {key}.path")
    table = read_table(path, wanted)
    check_columns(table, [name], path, wanted, f"{key}.name: ")
    table = table.mask(table == "")
    empty = table[name].isna() | (table[name].astype(str).str.strip() == "")
    if empty.any():
        row = int(empty.to_numpy().argmax()) + 1
        raise ConfigError(f"row {row} has no name", where=f"{path}: {name}", fix="fill it in")
    table = table.set_index(table[name].astype(str))
    again = sorted(set(table.index[table.index.duplicated()]))
    if unique and again:
        raise ConfigError(
            f"{len(again)} names are listed more than once, such as {again[0]!r}",
            where=f"{path}: {name}",
            fix="keep one row for each name",
        )
    return table


def _column(table: pd.DataFrame, name: str, path: str) -> dict[str, str]:
    """Return the values of a column that are not empty, as text, by name of the row."""
    if name not in table.columns:
        raise ConfigError(
            f"the table has no column {name!r}",
            where=path,
            fix=did_you_mean(name, list(map(str, table.columns))),
        )
    values = table[name].dropna().astype(str)
    return {str(key): value for key, value in values.items() if value.strip()}


def _agreed(table: pd.DataFrame, name: str, path: str) -> dict[str, str]:
    """Return a column by name; rows with the same name must agree."""
    _column(table, name, path)
    pairs = table[name].dropna().astype(str).groupby(level=0).unique()
    for line, values in pairs.items():
        if len(values) > 1:
            raise ConfigError(
                f"rows of {line!r} disagree: {sorted(values)}",
                where=f"{path}: {name}",
                fix="choose a column that is the same in all rows of a line",
            )
    return {str(line): str(values[0]) for line, values in pairs.items()}


def obs_column(
    files: Sequence[str | Path],
    key: str,
    name: str,
    controls: Sequence[str] | None,
    setting: str = AUTO,
) -> dict[str, str]:
    """Return the value of an obs column for each drug or line.

    Parameters
    ----------
    files
        Source h5ads.
    key, name
        Column of the perturbations or lines, and the column to read.
    controls
        Control labels; their cells are skipped and `key` holds perturbations. None: `key` holds
        lines.
    setting
        How labels are read, as in `labels` of the data set.

    Raises
    ------
    ConfigError
        There are no files, or a drug or line has cells with several values or without a value.
    DataError
        A file does not contain a column.
    """
    if not files:
        raise ConfigError(
            f"no table has a column {name!r}, and there are no source files to read it from",
            where="stratify",
            fix="name a drug_table or line_table with this column",
        )
    value_of: dict[str, str] = {}
    reading = None
    if controls is not None:
        reading = read_as(setting, _labels_of(files, key), controls)
    for path in map(Path, files):
        with opened(path) as file:
            units = column(file, path, key)
            wanted = labels_or_none(file, path, name, "stratify")
        codes, values = pd.factorize(wanted)
        pairs = np.unique(units.codes.astype(np.int64) * (len(values) + 1) + codes + 1)
        for unit, value in zip(*np.divmod(pairs, len(values) + 1), strict=True):
            label = units.names[unit]
            if controls is not None and label in controls:
                continue
            label = label if reading is None else reading.parse(label).drug
            text = str(values[value - 1]) if value else ""
            if not text.strip() or value_of.setdefault(label, text) != text:
                other = (
                    f"{value_of[label]!r} and {text!r}" if text.strip() else "some have no value"
                )
                raise ConfigError(
                    f"cells of {label!r} disagree: {other}",
                    where=f"{path}: obs[{name!r}]",
                    fix="choose a column that is the same in all cells of a drug or line",
                )
    return value_of


def _labels_of(files: Sequence[str | Path], key: str) -> set[str]:
    """Return all labels of an obs column."""
    names: set[str] = set()
    for path in map(Path, files):
        with opened(path) as file:
            names.update(column(file, path, key).names)
    return names
