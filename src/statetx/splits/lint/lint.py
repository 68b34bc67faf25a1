"""Checks of a split: leaks, misspelt names, empty roles, and facts that readers should know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from statetx.data.store.plan import ROLES
from statetx.shared.label_counts import IF_IDS, Count, counted
from statetx.shared.labels import DRUG_DOSE, Reading
from statetx.splits.findings import Findings
from statetx.splits.grid import LEFT_OUT
from statetx.splits.lint import checks

FORMAT = 2
FEWEST_CELLS = 30
"""Test conditions with fewer cells are reported: a gene's mean then errs by a fifth of its SD."""

PURPOSE: dict[str, frozenset[str]] = {
    "dose_interpolate": frozenset({"split-doses", "same-structure"}),
    "dose_extrapolate": frozenset({"split-doses", "same-structure"}),
    "plate_out": frozenset({"split-doses", "same-structure"}),
    "both_out": frozenset({"conditions-left-out"}),
}
"""By generator: checks that it fails on purpose, so that their findings are notes."""


@dataclass(frozen=True)
class Facts:
    """Facts for the checks, in addition to plan and conditions.

    Attributes
    ----------
    controls
        The control label and its aliases.
    controls_policy
        ``shared`` or ``partition``, see `statetx.data.store.roles.control_runs`.
    one_hot
        Whether a model on this split knows perturbations by their id only.
    structures
        Key of the structure of each drug for which it is known.
    chosen_outside
        Matrix whose genes, or embedding, were chosen outside this split; None: no such matrix.
    fewest_cells
        Number of cells below which a test condition is reported.
    kind
        How labels are read, see `statetx.shared.labels.Reading`.
    setting
        Setting ``labels`` of the data set; None: not known.
    """

    controls: tuple[str, ...] = ()
    controls_policy: str = "shared"
    one_hot: bool = True
    structures: Mapping[str, str] | None = None
    chosen_outside: str | None = None
    fewest_cells: int = FEWEST_CELLS
    kind: str = DRUG_DOSE
    setting: str | None = None


