"""The stage, and the lint that stands before it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from conditions import CONTROL, conditions_of, store_of

from statetx.config import BlockSplit, LineFolds, PerturbationFolds, TomlSplit
from statetx.data.plan import read_plan, write_plan
from statetx.errors import SplitError
from statetx.provenance import followed_modules
from statetx.splits.findings import Findings
from statetx.splits.lint import Report, lint
from statetx.splits.plan_table import plan_table
from statetx.splits.split import split
from statetx.splits.toml import resolve, write_toml

LINES = [f"L{i}" for i in range(6)]
DRUGS = [f"Drug{i}" for i in range(8)]
CONDITIONS = conditions_of(LINES, DRUGS)
BLOCK = BlockSplit(dataset="demo", generator="dc_block")
TOML = TomlSplit(dataset="demo", toml="my/split.toml")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return store_of(CONDITIONS, tmp_path / "pack")


def planned(
    roles: dict[tuple[str, str], str], conditions: pd.DataFrame = CONDITIONS
) -> pd.DataFrame:
    """Return a plan in which everything trains but `roles`."""
    real = conditions[~conditions["is_control"]]
    table = real[["line", "perturbation"]].drop_duplicates(ignore_index=True)
    keys = zip(table["line"], table["perturbation"], strict=True)
    return table.assign(role=[roles.get(key, "train") for key in keys], reason="by hand")


def codes(report: Report, severity: str) -> set[str]:
    return {item.code for item in report.findings.items if item.severity == severity}


def test_three_files_and_their_agreement(store: Path, tmp_path: Path) -> None:
    report = split(store, BLOCK, None, None, tmp_path / "out")
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["lint.json", "plan.parquet", "split.toml"]
    plan = read_plan(out / "plan.parquet")
    content = tomllib.loads((out / "split.toml").read_text())
    assert content["datasets"] == {"demo": str(store)}
    assert json.loads((out / "lint.json").read_text()) == report.as_dict()
    # The written TOML gives the same plan when it is the split.
    split(store, TOML, None, content, tmp_path / "again")
    assert read_plan(tmp_path / "again" / "plan.parquet").digest == plan.digest


@pytest.mark.parametrize(
    ("settings", "fold"),
    [
        (BLOCK, None),
        (LineFolds(dataset="demo", generator="line_folds", k=6), 2),
        (PerturbationFolds(dataset="demo", generator="perturbation_folds", k=4), 3),
    ],
)
def test_equal_bytes(store: Path, tmp_path: Path, settings: BlockSplit, fold: int | None) -> None:
    for name in ("a", "b"):
        split(store, settings, fold, None, tmp_path / name)
    for name in ("plan.parquet", "split.toml", "lint.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_stage_adds_nothing_to_the_plan_of_the_fingerprinted_modules(
    store: Path, tmp_path: Path
) -> None:
    """`split` is in no fingerprint: what it writes must come from modules that are."""
    toml = {
        "datasets": {"d": "x"},
        "training": {"d": "train"},
        "fewshot": {"d.L1": {"test": ["Drug1_0.5", "Drug1_5"]}},
    }
    for number, (settings, content) in enumerate([(BLOCK, None), (TOML, toml)]):
        out = tmp_path / str(number)
        split(store, settings, None, content, out)
        table = plan_table(CONDITIONS, [CONTROL], settings, None, content, Findings())
        write_plan(table, tmp_path / "plan.parquet")
        write_toml(table, CONDITIONS, "demo", str(store), tmp_path / "split.toml")
        for name in ("plan.parquet", "split.toml"):
            assert (out / name).read_bytes() == (tmp_path / name).read_bytes()
    followed = followed_modules(["statetx.splits.plan_table"])
    assert {f"statetx.splits.{name}" for name in ("generate", "toml")} <= set(followed)
    others = ("statetx.splits.lint", "statetx.splits.split", "statetx.data.store")
    assert not set(others) & set(followed)


def test_other_files_of_the_directory_stay(store: Path, tmp_path: Path) -> None:
    kept = tmp_path / "out" / "reference" / "L0"
    kept.mkdir(parents=True)
    split(store, BLOCK, None, None, tmp_path / "out")
    assert kept.is_dir()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            {"datasets": {"d": "x"}, "training": {"d": "train"}, "zeroshot": {"d.L9": "test"}},
            "'L9'",
        ),
        (
            {
                "datasets": {"d": "x"},
                "training": {"d": "train"},
                "fewshot": {"d.L1": {"test": ["Dug1_5"]}},
            },
            "did you mean 'Drug1_5'?",
        ),
        ({"datasets": {"d": "x"}, "training": {"d": "train"}}, "test set is empty"),
        (
            {
                "datasets": {"d": "x"},
                "training": {"d": "train"},
                "fewshot": {"d.L1": {"test": ["Drug1_5"]}},
            },
            "doses of one drug are in train and in test",
        ),
        (
            {"datasets": {"d": "x"}, "zeroshot": {f"d.{line}": "test" for line in LINES}},
            "nothing is left to train on",
        ),
        (None, "was not given"),
    ],
)
def test_errors_write_nothing(store: Path, tmp_path: Path, toml: dict | None, message: str) -> None:
    with pytest.raises(SplitError) as caught:
        split(store, TOML, None, toml, tmp_path / "out")
    assert message in str(caught.value)
    assert "my/split.toml" in str(caught.value.where)
    assert not (tmp_path / "out").exists()


def test_a_broken_generator_writes_nothing(store: Path, tmp_path: Path) -> None:
    folds = LineFolds(dataset="demo", generator="line_folds", k=7)
    with pytest.raises(SplitError, match="7 folds over 6 lines"):
        split(store, folds, 0, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lint_of_a_clean_block_has_facts_only() -> None:
    roles = {(line, f"Drug1_{d}"): "test" for line in ("L0", "L1") for d in ("0.5", "5")}
    roles |= {("L2", f"Drug2_{d}"): "val" for d in ("0.5", "5")}
    report = lint(planned(roles), CONDITIONS)
    assert codes(report, "error") == codes(report, "warning") == set()
    assert codes(report, "note") == {"shared-controls"}
    (note,) = report.findings.items
    assert "300 control cells of 3 lines" in note.what  # 3 lines x 2 batches x 50
    row = report.lines.set_index("line").loc["L0"].to_dict()
    expected = {"train": 14, "train_cells": 280, "test": 2, "test_cells": 40, "controls": 100}
    assert expected.items() <= row.items()


def test_lint_names_what_is_never_trained() -> None:
    table = planned({(line, f"Drug1_{d}"): "test" for line in LINES for d in ("0.5", "5")})
    report = lint(table, CONDITIONS)
    notes = {item.code: item.what for item in report.findings.items}
    assert "2 of 2 test perturbations are never seen" in notes["unseen-perturbations"]
    assert "'Drug1_0.5'" in notes["unseen-perturbations"]
    assert "unseen-doses" not in notes
    whole_line = lint(
        planned({("L0", f"{d}_{x}"): "test" for d in DRUGS for x in ("0.5", "5")}), CONDITIONS
    )
    assert "unseen-lines" in codes(whole_line, "note")
    one_dose = lint(planned({(line, "Drug1_5"): "test" for line in LINES}), CONDITIONS)
    assert "unseen-doses" in codes(one_dose, "note")
    assert "split-doses" in codes(one_dose, "error")


def test_lint_of_doses_by_side() -> None:
    base = {("L0", "Drug0_0.5"): "test", ("L0", "Drug0_5"): "test"}
    against_val = base | {("L1", "Drug1_0.5"): "val"}
    report = lint(planned(against_val), CONDITIONS)
    assert codes(report, "error") == set()
    assert codes(report, "warning") == {"split-doses"}
    other_line = base | {("L1", "Drug0_0.5"): "train"}
    assert codes(lint(planned(other_line), CONDITIONS), "warning") == set()


def test_lint_of_names_doubles_and_gaps() -> None:
    good = planned({("L0", "Drug0_0.5"): "test", ("L0", "Drug0_5"): "test"})
    extra = pd.DataFrame(
        [
            ("L66", "Drug0_5", "train", ""),
            ("L1", "Drug00_5", "train", ""),
            ("L2", "Drug0_5", "val", ""),
        ],
        columns=good.columns,
    )
    report = lint(pd.concat([good, extra]), CONDITIONS)
    assert codes(report, "error") >= {"unknown-line", "unknown-perturbation", "two-roles"}
    gaps = lint(good[good["line"] != "L5"], CONDITIONS)
    assert codes(gaps, "warning") == {"conditions-left-out"}
    assert codes(gaps, "error") == set()


def test_lint_of_a_line_without_controls() -> None:
    bare = CONDITIONS[~(CONDITIONS["is_control"] & (CONDITIONS["line"] == "L3"))]
    roles = {("L0", "Drug0_0.5"): "test", ("L0", "Drug0_5"): "test"}
    report = lint(planned(roles, bare), bare)
    assert codes(report, "error") == {"no-controls"}


def test_lint_text_and_lint_of_a_toml() -> None:
    log = Findings()
    content = {"datasets": {"d": "x"}, "zeroshot": {"d.L11": "test"}}
    report = lint(resolve(content, CONDITIONS, [CONTROL], log), CONDITIONS, log)
    text = report.text()
    assert "error: no cell line 'L11' in the data" in text
    assert "did you mean 'L1'?" in text
    assert report.as_dict()["errors"] == 1
    assert text.splitlines()[0].split() == list(report.lines.columns)


def test_lint_of_a_line_with_controls_alone() -> None:
    bare = CONDITIONS[CONDITIONS["is_control"] | (CONDITIONS["line"] != "L3")]
    roles = {("L0", "Drug0_0.5"): "test", ("L0", "Drug0_5"): "test"}
    report = lint(planned(roles, bare), bare)
    assert "controls-only" in codes(report, "warning")
    assert "'L3'" in report.text()


def test_lint_of_partitioned_controls() -> None:
    few = CONDITIONS.copy()
    few.loc[few["is_control"] & (few["line"] == "L0"), "n_cells"] = 4
    roles = {("L0", "Drug0_0.5"): "test", ("L0", "Drug0_5"): "test"}
    table = planned(roles)
    assert codes(lint(table, few, None, "partition"), "error") == {"too-few-controls"}
    assert codes(lint(table, few), "error") == set()
    clean = lint(table, CONDITIONS, None, "partition")
    assert codes(clean, "error") == set()
    assert "shared-controls" not in codes(clean, "note")
    assert "shared-controls" in codes(lint(table, CONDITIONS), "note")


def test_the_plan_says_what_becomes_of_controls(tmp_path: Path) -> None:
    from statetx.data.plan import read_plan

    store = store_of(CONDITIONS, tmp_path / "pack")
    for policy in ("shared", "partition"):
        settings = BlockSplit(dataset="demo", generator="dc_block", controls=policy)
        split(store, settings, None, None, tmp_path / policy)
        assert read_plan(tmp_path / policy / "plan.parquet").controls == policy
    plans = [read_plan(tmp_path / policy / "plan.parquet") for policy in ("shared", "partition")]
    assert plans[0].table.equals(plans[1].table)
    assert plans[0].digest != plans[1].digest
