"""What a split really is: leaks, empty parts, and facts that a reader of the scores should know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from statetx.data.plan import ROLES
from statetx.errors import did_you_mean
from statetx.splits.findings import Findings, shown

FORMAT = 1


FEWEST_TO_PARTITION = 10
"""Control cells of a line below which a role would get none of them."""


@dataclass(frozen=True)
class Report:
    """The result of `lint`.

    Attributes
    ----------
    findings
        Everything that was found.
    lines
        One row per cell line of the data: ``line``, conditions and cells per role
        (``train, train_cells, val, val_cells, test, test_cells``), ``controls`` (cells).
    """

    findings: Findings
    lines: pd.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """Return what ``lint.json`` holds."""
        severities = [item.severity for item in self.findings.items]
        return {
            "format": FORMAT,
            "errors": severities.count("error"),
            "warnings": severities.count("warning"),
            "notes": severities.count("note"),
            "findings": self.findings.as_dicts(),
            "lines": self.lines.to_dict("records"),
        }

    def text(self) -> str:
        """Return a table of the lines, and the findings below it, for the screen."""
        parts = [self.lines.to_string(index=False)] if len(self.lines) else []
        for item in self.findings.as_dicts():
            place = f" [{item['where']}]" if item["where"] else ""
            parts.append(f"{item['severity']}: {item['what']}{place}")
            if item["fix"]:
                parts.append(f"  fix: {item['fix']}")
        return "\n".join(parts)


def lint(
    table: pd.DataFrame,
    conditions: pd.DataFrame,
    log: Findings | None = None,
    controls_policy: str = "shared",
) -> Report:
    """Check a plan against the conditions that exist.

    Parameters
    ----------
    table
        ``line, perturbation, role, reason``.
    conditions
        ``Store.conditions``.
    log
        Findings made earlier (reading the TOML); they come first in the report.
    controls_policy
        ``shared`` or ``partition``, see `statetx.data.matching.control_runs`.

    Returns
    -------
    Report
        Findings and a summary per cell line. Nothing is raised: see `Findings.raise_errors`.
    """
    log = log or Findings()
    is_control = conditions["is_control"].astype(bool)
    perturbed = conditions[~is_control]
    cells = perturbed.groupby(["line", "perturbation"])["n_cells"].sum()
    controls = conditions[is_control].groupby("line")["n_cells"].sum()
    lines = sorted(conditions["line"].unique())

    _unknown_names(table, perturbed, lines, log)
    _two_roles(table, log)
    _empty_parts(table, log)
    _split_doses(table, perturbed, log)
    _left_out(table, cells, log)
    _controls_only(table, controls, cells, log)
    _unseen(table, perturbed, log)
    _controls(table, controls, controls_policy, log)
    return Report(log, _summary(table, cells, controls, lines))


def _unknown_names(
    table: pd.DataFrame, perturbed: pd.DataFrame, lines: list[str], log: Findings
) -> None:
    have = {str(line): set(block) for line, block in perturbed.groupby("line")["perturbation"]}
    for line in sorted(set(table["line"]) - set(lines)):
        log.error(
            "unknown-line", f"no cell line {line!r} in the data", "", did_you_mean(line, lines)
        )
    for line, block in table[table["line"].isin(lines)].groupby("line"):
        known = have.get(str(line), set())
        for label in sorted(set(block["perturbation"]) - known):
            log.error(
                "unknown-perturbation",
                f"line {line!r} has no perturbation {label!r}",
                "",
                did_you_mean(label, sorted(known)),
            )


def _two_roles(table: pd.DataFrame, log: Findings) -> None:
    for role in sorted(set(table["role"]) - set(ROLES)):
        log.error("bad-role", f"{role!r} is no role", "", did_you_mean(role, ROLES))
    twice = table[table.duplicated(["line", "perturbation"])]
    for line, label in zip(twice["line"], twice["perturbation"], strict=True):
        log.error(
            "two-roles",
            f"condition ({line!r}, {label!r}) is listed twice",
            "",
            "give every condition one role",
        )


def _empty_parts(table: pd.DataFrame, log: Findings) -> None:
    # A misspelt hold-out also empties the test set; the misspelling is the message that helps.
    if log.errors:
        return
    roles = set(table["role"])
    if "test" not in roles:
        log.error("empty-test", "the test set is empty", "", "hold out some conditions")
    if "train" not in roles:
        log.error("empty-train", "nothing is left to train on", "", "hold out fewer conditions")
    if "val" not in roles:
        log.info(
            "empty-val",
            "there are no validation conditions: the best checkpoint cannot be chosen by them",
            "",
            "hold out a few conditions as val; the test set is never used instead",
        )


def _split_doses(table: pd.DataFrame, perturbed: pd.DataFrame, log: Findings) -> None:
    drugs = perturbed[["line", "perturbation", "drug"]].drop_duplicates()
    merged = table.merge(drugs, on=["line", "perturbation"])
    spread = merged.groupby(["line", "drug"])["role"].nunique()
    crossing: set[tuple[str, str]] = set(spread[spread > 1].index)
    if not crossing:
        return
    leaks: dict[tuple[str, str], list[str]] = {}
    for (line, drug), block in merged.groupby(["line", "drug"]):
        if (line, drug) in crossing:
            roles = set(block["role"])
            pairs = [("train", "test"), ("val", "test"), ("train", "val")]
            pair = next(pair for pair in pairs if roles >= set(pair))
            leaks.setdefault(pair, []).append(f"{drug} in {line}")
    for (left, right), found in sorted(leaks.items()):
        report = log.error if right == "test" and left == "train" else log.warning
        report(
            "split-doses",
            f"doses of one drug are in {left} and in {right} of the same line: {shown(found)}",
            "",
            "a neighbouring dose gives the answer away: give all doses of a drug in a line one role",
        )


def _left_out(table: pd.DataFrame, cells: pd.Series, log: Findings) -> None:
    planned = set(zip(table["line"], table["perturbation"], strict=True))
    unused = sorted(set(cells.index) - planned)
    if unused and not any(item.code == "lines-left-out" for item in log.items):
        names = shown(f"{label} in {line}" for line, label in unused)
        log.warning("conditions-left-out", f"{len(unused)} conditions have no role: {names}")


def _controls_only(
    table: pd.DataFrame, controls: pd.Series, cells: pd.Series, log: Findings
) -> None:
    perturbed = set(cells.index.get_level_values("line"))
    bare = sorted({str(line) for line in controls.index} - perturbed)
    if bare:
        log.warning(
            "controls-only",
            f"{len(bare)} lines have control cells alone: {shown(bare)}",
            "",
            "they are in no plan: nothing is learnt from them and nothing can be tested in them",
        )


def _unseen(table: pd.DataFrame, perturbed: pd.DataFrame, log: Findings) -> None:
    train = table[table["role"] == "train"]
    test = table[table["role"] == "test"]
    unseen = sorted(set(test["perturbation"]) - set(train["perturbation"]))
    if unseen:
        log.info(
            "unseen-perturbations",
            f"{len(unseen)} of {test['perturbation'].nunique()} test perturbations are never seen "
            f"in training: {shown(unseen)}",
            "",
            "models that know a perturbation by its name only refuse such a split; baselines fall "
            "back to the mean effect and flag it",
        )
    drug_of = dict(zip(perturbed["perturbation"], perturbed["drug"], strict=True))
    trained = {drug_of.get(label) for label in train["perturbation"]}
    dose_only = [label for label in unseen if drug_of.get(label) in trained]
    if dose_only:
        log.info(
            "unseen-doses",
            f"{len(dose_only)} of them are new doses of drugs that train: {shown(dose_only)}",
        )
    new_lines = sorted(set(test["line"]) - set(train["line"]))
    if new_lines:
        log.info(
            "unseen-lines",
            f"{len(new_lines)} test lines have no training conditions: {shown(new_lines)}",
            "",
            "context_mean uses the mean of all training lines there and flags it",
        )


def _controls(table: pd.DataFrame, controls: pd.Series, policy: str, log: Findings) -> None:
    roles: dict[str, set[str]] = {
        str(line): set(part) for line, part in table.groupby("line")["role"]
    }
    n_controls = {str(line): int(n) for line, n in controls.items()}
    without = [line for line in roles if n_controls.get(line, 0) == 0]
    for line in without:
        log.error(
            "no-controls",
            f"line {line!r} has no control cells",
            "",
            "predictions start from control cells: leave the line out or correct control_pert",
        )
    shared = [line for line in roles if len(roles[line]) > 1 and line not in without]
    if policy == "partition":
        few = [line for line in roles if 0 < n_controls.get(line, 0) < FEWEST_TO_PARTITION]
        for line in few:
            log.error(
                "too-few-controls",
                f"line {line!r} has {n_controls[line]} control cells, too few to partition",
                "",
                "use `controls: shared`, or leave the line out",
            )
    elif shared:
        n_cells = sum(n_controls[line] for line in shared)
        log.info(
            "shared-controls",
            f"{n_cells} control cells of {len(shared)} lines serve more than one of training, "
            "validation and test",
            "",
            "scores compare with the same controls on both sides",
        )


def _summary(
    table: pd.DataFrame, cells: pd.Series, controls: pd.Series, lines: Iterable[str]
) -> pd.DataFrame:
    keys = list(zip(table["line"], table["perturbation"], strict=True))
    known = {key: int(n) for key, n in cells.items()}
    counted = table.assign(cells=[known.get(key, 0) for key in keys])
    rows = []
    for line in lines:
        row: dict[str, Any] = {"line": line}
        for role in ROLES:
            part = counted[(counted["line"] == line) & (counted["role"] == role)]
            row[role] = len(part)
            row[f"{role}_cells"] = int(part["cells"].sum())
        rows.append(row | {"controls": int(controls.get(line, 0))})
    return pd.DataFrame(rows)
