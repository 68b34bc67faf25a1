"""Every check against a planted fault; splits that are clean; severities that change."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
from conditions import CONTROL, conditions_of

from statetx.config import BlockSplit, TomlSplit
from statetx.config.splits import BothOut, DoseSplit, DrugOut, DrugTable, LineOut, PlateOut
from statetx.splits.findings import CHECKS, Finding, Findings
from statetx.splits.lint.lint import PURPOSE, Facts, Report, lint
from statetx.splits.split import checked

LINES = [f"L{i}" for i in range(6)]
DRUGS = [f"Drug{i}" for i in range(8)]
CONTROLS = (CONTROL, "DMSO_TF")


def design(**keys: Any) -> pd.DataFrame:
    """Return lines on plates of their own, so that they share no well; 60 cells or more of each."""
    parts = [conditions_of([line], DRUGS, batches=(f"plate of {line}",), **keys) for line in LINES]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(n_cells=table["n_cells"] + 50)


CLEAN = design()
PERTURBED = ~CLEAN["is_control"].astype(bool)


def changed(chosen: pd.Series, **values: Any) -> pd.DataFrame:
    """Return the clean conditions with other values in some rows."""
    table = CLEAN.copy()
    for name, value in values.items():
        table.loc[chosen, name] = value
    return table


def is_(line: str | None = None, label: str | None = None) -> pd.Series:
    here = pd.Series(True, index=CLEAN.index)
    if line is not None:
        here &= CLEAN["line"] == line
    return here if label is None else here & (CLEAN["perturbation"] == label)


# ---------------------------------------------------------------------------------------------
# faults


@dataclass(frozen=True)
class Way:
    """How strictly a split is checked."""

    compat: bool = False
    allow: tuple[str, ...] = ()


Fault = tuple[str, str, Callable[[Way], Findings]]
PATH = '[datasets]\nd = "x"\n'
HEAD = PATH + '[training]\nd = "train"\n'
HELD = '[fewshot."d.L0"]\nval = ["Drug1_0.5", "Drug1_5"]\ntest = ["Drug0_0.5", "Drug0_5"]\n'
GOOD = HEAD + HELD
OTHER = '[fewshot."d.L1"]\n'
TEST_LINE = '[zeroshot]\n"d.L1" = "test"\n'
ROWS = {
    ("L0", "Drug0_0.5"): "test", ("L0", "Drug0_5"): "test",
    ("L0", "Drug1_0.5"): "val", ("L0", "Drug1_5"): "val",
}  # fmt: skip


def toml(
    text: str,
    conditions: pd.DataFrame = CLEAN,
    known: dict[str, Any] | None = None,
    controls: str = "partition",
    **facts: Any,
) -> Callable[[Way], Findings]:
    """Check a TOML against conditions."""

    def work(way: Way) -> Findings:
        settings = TomlSplit(
            dataset="d", toml="my.toml", controls=controls, compat=way.compat, allow=[*way.allow]
        )
        content, told = tomllib.loads(text), Facts(CONTROLS, **facts)
        return checked(conditions, settings, None, content, known or {}, told)[1].findings

    return work


def planned(roles: dict[tuple[str, str], str]) -> pd.DataFrame:
    """Return a plan in which everything trains but `roles`."""
    table = CLEAN.loc[PERTURBED, ["line", "perturbation"]].reset_index(drop=True)
    keys = zip(table["line"], table["perturbation"], strict=True)
    return table.assign(role=[roles.get(key, "train") for key in keys], reason="by hand")


def plan(roles: dict[tuple[str, str], str], *more: tuple[str, str, str]) -> Any:
    """Check a plan, which can hold what no TOML can say, against the clean conditions."""
    extra = pd.DataFrame([(*row, "by hand") for row in more], columns=list(planned({}).columns))

    def work(way: Way) -> Findings:
        log = Findings(way.compat, frozenset(way.allow))
        table = pd.concat([planned(ROWS | roles), extra], ignore_index=True)
        return lint(table, CLEAN, log, Facts(CONTROLS, "partition")).findings

    return work


def generated(settings: Any, known: dict[str, Any]) -> Callable[[Way], Findings]:
    return lambda way: checked(CLEAN, settings, None, None, known, Facts(CONTROLS))[1].findings


STRATIFIED = BlockSplit(
    dataset="d",
    generator="dc_block",
    drug_table=DrugTable(path="drugs.csv"),
    stratify={"drugs": "moa"},
)
STRATA = {"strata": {"drugs": dict.fromkeys(DRUGS, "common") | {"Drug7": "rare"}}}
POOLED = conditions_of(LINES, DRUGS).assign(n_cells=100)
LABELS = sorted({label for label in CLEAN["perturbation"] if label != CONTROL})
EVERYWHERE = "".join(f'[fewshot."d.{line}"]\ntest = ["Drug2_5"]\n' for line in LINES[1:])
OWN_PLATES = changed(PERTURBED, batch=CLEAN["line"] + CLEAN["perturbation"].str.split("_").str[1])

AGAIN = pd.concat(
    [CLEAN, CLEAN[is_("L1", "Drug3_0.5")].assign(perturbation="Drug3_5e-1")], ignore_index=True
)
NUMBERED = "Drug_" + pd.Series(pd.factorize(CLEAN["perturbation"])[0] + 1.5).astype(str)

FAULTS: dict[str, Fault] = {
    "misspelt table": ("unknown-table", "zero_shot", toml(GOOD + "[zero_shot]\n")),
    "value above the tables": ("unknown-table", "seed", toml("seed = 1\n" + GOOD)),
    "no table": ("no-table", "zeroshot", toml('zeroshot = "d.L0"\n' + GOOD)),
    "path that is none": ("dataset-path", "3", toml('[datasets]\nd = "x"\ne = 3\n' + HELD)),
    "name with a dot": ("dotted-dataset", "d.v1", toml(PATH + '"d.v1" = "y"\n' + HELD)),
    "training value": ("training-value", "'yes'", toml(PATH + '[training]\nd = "yes"\n' + HELD)),
    "misspelt data set": ("unknown-dataset", "'dd'", toml(GOOD + '[zeroshot]\n"dd.L1" = "val"\n')),
    "unused data set": ("unused-dataset", "'e'", toml(PATH + 'e = "y"\n' + HELD)),
    "several data sets": (
        "several-datasets",
        "'e', 'f'",
        toml('[datasets]\ne = "x"\nf = "y"\n[training]\ne = "train"\nf = "train"\n'),
    ),
    "other data set": (
        "other-datasets",
        "'e'",
        toml(PATH + 'e = "y"\n[training]\nd = "train"\ne = "train"\n' + HELD),
    ),
    "zeroshot without quotes": ("unquoted", "'d.L1'", toml(GOOD + '[zeroshot]\nd.L1 = "val"\n')),
    "fewshot without quotes": ("unquoted", "'d.L1'", toml(GOOD + "[fewshot.d.L1]\nval = []\n")),
    "line without data set": ("no-line", "'L1'", toml(GOOD + '[zeroshot]\nL1 = "test"\n')),
    "misspelt role": ("bad-role", "'tset'", toml(GOOD + '[zeroshot]\n"d.L1" = "tset"\n')),
    "role of a plan": ("bad-role", "'tset'", plan({("L1", "Drug3_5"): "tset"})),
    "misspelt list": ("unknown-key", "'tests'", toml(GOOD + OTHER + 'tests = ["Drug2_5"]\n')),
    "list that is none": ("no-list", "val", toml(GOOD + OTHER + 'val = "Drug2_5"\n')),
    "entry twice": (
        "repeated-entry",
        "'Drug2_5'",
        toml(GOOD + OTHER + 'val = ["Drug2_0.5", "Drug2_5", "Drug2_5"]\n'),
    ),
    "line in two tables": ("line-twice", "'L0'", toml(GOOD + '[zeroshot]\n"d.L0" = "val"\n')),
    "line with quotes and without": (
        "line-twice",
        "'d.L1'",
        toml(GOOD + '[zeroshot]\nd.L1 = "val"\n"d.L1" = "val"\n'),
    ),
    "misspelt line": ("unknown-line", "'L11'", toml(GOOD + '[zeroshot]\n"d.L11" = "test"\n')),
    "line of a plan": ("unknown-line", "'L11'", plan({}, ("L11", "Drug0_5", "train"))),
    "misspelt label": (
        "unknown-perturbation",
        "'Dug2_5'",
        toml(GOOD + OTHER + 'val = ["Dug2_5"]\n'),
    ),
    "label of a plan": ("unknown-perturbation", "'Dug2_5'", plan({}, ("L1", "Dug2_5", "val"))),
    "control held out": (
        "control-listed",
        "'DMSO_TF'",
        toml(GOOD + OTHER + 'val = ["DMSO_TF", "Drug2_0.5", "Drug2_5"]\n'),
    ),
    "label twice": (
        "two-spellings",
        "'Drug3_0.5', 'Drug3_5e-1'",
        toml(GOOD, changed(is_("L3", "Drug3_0.5"), perturbation="Drug3_5e-1")),
    ),
    "blank after a name": (
        "names-stripped",
        "'Drug4 '",
        toml(GOOD, changed(CLEAN["drug"] == "Drug4", drug="Drug4 "), {"listed": DRUGS}),
    ),
    "control as a drug": (
        "control-spelling",
        "DMSO_TF_0uM",
        toml(GOOD, changed(is_("L3", "Drug3_0.5"), perturbation="DMSO_TF_0uM", drug="DMSO_TF")),
    ),
    "val and test": (
        "val-test-overlap",
        "'Drug2_0.5', 'Drug2_5'",
        toml(GOOD + OTHER + "".join(f'{r} = ["Drug2_0.5", "Drug2_5"]\n' for r in ("val", "test"))),
    ),
    "two roles": ("two-roles", "('L2', 'Drug0_5')", plan({}, ("L2", "Drug0_5", "test"))),
    "spelling": (
        "two-roles",
        "'Drug3_0.5' is in train and 'Drug3_5e-1' is in val of line 'L1'",
        toml(GOOD + OTHER + 'val = ["Drug3_5e-1"]\n', AGAIN),
    ),
    "one drug": (
        "few-drugs",
        "16 labels are only 1 drug",
        toml(GOOD, changed(PERTURBED, perturbation=NUMBERED, drug="Drug")),
    ),
    "dose": ("split-doses", "'Drug2 in L1'", toml(GOOD + OTHER + 'test = ["Drug2_5"]\n')),
    "dose in val": ("split-doses", "'Drug2 in L1'", toml(GOOD + OTHER + 'val = ["Drug2_5"]\n')),
    "compound under two names": (
        "same-structure",
        "'Drug0 = Drug3 in L0'",
        toml(GOOD, known={"structures": {"Drug0": "KEY", "Drug3": "KEY", "Drug4": "OTHER"}}),
    ),
    "lines pooled in wells": ("shared-wells", "2 of 2", toml(GOOD, POOLED)),
    "plate without controls": (
        "confounded-plates",
        "2 of 2 test conditions",
        toml(GOOD, changed(is_("L0", CONTROL), batch="plate of controls")),
    ),
    "dose on a plate of its own": ("confounded-plates", "8 of 8 drugs", toml(GOOD, OWN_PLATES)),
    "controls of all roles": ("shared-controls", "100 control", toml(GOOD, controls="shared")),
    "controls apart": ("partitioned-controls", "600 control cells of 6 lines", toml(GOOD)),
    "genes of all cells": ("genes-chosen-outside", "X_hvg", toml(GOOD, chosen_outside="X_hvg")),
    "nothing tests": ("empty-test", "test set is empty", toml(HEAD)),
    "nothing trains": (
        "empty-train",
        "nothing is left",
        toml(PATH + "[zeroshot]\n" + "".join(f'"d.{line}" = "test"\n' for line in LINES)),
    ),
    "nothing validates": ("empty-val", "no validation", toml(HEAD + TEST_LINE)),
    "no controls": ("no-controls", "'L2'", toml(GOOD, CLEAN[~is_("L2", CONTROL)])),
    "few controls": ("too-few-controls", "9", toml(GOOD, changed(is_("L2", CONTROL), n_cells=9))),
    "lines left out": ("lines-left-out", "'L1', 'L2'", toml(PATH + HELD)),
    "conditions left out": (
        "conditions-left-out",
        "'Drug1_0.5 in L0', 'Drug1_5 in L0'",
        toml(GOOD + '[statetx.left_out]\n"d.L0" = ["Drug1_0.5", "Drug1_5"]\n'),
    ),
    "line of controls": (
        "controls-only",
        "'L5'",
        toml(GOOD, CLEAN[~(PERTURBED & (CLEAN["line"] == "L5"))]),
    ),
    "small test": (
        "small-test",
        "Drug0_5 in L0: 29",
        toml(GOOD, changed(is_("L0", "Drug0_5"), n_cells=29)),
    ),
    "stratum of one": ("small-strata", "'rare'", generated(STRATIFIED, STRATA)),
    "perturbation that never trains": (
        "unseen-perturbations",
        "'Drug2_5'",
        toml(HEAD + '[fewshot."d.L0"]\ntest = ["Drug2_5"]\n' + EVERYWHERE),
    ),
    "drug that never trains, models with features": (
        "new-perturbations",
        "'Drug2_5'",
        toml(HEAD + '[fewshot."d.L0"]\ntest = ["Drug2_5"]\n' + EVERYWHERE, one_hot=False),
    ),
    "dose that never trains": (
        "unseen-doses",
        "'Drug2_5'",
        toml(HEAD + '[fewshot."d.L0"]\ntest = ["Drug2_5"]\n' + EVERYWHERE),
    ),
    "line that never trains": ("unseen-lines", "'L1'", toml(GOOD + TEST_LINE)),
}


def found(name: str, way: Way = Way()) -> Finding:
    """Return what the check of a fault says of it."""
    code, value, work = FAULTS[name]
    items = [item for item in work(way).items if item.code == code]
    assert any(value in item.what for item in items), items
    return next(item for item in items if value in item.what)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_its_value_is_named(name: str) -> None:
    item = found(name)
    assert item.severity == CHECKS[item.code].severity
    assert (
        item.severity == "note"
        or item.fix
        or item.code
        in (
            "no-list",
            "confounded-plates",
            "conditions-left-out",
        )
    )


def test_every_check_has_a_planted_fault() -> None:
    assert {code for code, _, _ in FAULTS.values()} == set(CHECKS)


# ---------------------------------------------------------------------------------------------
# clean splits


def facts_only(report: Report) -> None:
    (note,) = report.findings.items
    assert (note.severity, note.code) == ("note", "partitioned-controls")
    assert not report.failed


def test_a_clean_block_raises_nothing_but_the_note_on_controls() -> None:
    for seed in range(5):
        block = BlockSplit(dataset="d", generator="dc_block", controls="partition", seed=seed)
        table, report = checked(CLEAN, block, None, None, {}, Facts(CONTROLS))
        assert set(table["role"]) == {"train", "val", "test"}
        facts_only(report)


def test_a_clean_toml_raises_nothing_but_the_note_on_controls() -> None:
    settings = TomlSplit(dataset="d", toml="my.toml", controls="partition")
    listed = {"listed": DRUGS, "structures": {drug: f"KEY{drug}" for drug in DRUGS}}
    table, report = checked(CLEAN, settings, None, tomllib.loads(GOOD), listed, Facts(CONTROLS))
    assert list(table["role"]).count("test") == list(table["role"]).count("val") == 2
    facts_only(report)


# ---------------------------------------------------------------------------------------------
# severities


@pytest.mark.parametrize("name", [n for n, fault in FAULTS.items() if CHECKS[fault[0]].ignored])
def test_what_cell_load_ignores_is_a_warning_for_compat(name: str) -> None:
    assert found(name, Way(compat=True)).severity == "warning"


@pytest.mark.parametrize(
    "name", [n for n, fault in FAULTS.items() if CHECKS[fault[0]].severity == "error"]
)
def test_an_error_that_is_allowed_is_a_warning(name: str) -> None:
    assert found(name, Way(allow=(FAULTS[name][0],))).severity == "warning"


@pytest.mark.parametrize("code", CHECKS)
def test_compat_and_allow_change_nothing_else(code: str) -> None:
    severity, _, ignored = CHECKS[code]
    log = Findings(compat=not ignored, allow=frozenset(set(CHECKS) - {code}))
    log.found(code, "what", "where", "fix")
    assert log.items == [Finding(severity, code, "what", "where", "fix")]
    mild = Findings(compat=True, allow=frozenset(CHECKS))
    mild.found(code, "what")
    assert mild.items[0].severity == ("warning" if severity == "error" else severity)


@pytest.mark.parametrize("code", CHECKS)
def test_what_a_generator_is_for_is_a_note_without_fix(code: str) -> None:
    log = Findings(compat=True, allow=frozenset({code}), purpose=frozenset({code}))
    log.found(code, "what", "where", "fix")
    assert log.items == [Finding("note", code, "what", "where", "")]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (DoseSplit(dataset="d", generator="dose_extrapolate"), "split-doses"),
        (DoseSplit(dataset="d", generator="dose_interpolate"), "split-doses"),
        (PlateOut(dataset="d", generator="plate_out", val_plate_fraction=0), "split-doses"),
        (BothOut(dataset="d", generator="both_out"), "conditions-left-out"),
    ],
)
def test_generators_do_on_purpose_what_others_must_not(settings: Any, code: str) -> None:
    assert code in PURPOSE[settings.generator]
    conditions = design(doses=(0.05, 0.5, 5.0))
    if settings.generator == "plate_out":
        own = conditions["line"] + "_" + conditions["dose"].astype(str)
        conditions["batch"] = own.where(~conditions["is_control"], "plate of controls")
    told = Facts(CONTROLS, one_hot=False)
    _, report = checked(conditions, settings, None, None, {}, told)
    items = [item for item in report.findings.items if item.code == code]
    assert {(item.severity, item.fix) for item in items} == {("note", "")}
    assert not report.failed


def test_new_drugs_are_an_error_only_for_models_that_know_drugs_by_id() -> None:
    settings = DrugOut(dataset="d", generator="drug_out")
    for one_hot, severity in ((True, "error"), (False, "note")):
        _, report = checked(CLEAN, settings, None, None, {}, Facts(CONTROLS, one_hot=one_hot))
        code = "unseen-perturbations" if one_hot else "new-perturbations"
        (item,) = [i for i in report.findings.items if i.code == code]
        assert item.severity == severity
    settings = LineOut(dataset="d", generator="line_out")
    _, report = checked(CLEAN, settings, None, None, {}, Facts(CONTROLS))
    assert not report.findings.has("unseen-perturbations")