@dataclass(frozen=True)
class Report:
    """The result of `lint`.

    Attributes
    ----------
    findings
        Findings of all checks.
    lines
        One row per cell line of the data: ``line``, conditions and cells per role
        (``train, train_cells, val, val_cells, test, test_cells``), ``left_out`` (conditions),
        ``controls`` (cells).
    roles
        One row per role: ``role``, numbers of ``lines, drugs, conditions, cells``.
    labels
        Numbers of drugs and doses in the labels.
    reading
        How labels are read.
    """

    findings: Findings
    lines: pd.DataFrame
    roles: pd.DataFrame
    labels: Count
    reading: Reading

    @property
    def failed(self) -> bool:
        """Whether the split is refused."""
        return bool(self.findings.errors)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``lint.json``."""
        severities = [item.severity for item in self.findings.items]
        return {
            "format": FORMAT,
            "errors": severities.count("error"),
            "warnings": severities.count("warning"),
            "notes": severities.count("note"),
            "labels": {
                "read_as": self.reading.kind,
                "drugs": self.labels.drugs,
                "doses": self.labels.doses,
            },
            "findings": self.findings.as_dicts(),
            "roles": self.roles.to_dict("records"),
            "lines": self.lines.to_dict("records"),
        }

    def text(self) -> str:
        """Return the tables of roles and lines and the findings as text."""
        parts = [_aligned(self.roles), "", _aligned(self.lines), "", self.labels.text, ""]
        for item in self.findings.as_dicts():
            place = f" [{item['where']}]" if item["where"] else ""
            parts.append(f"{item['severity']} ({item['code']}): {item['what']}{place}")
            if item["fix"]:
                parts.append(f"  fix: {item['fix']}")
        n = len(self.findings.errors)
        many = "" if n == 1 else "s"
        parts.append(f"refused: {n} error{many}" if n else "the split can be used")
        return "\n".join(parts)


def _aligned(table: pd.DataFrame) -> str:
    named = table.rename(columns=lambda name: str(name).replace("_", " "))
    return named.to_string(index=False, formatters=dict.fromkeys(named.columns, _number))


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def lint(
    table: pd.DataFrame,
    conditions: pd.DataFrame,
    log: Findings | None = None,
    facts: Facts = Facts(),
) -> Report:
    """Check a plan against the conditions that exist.

    Parameters
    ----------
    table
        ``line, perturbation, role, reason``; role ``none``, or no row, for conditions that are left
        out.
    conditions
        ``Store.conditions``.
    log
        Earlier findings, made while the TOML was read; they come first in the report.
    facts
        Further facts.

    Returns
    -------
    Report
        Findings and a summary. Errors are not raised, see `Findings.raise_errors`.
    """
    log = log or Findings()
    used = table[table["role"] != LEFT_OUT]
    is_control = conditions["is_control"].astype(bool)
    perturbed = conditions[~is_control]
    cells = perturbed.groupby(["line", "perturbation"])["n_cells"].sum()
    controls = conditions[is_control].groupby("line")["n_cells"].sum()

    reading = Reading(facts.kind, facts.controls)
    labels = counted(reading, perturbed["perturbation"].unique(), facts.setting)
    if labels.collapse:
        log.found("few-drugs", labels.collapse, "", IF_IDS)
    checks.unknown_names(used, perturbed, log)
    checks.spellings(conditions, reading, log)
    checks.roles(used, log)
    named = checks.split_spellings(used, reading, log)
    checks.split_units(used[~named], perturbed, facts.structures or {}, log)
    checks.left_out(used, perturbed, controls, log)
    checks.small(used, cells, facts.fewest_cells, log)
    checks.unseen(used, perturbed, reading, facts.one_hot, log)
    checks.plates(used, conditions, reading, log)
    checks.control_cells(used, controls, facts.controls_policy, log)
    if facts.chosen_outside is not None:
        log.found(
            "genes-chosen-outside",
            f"the data are modelled in obsm {facts.chosen_outside!r}, which was made outside of "
            "this split, possibly from its test cells",
            "",
            "set expression_key to null and `genes: {n_hvg: …}` of the models to choose genes for "
            "this split",
        )
    lines = sorted(conditions["line"].unique())
    by_line = _lines(used, cells, controls, lines)
    return Report(log, by_line, _roles(used, perturbed, cells), labels, reading)


def _lines(
    table: pd.DataFrame, cells: pd.Series, controls: pd.Series, lines: Iterable[str]
) -> pd.DataFrame:
    counted = _counted(table, cells)
    grouped = counted.groupby(["line", "role"])["cells"].agg(["size", "sum"])
    sizes = {key: (int(n), int(total)) for key, n, total in grouped.itertuples(name=None)}
    have = cells.groupby("line").size()
    rows = []
    for line in lines:
        row: dict[str, Any] = {"line": line}
        for role in ROLES:
            row[role], row[f"{role}_cells"] = sizes.get((line, role), (0, 0))
        row["left_out"] = int(have.get(line, 0)) - sum(row[role] for role in ROLES)
        rows.append(row | {"controls": int(controls.get(line, 0))})
    return pd.DataFrame(rows)


def _roles(table: pd.DataFrame, perturbed: pd.DataFrame, cells: pd.Series) -> pd.DataFrame:
    counted = _counted(table, cells)
    drug_of = perturbed.drop_duplicates("perturbation").set_index("perturbation")["drug"]
    rows = []
    for role in ROLES:
        part = counted[counted["role"] == role]
        rows.append(
            {
                "role": role,
                "lines": part["line"].nunique(),
                "drugs": part["perturbation"].map(drug_of).nunique(),
                "conditions": len(part),
                "cells": int(part["cells"].sum()),
            }
        )
    return pd.DataFrame(rows)


def _counted(table: pd.DataFrame, cells: pd.Series) -> pd.DataFrame:
    index = pd.MultiIndex.from_frame(table[["line", "perturbation"]])
    return table.assign(cells=cells.reindex(index).fillna(0).to_numpy(dtype="int64"))
