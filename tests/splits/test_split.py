"""The stage: its three files and their agreement, nothing written of a split with errors."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conditions import CONTROL, conditions_of, store_of

from statetx.config import BlockSplit, LineFolds, PerturbationFolds, TomlSplit
from statetx.config.splits import BothOut
from statetx.core.digests import versions
from statetx.core.errors import SplitError
from statetx.core.fingerprint import followed_modules
from statetx.data.store.plan import ROLES, read_plan, write_plan
from statetx.splits.apply_toml import roles_from_toml
from statetx.splits.findings import Findings
from statetx.splits.lint.lint import Facts, Report, lint
from statetx.splits.plan_table import plan_table
from statetx.splits.split import made_from, split
from statetx.splits.toml import parse, write_toml

LINES = [f"L{i}" for i in range(6)]
DRUGS = [f"Drug{i}" for i in range(8)]
CONDITIONS = conditions_of(LINES, DRUGS)
BLOCK = BlockSplit(dataset="demo", generator="dc_block")
TOML = TomlSplit(dataset="demo", toml="my/split.toml")
HEAD = {"datasets": {"d": "x"}, "training": {"d": "train"}}


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


HELD = {("L0", "Drug0_0.5"): "test", ("L0", "Drug0_5"): "test", ("L1", "Drug1_0.5"): "val"}
HELD |= {("L1", "Drug1_5"): "val"}


def codes(report: Report, severity: str) -> set[str]:
    return {item.code for item in report.findings.items if item.severity == severity}


# ---------------------------------------------------------------------------------------------
# files


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


def test_a_plan_that_leaves_out_conditions_comes_back_from_its_toml(
    store: Path, tmp_path: Path
) -> None:
    both = BothOut(dataset="demo", generator="both_out")
    split(store, both, None, None, tmp_path / "out", one_hot=False)
    plan = read_plan(tmp_path / "out" / "plan.parquet")
    assert set(plan.table["role"]) == set(ROLES)
    assert len(plan.table) < len(planned({}))
    content = tomllib.loads((tmp_path / "out" / "split.toml").read_text())
    left_out = content["statetx"]["left_out"]
    assert sum(map(len, left_out.values())) == len(planned({})) - len(plan.table)
    for key, labels in left_out.items():
        assert set(labels) <= set(content["fewshot"][key]["val"])
    report = split(store, TOML, None, content, tmp_path / "again", one_hot=False)
    assert read_plan(tmp_path / "again" / "plan.parquet").digest == plan.digest
    assert "conditions-left-out" in codes(report, "warning")


@pytest.mark.parametrize(
    ("settings", "fold"),
    [
        (BLOCK, None),
        (LineFolds(dataset="demo", generator="line_folds", k=6), 2),
        (PerturbationFolds(dataset="demo", generator="perturbation_folds", k=4), 3),
    ],
)
def test_equal_splits_are_equal_bytes(
    store: Path, tmp_path: Path, settings: Any, fold: int | None
) -> None:
    for name in ("a", "b"):
        split(store, settings, fold, None, tmp_path / name, one_hot=False)
    for name in ("plan.parquet", "split.toml", "lint.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_toml_says_what_the_split_was_made_from(store: Path, tmp_path: Path) -> None:
    settings = LineFolds(dataset="demo", generator="line_folds", k=3, seed=5)
    split(store, settings, 2, None, tmp_path / "out")
    content = tomllib.loads((tmp_path / "out" / "split.toml").read_text())
    assert content["statetx"]["made_from"] == {
        "dataset": "demo",
        "generator": "line_folds",
        "k": 3,
        "seed": 5,
        "fold": 2,
        "plan_digest": read_plan(tmp_path / "out" / "plan.parquet").digest,
        "statetx": versions(["statetx"])["statetx"],
    }


def test_the_stage_adds_nothing_to_the_plan_of_the_fingerprinted_modules(
    store: Path, tmp_path: Path
) -> None:
    """`split` is in no fingerprint: what it writes must come from modules that are."""
    toml = HEAD | {"fewshot": {"d.L1": {"test": ["Drug1_0.5", "Drug1_5"]}}}
    for number, (settings, content) in enumerate([(BLOCK, None), (TOML, toml)]):
        out = tmp_path / str(number)
        split(store, settings, None, content, out)
        table, _ = plan_table(CONDITIONS, [CONTROL], settings, None, content, {}, Findings())
        write_plan(table, tmp_path / "plan.parquet")
        origin = made_from(table, settings, None)
        write_toml(table, CONDITIONS, "demo", str(store), tmp_path / "split.toml", origin)
        for name in ("plan.parquet", "split.toml"):
            assert (out / name).read_bytes() == (tmp_path / name).read_bytes()
    followed = followed_modules(["statetx.splits.plan_table"])
    deciding = (
        *("generators.generate", "generators.draw", "grid", "compounds.drug_tables"),
        *("apply_toml", "toml"),
    )
    assert {f"statetx.splits.{name}" for name in deciding} <= set(followed)
    others = ("splits.lint.lint", "splits.lint.checks", "splits.split", "data.store.store")
    assert not {f"statetx.{name}" for name in others} & set(followed)


def test_other_files_of_the_directory_stay(store: Path, tmp_path: Path) -> None:
    kept = tmp_path / "out" / "reference" / "L0"
    kept.mkdir(parents=True)
    split(store, BLOCK, None, None, tmp_path / "out")
    assert kept.is_dir()


def test_the_plan_says_what_becomes_of_controls(store: Path, tmp_path: Path) -> None:
    for policy in ("shared", "partition"):
        settings = BlockSplit(dataset="demo", generator="dc_block", controls=policy)
        split(store, settings, None, None, tmp_path / policy)
        assert read_plan(tmp_path / policy / "plan.parquet").controls == policy
    plans = [read_plan(tmp_path / policy / "plan.parquet") for policy in ("shared", "partition")]
    assert plans[0].table.equals(plans[1].table)
    assert plans[0].digest != plans[1].digest


def test_single_conditions_that_are_left_out_stand_in_val_and_in_our_table(tmp_path: Path) -> None:
    gone = {("L0", "Drug5_5"): "none", ("L3", "Drug5_5"): "none"}
    write_toml(planned(HELD | gone), CONDITIONS, "d", "x", tmp_path / "split.toml")
    content = tomllib.loads((tmp_path / "split.toml").read_text())
    assert content["statetx"] == {"left_out": {"d.L0": ["Drug5_5"], "d.L3": ["Drug5_5"]}}
    assert content["fewshot"]["d.L0"] == {"val": ["Drug5_5"], "test": ["Drug0_0.5", "Drug0_5"]}
    assert content["fewshot"]["d.L3"] == {"val": ["Drug5_5"]}
    table = roles_from_toml(parse(content, Findings()), "d", CONDITIONS, [CONTROL], Findings())
    found = table.set_index(["line", "perturbation"])["role"]
    assert (
        found.to_dict()
        == planned(HELD | gone).set_index(["line", "perturbation"])["role"].to_dict()
    )


def test_a_line_that_is_left_out_does_not_train_with_the_rest(tmp_path: Path) -> None:
    table = planned(HELD)
    write_toml(table[table["line"] != "L2"], CONDITIONS, "d", "x", tmp_path / "split.toml")
    content = tomllib.loads((tmp_path / "split.toml").read_text())
    assert content["training"] == {}
    assert content["zeroshot"] == {f"d.L{i}": "train" for i in (3, 4, 5)}
    assert set(content["fewshot"]) == {"d.L0", "d.L1"}


# ---------------------------------------------------------------------------------------------
# errors


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (HEAD | {"zeroshot": {"d.L9": "test"}}, "'L9'"),
        (HEAD | {"fewshot": {"d.L1": {"test": ["Dug1_5"]}}}, "did you mean 'Drug1_5'?"),
        (HEAD, "test set is empty"),
        (
            HEAD | {"fewshot": {"d.L1": {"test": ["Drug1_5"]}}},
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
    with pytest.raises(SplitError, match="7 folds are too many for 6 lines"):
        split(store, folds, 0, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_drugs_that_no_model_by_id_can_predict_write_nothing(store: Path, tmp_path: Path) -> None:
    folds = PerturbationFolds(dataset="demo", generator="perturbation_folds", k=4)
    with pytest.raises(SplitError, match="never seen in training") as caught:
        split(store, folds, 0, None, tmp_path / "out")
    assert "perturbation_folds" in str(caught.value.where)
    assert not (tmp_path / "out").exists()
    report = split(store, folds, 0, None, tmp_path / "out", one_hot=False)
    assert "new-perturbations" in codes(report, "note")


# ---------------------------------------------------------------------------------------------
# the report


def test_the_report_counts_conditions_and_cells() -> None:
    roles = {(line, f"Drug1_{d}"): "test" for line in ("L0", "L1") for d in ("0.5", "5")}
    roles |= {("L2", f"Drug2_{d}"): "val" for d in ("0.5", "5")}
    table = planned(roles)
    table.loc[(table["line"] == "L0") & (table["perturbation"] == "Drug7_5"), "role"] = "none"
    report = lint(table, CONDITIONS, None, Facts((CONTROL,)))
    assert codes(report, "error") == set()
    shared = next(item for item in report.findings.items if item.code == "shared-controls")
    assert "300 control cells of 3 lines" in shared.what  # 3 lines x 2 batches x 50
    row = report.lines.set_index("line").loc["L0"].to_dict()
    assert row == {
        "train": 13, "train_cells": 260, "val": 0, "val_cells": 0, "test": 2, "test_cells": 40,
        "left_out": 1, "controls": 100,
    }  # fmt: skip
    assert report.roles.set_index("role").loc["test"].to_dict() == {
        "lines": 2, "drugs": 1, "conditions": 4, "cells": 80,
    }  # fmt: skip
    assert list(report.roles["role"]) == list(ROLES)


def test_the_report_counts_its_findings_and_lists_the_worst_first() -> None:
    found = lint(planned({("L0", "Drug0_5"): "test"}), CONDITIONS).as_dict()
    severities = [item["severity"] for item in found["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    for name in ("error", "warning", "note"):
        assert found[f"{name}s"] == severities.count(name)
    assert json.loads(json.dumps(found)) == found


def test_the_report_as_text_shows_roles_lines_and_findings() -> None:
    log = Findings()
    content = {"datasets": {"d": "x"}, "zeroshot": {"d.L11": "test"}}
    table = roles_from_toml(parse(content, log), "d", CONDITIONS, [CONTROL], log)
    report = lint(table, CONDITIONS, log)
    lines = report.text().splitlines()
    assert "error (unknown-line): no cell line 'L11' in the data [[zeroshot]]" in lines
    assert "did you mean 'L1'?" in report.text()
    assert report.as_dict()["errors"] == 1
    assert lines[0].split() == list(report.roles.columns)
    assert lines[5].replace(" cells", "_cells").replace("left out", "left_out").split() == list(
        report.lines.columns
    )
    assert lines[-1] == "refused: 1 error"
    assert lint(planned(HELD), CONDITIONS).text().splitlines()[-1] == "the split can be used"


def test_doses_of_a_drug_are_on_one_side_of_a_line_only() -> None:
    assert codes(lint(planned(HELD), CONDITIONS), "error") == set()
    other_line = HELD | {("L1", "Drug0_0.5"): "train"}
    assert codes(lint(planned(other_line), CONDITIONS), "error") == set()
    for pair in (("train", "test"), ("val", "test"), ("train", "val")):
        roles = dict(zip([("L2", "Drug3_0.5"), ("L2", "Drug3_5")], pair, strict=True))
        report = lint(planned(HELD | roles), CONDITIONS)
        (item,) = report.findings.errors
        assert item.code == "split-doses"
        assert f"in {pair[0]} and in {pair[1]} of the same line: 'Drug3 in L2'" in item.what


def test_what_is_never_trained_is_named() -> None:
    table = planned({(line, f"Drug1_{d}"): "test" for line in LINES for d in ("0.5", "5")})
    found = {item.code: item.what for item in lint(table, CONDITIONS).findings.items}
    assert "2 of 2 test perturbations are never seen" in found["unseen-perturbations"]
    assert "'Drug1_0.5'" in found["unseen-perturbations"]
    assert "unseen-doses" not in found
    entire = planned({("L0", f"{d}_{x}"): "test" for d in DRUGS for x in ("0.5", "5")})
    assert "unseen-lines" in codes(lint(entire, CONDITIONS), "note")
    one_dose = lint(planned({(line, "Drug1_5"): "test" for line in LINES}), CONDITIONS)
    assert "unseen-doses" in codes(one_dose, "note")
    assert "split-doses" in codes(one_dose, "error")


def test_names_doubles_and_gaps_of_a_plan_are_found_together() -> None:
    good = planned(HELD)
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
    before = codes(lint(good, CONDITIONS), "warning")
    assert codes(gaps, "warning") - before == {"conditions-left-out"}
    assert codes(gaps, "error") == set()


def test_controls_are_needed_and_are_shared_or_partitioned() -> None:
    bare = CONDITIONS[~(CONDITIONS["is_control"] & (CONDITIONS["line"] == "L3"))]
    assert codes(lint(planned(HELD, bare), bare), "error") == {"no-controls"}
    few = CONDITIONS.copy()
    few.loc[few["is_control"] & (few["line"] == "L0"), "n_cells"] = 4
    partition = Facts((CONTROL,), "partition")
    table = planned(HELD)
    assert codes(lint(table, few, None, partition), "error") == {"too-few-controls"}
    assert codes(lint(table, few), "error") == set()
    clean = lint(table, CONDITIONS, None, partition)
    assert codes(clean, "error") == set()
    assert "shared-controls" not in codes(clean, "warning")
    assert "shared-controls" in codes(lint(table, CONDITIONS), "warning")
