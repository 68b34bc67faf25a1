"""cell-load's TOML: its semantics, its silent mistakes as errors, and the way back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pandas as pd
import pytest
from conditions import CONTROL, conditions_of
from hypothesis import given, settings
from hypothesis import strategies as st

from statetx.config import BlockSplit, Simulate
from statetx.data import simulate
from statetx.errors import SplitError
from statetx.splits.findings import Findings
from statetx.splits.generate import generate
from statetx.splits.toml import resolve, write_toml

LINES = ["A549", "HOP 62", "Hep G2/C3A", "v1.2"]
CONDITIONS = conditions_of(LINES, ["Alpha", "Beta", "Gamma"])
CONTROLS = [CONTROL, "DMSO_TF"]

GOOD = """
[datasets]
rep = "/data/somewhere/*.h5ad"

[training]
rep = "train"

[zeroshot]
"rep.v1.2" = "test"
"rep.HOP 62" = "val"

[fewshot."rep.Hep G2/C3A"]
val = ["Alpha_0.5", "Alpha_5"]
test = ["Beta_0.5", "Beta_5"]
"""


def read(text: str) -> tuple[pd.DataFrame, Findings]:
    log = Findings()
    return resolve(tomllib.loads(text), CONDITIONS, CONTROLS, log), log


def roles(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    return dict(
        zip(zip(table["line"], table["perturbation"], strict=True), table["role"], strict=True)
    )


def test_semantics() -> None:
    table, log = read(GOOD)
    assert log.items == []
    found = roles(table)
    assert len(found) == 4 * 6
    labels = ["Alpha_0.5", "Alpha_5", "Beta_0.5", "Beta_5", "Gamma_0.5", "Gamma_5"]
    assert [found["v1.2", p] for p in labels] == ["test"] * 6
    assert [found["HOP 62", p] for p in labels] == ["val"] * 6
    assert [found["A549", p] for p in labels] == ["train"] * 6
    expected = ["val", "val", "test", "test", "train", "train"]
    assert [found["Hep G2/C3A", p] for p in labels] == expected


def test_without_training_the_other_lines_are_left_out_and_said() -> None:
    table, log = read('[datasets]\nd = "x"\n[fewshot."d.A549"]\ntest = ["Beta_0.5", "Beta_5"]\n')
    assert set(table["line"]) == {"A549"}
    assert list(table["role"]).count("train") == 4  # the rest of a few-shot line trains anyway
    (item,) = log.items
    assert (item.severity, item.code) == ("warning", "lines-left-out")
    assert "HOP 62" in item.what


HEAD = '[datasets]\nd = "x"\n[training]\nd = "train"\n'
MISTAKES = {
    "misspelt line, zeroshot": (HEAD + '[zeroshot]\n"d.A594" = "test"\n', "unknown-line", "'A549'"),
    "misspelt line, fewshot": (
        HEAD + '[fewshot."d.HOP62"]\ntest = ["Beta_5"]\n',
        "unknown-line",
        "did you mean 'HOP 62'?",
    ),
    "misspelt drug": (
        HEAD + '[fewshot."d.A549"]\ntest = ["Betta_5"]\n',
        "unknown-perturbation",
        "did you mean 'Beta_5'?",
    ),
    "misspelt drug in val": (
        HEAD + '[fewshot."d.A549"]\nval = ["alpha_5"]\ntest = ["Beta_5"]\n',
        "unknown-perturbation",
        "did you mean 'Alpha_5'?",
    ),
    "data set without path": (
        '[datasets]\ndemo = "x"\n[training]\ndmeo = "train"\n[zeroshot]\n"demo.A549" = "test"\n',
        "unknown-dataset",
        "did you mean 'demo'?",
    ),
    "dotted data set": (
        '[datasets]\n"d.v1" = "x"\n[training]\n"d.v1" = "train"\n[zeroshot]\n"d.v1.A549" = "test"\n',
        "dotted-dataset",
        "without dots",
    ),
    "two data sets": (
        '[datasets]\nd = "x"\ne = "y"\n[training]\ne = "train"\n[zeroshot]\n"d.A549" = "test"\n',
        "several-datasets",
        "one data set",
    ),
    "unused data set": (
        '[datasets]\nd = "x"\ne = "y"\n[training]\nd = "train"\n[zeroshot]\n"d.A549" = "test"\n',
        "unused-dataset",
        '"train" in [training]',
    ),
    "bad role": (HEAD + '[zeroshot]\n"d.A549" = "tset"\n', "bad-role", "did you mean 'test'?"),
    "training value": (
        '[datasets]\nd = "x"\n[training]\nd = "yes"\n[zeroshot]\n"d.A549" = "test"\n',
        "training-value",
        '"train"',
    ),
    "unquoted zeroshot": (HEAD + '[zeroshot]\nd.A549 = "test"\n', "unquoted", "quotes"),
    "unquoted fewshot": (HEAD + '[fewshot.d.A549]\ntest = ["Beta_5"]\n', "unquoted", "quotes"),
    "no data set in the key": (HEAD + '[zeroshot]\nA549 = "test"\n', "no-line", "dataset.line"),
    "extra key": (
        HEAD + '[fewshot."d.A549"]\ntrain = ["Alpha_5"]\ntest = ["Beta_5"]\n',
        "unknown-key",
        "what is not listed trains",
    ),
    "extra table": (HEAD + '[zero_shot]\n"d.A549" = "test"\n', "unknown-table", "'zeroshot'"),
    "key above the tables": (
        "seed = 1\n" + HEAD + '[zeroshot]\n"d.A549" = "test"\n',
        "unknown-table",
        "",
    ),
    "table that is none": ('zeroshot = "d.A549"\n' + HEAD, "no-table", "[zeroshot]"),
    "list that is none": (HEAD + '[fewshot."d.A549"]\ntest = "Beta_5"\n', "no-list", ""),
    "few-shot that is no table": (HEAD + '[fewshot]\n"d.A549" = ["Beta_5"]\n', "no-table", ""),
    "path that is none": (
        '[datasets]\nd.v1 = "x"\n[training]\nd = "train"\n[zeroshot]\n"d.A549" = "test"\n',
        "dataset-path",
        "without dots",
    ),
    "val and test": (
        HEAD + '[fewshot."d.A549"]\nval = ["Beta_5"]\ntest = ["Beta_5"]\n',
        "val-test-overlap",
        "one of the two",
    ),
    "line twice": (
        HEAD + '[zeroshot]\n"d.A549" = "test"\n[fewshot."d.A549"]\ntest = ["Beta_5"]\n',
        "line-twice",
        "ignore",
    ),
    "control listed": (
        HEAD + '[fewshot."d.A549"]\ntest = ["Beta_5", "DMSO_TF"]\n',
        "control-listed",
        "remove it",
    ),
    "empty test": (HEAD + '[zeroshot]\n"d.A549" = "val"\n', "empty-test", "hold out"),
    "nothing held out": (HEAD, "empty-test", "hold out"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_one_error(name: str) -> None:
    text, code, fix = MISTAKES[name]
    _, log = read(text)
    # A dotted data set name also makes its lines unreadable; the cause comes first.
    found = [item.code for item in log.errors]
    assert found == [code] or (code == "dotted-dataset" == found[0]), log.errors
    assert fix in log.errors[0].fix
    with pytest.raises(SplitError) as caught:
        log.raise_errors("my.toml")
    assert "my.toml" in str(caught.value.where)


def test_all_mistakes_are_reported_at_once() -> None:
    _, log = read(HEAD + '[zeroshot]\n"d.A594" = "test"\n[fewshot."d.HOP 62"]\ntest = ["Bta_5"]\n')
    with pytest.raises(SplitError) as caught:
        log.raise_errors("my.toml")
    assert "2 errors" in str(caught.value)
    assert "'A594'" in str(caught.value)
    assert "'Bta_5'" in str(caught.value)


def test_a_label_of_another_line_says_so() -> None:
    conditions = conditions_of(LINES, ["Alpha", "Beta"], missing=(("A549", "Beta_5"),))
    log = Findings()
    content = tomllib.loads(HEAD + '[fewshot."d.A549"]\ntest = ["Beta_5"]\n')
    resolve(content, conditions, CONTROLS, log)
    assert "other lines have it" in log.errors[0].what


def cell_load_roles(content: dict, conditions: pd.DataFrame, dataset: str) -> dict:
    """Roles by the rules that cell-load 0.10.4 was observed to follow, written independently."""
    out = {}
    real = conditions[~conditions["is_control"]]
    for line, label in set(zip(real["line"], real["perturbation"], strict=True)):
        key = f"{dataset}.{line}"
        if key in content.get("zeroshot", {}):
            out[line, label] = content["zeroshot"][key]
        elif key in content.get("fewshot", {}):
            lists = content["fewshot"][key]
            held = [role for role in ("val", "test") if label in lists.get(role, [])]
            out[line, label] = held[0] if held else "train"
        elif content.get("training", {}).get(dataset) == "train":
            out[line, label] = "train"
    return out


LABEL = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_round_trip_of_any_plan(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = data.draw(st.lists(LABEL, min_size=1, max_size=4, unique=True))
    drugs = data.draw(st.lists(LABEL, min_size=1, max_size=3, unique=True))
    conditions = conditions_of(lines, drugs, batches=("p",))
    real = conditions[~conditions["is_control"]]
    left_out = data.draw(st.sampled_from([None, *lines])) if len(lines) > 1 else None
    real = real[real["line"] != left_out]
    table = real[["line", "perturbation"]].assign(
        role=[data.draw(st.sampled_from(["train", "val", "test"])) for _ in range(len(real))],
        reason="drawn",
    )
    table.iloc[0, table.columns.get_loc("role")] = "test"
    path = tmp_path_factory.mktemp("toml") / "split.toml"
    write_toml(table, conditions, "da.ta", "pack/dir", path)
    content = tomllib.loads(path.read_text())
    log = Findings()
    again = resolve(content, conditions, CONTROLS, log)
    assert log.errors == []
    assert roles(again) == roles(table) == cell_load_roles(content, conditions, "da_ta")
    assert content["datasets"] == {"da_ta": "pack/dir"}


def test_a_plan_that_leaves_out_single_conditions_cannot_be_said(tmp_path: Path) -> None:
    table, _ = read(GOOD)
    with pytest.raises(SplitError, match="5 of the 6 conditions of line 'A549'"):
        write_toml(table.iloc[1:], CONDITIONS, "d", "x", tmp_path / "split.toml")
    assert list(tmp_path.iterdir()) == []


def test_written_form(tmp_path: Path) -> None:
    table = generate(CONDITIONS, BlockSplit(dataset="d", generator="dc_block"))
    write_toml(table, CONDITIONS, "demo", "results/demo/pack", tmp_path / "split.toml")
    text = (tmp_path / "split.toml").read_text()
    (line,) = table.loc[table["role"] == "test", "line"].unique()
    assert f'[fewshot."demo.{line}"]' in text


def test_cell_load_reads_what_we_write(tmp_path: Path) -> None:
    config = pytest.importorskip("cell_load.config", reason="cell-load is not installed")
    table, _ = read(GOOD)
    write_toml(table, CONDITIONS, "demo", str(tmp_path), tmp_path / "split.toml")
    experiment = config.ExperimentConfig.from_toml(str(tmp_path / "split.toml"))
    experiment.validate()
    assert experiment.get_zeroshot_celltypes("demo") == {"v1.2": "test", "HOP 62": "val"}
    assert experiment.get_fewshot_celltypes("demo") == {
        "Hep G2/C3A": {"val": ["Alpha_0.5", "Alpha_5"], "test": ["Beta_0.5", "Beta_5"]}
    }


def test_the_shipped_example_names_what_the_demo_holds() -> None:
    path = Path(__file__).parents[2] / "config/splits/demo_holdout.toml"
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    demo = Simulate()
    labels = {
        simulate.label(drug, dose) for drug in simulate.drug_names(demo) for dose in demo.doses
    }
    lines = {key.split(".", 1)[1] for table in ("zeroshot", "fewshot") for key in content[table]}
    assert lines <= set(simulate.line_names(demo))
    for table in content["fewshot"].values():
        assert {*table["val"], *table["test"]} <= labels
