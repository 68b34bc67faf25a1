"""Every reader of somebody's table takes every usual encoding and separator, and keeps labels as text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from statetx.cli import main as cli
from statetx.config import load
from statetx.config.splits import DrugTable, LineOut, LineTable, Stratify, TomlSplit
from statetx.core.errors import DataError, StatetxError
from statetx.evaluation.cell_eval.baseline_score import score_against
from statetx.evaluation.scores.columns import COLUMNS, IDENTITY
from statetx.evaluation.standalone.de_file import SuppliedTable
from statetx.evaluation.verdict.cohort import RefScores, RunScores, gather
from statetx.inference.asked import read_asked
from statetx.shared.labels import Reading
from statetx.shared.tables import write_table
from statetx.splits.compounds.drug_tables import facts_of
from statetx.splits.sources import from_data
from statetx.stages import parameters
from statetx.stages.source_files import source_files
from statetx.training.inputs.perturbation_features import read_features

LABELS = ["NA", "None", "null", "nan", "1e5", "TRUE", "007"]
FORMS = [
    *[("utf-8", ",", "\n"), ("utf-8-sig", ",", "\r\n"), ("utf-8-sig", ";", "\r\n")],
    *[("utf-16", "\t", "\r\n"), ("utf-8", "\t", "\n")],
]


def infer_table(path: Path) -> list[str]:
    found = read_asked(path, ["L1"], LABELS, {"control"}, Reading(controls=("control",)))
    assert set(found.values()) == {30}
    return [label for _, label in found]


def features(path: Path) -> list[str]:
    found = read_features(path)
    assert (found.values == 30).all()
    return found.labels


def drug_table(path: Path) -> list[str]:
    table = DrugTable(path=str(path), name="perturbation", smiles="cell_line")
    return facts_of(TomlSplit(dataset="", toml="", drug_table=table))["listed"]


def line_table(path: Path) -> list[str]:
    settings = LineOut(
        dataset="d",
        generator="line_out",
        line_table=LineTable(path=str(path), name="perturbation"),
        stratify=Stratify(lines="n_cells"),
    )
    found = facts_of(settings)["strata"]["lines"]
    assert set(found.values()) == {"30.0"}
    return list(found)


def lint_data(path: Path) -> list[str]:
    found = from_data(path, ["NA"]).conditions
    assert (found["n_cells"] == 30).all()
    return found["perturbation"].tolist()


READERS: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "infer": (infer_table, ["perturbation", "cell_line", "n_cells"]),
    "features": (features, ["perturbation", "n_cells"]),
    "drugs": (drug_table, ["perturbation", "cell_line"]),
    "lines": (line_table, ["perturbation", "n_cells"]),
    "lint": (lint_data, ["perturbation", "line", "n_cells"]),
}
VALUES = {"cell_line": "L1", "line": "L1", "n_cells": "30.0"}


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_every_form(
    tmp_path: Path, reader: str, form: tuple[str, str, str]
) -> None:
    encoding, separator, newline = form
    work, columns = READERS[reader]
    if reader == "drugs":
        pytest.importorskip("rdkit")
    rows = [[f" {name} " for name in columns]]
    rows += [[label, *(VALUES[name] for name in columns[1:])] for label in LABELS]
    if reader == "drugs":
        rows = [rows[0], *([row[0], "CCO"] for row in rows[1:])]
    lines = [separator.join(row) for row in rows] + [separator * (len(columns) - 1), ""]
    path = tmp_path / "t.csv"
    path.write_bytes(newline.join(lines).encode(encoding))
    assert sorted(work(path)) == sorted(LABELS)


@pytest.mark.parametrize("reader", ["infer", "lint"])
def test_names_of_columns_in_other_case_are_proposed(tmp_path: Path, reader: str) -> None:
    work, columns = READERS[reader]
    values = ",".join(VALUES[name] for name in columns[1:])
    (tmp_path / "t.csv").write_text(f"{','.join(columns).title()}\nNA,{values}\n")
    with pytest.raises(StatetxError) as caught:
        work(tmp_path / "t.csv")
    assert "did you mean" in str(caught.value)


def test_a_number_of_cells_that_is_no_number_is_shown(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("perturbation,line,n_cells\nNA,L1,30\nx,L1,12.5\n")
    with pytest.raises(StatetxError, match=r"row 2 has '12\.5' cells"):
        lint_data(tmp_path / "t.csv")


def test_blanks_of_a_spreadsheet_are_looked_through(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("perturbation,cell_line\nDrug ,L1 \n Own,L1\n")
    found = read_asked(
        tmp_path / "t.csv", ["L1"], ["Drug", " Own"], {"control"}, Reading(controls=("control",))
    )
    assert found == {("L1", " Own"): None, ("L1", "Drug"): None}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_tables_of_tests_and_of_metrics_too(tmp_path: Path, form: tuple[str, str, str]) -> None:
    encoding, separator, newline = form

    def write(name: str, *rows: str) -> Path:
        text = "".join(row.replace(",", separator) + newline for row in rows)
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    head = "target,feature,log2_fold_change,p_value,fdr"
    rows = [f"{label},{gene},1.5,0.1,NA" for label in LABELS for gene in ("NAN", "1e5")]
    tests = SuppliedTable.read(write("de.csv", head, *rows), None).tests_of(
        "all", LABELS, ["NAN", "1e5"]
    )
    assert tests.log2_fold_change.shape == (len(LABELS), 2)
    assert (tests.log2_fold_change == 1.5).all()
    user = write("user.csv", "statistic,mse", "mean,1")
    baseline = write("base.csv", "statistic,mse", "mean,4")
    assert score_against(user, baseline)["from_baseline"].tolist() == [0.75, 0.75]


def scores(labels: list[str], path: Path) -> Path:
    frame = pd.DataFrame({"line": "NA", "perturbation": labels, "drug": labels})
    for name in (*IDENTITY[3:], *COLUMNS):
        frame[name] = np.random.default_rng(0).random(len(labels))
    frame["note"] = None
    path.parent.mkdir(exist_ok=True)
    write_table(frame, path)
    return path


def test_scores_are_read_back_exactly(tmp_path: Path) -> None:
    labels = sorted([*LABELS, "=cmd()", "'x", "A,B", "new\nline", "\r"])
    for name in ("floor", "ceiling"):
        scores(labels, tmp_path / "reference" / f"{name}.csv")
    path = scores(labels, tmp_path / "scores" / "scores.csv")
    run = RunScores("s", "m", "no_change", 0, "NA", path)
    found = gather([run], [RefScores("s", "NA", tmp_path / "reference")])
    assert found.conditions["perturbation"].tolist() == labels
    assert found.conditions["drug"].tolist() == labels
    expected = np.random.default_rng(0).random(len(labels))
    assert found.contenders[0].table[COLUMNS[0]].tolist() == expected.tolist()


# ---------------------------------------------------------------------------------------------
# configuration and TOML

CONFIG = """
datasets:
  d: {files: [FILES], control_pert: CONTROL, scale: counts}
splits: {s: {dataset: d, generator: line_out, lines: [LINES], val_line_fraction: 0}}
models: {no_change: {kind: no_change}}
experiments: {main: {splits: [s], models: [no_change]}}
evaluation: {n_bootstrap: DRAWS}
"""


def config(tmp_path: Path, **changes: str) -> Path:
    values = {"FILES": "x.h5ad", "CONTROL": "x", "LINES": "L1", "DRAWS": "100"}
    text = CONFIG
    for key, value in (values | changes).items():
        text = text.replace(key, value)
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("CONTROL", "0", 'control_pert: 0 is read as the number 0, not as text; write it in quotes: "0"'),
        ("CONTROL", "NO", 'control_pert: NO is read as False, not as text; write it in quotes: "NO"'),
        ("CONTROL", "[x, 1.0]", 'control_pert.1: 1.0 is read as the number 1.0, not as text; write it in quotes: "1.0"'),
        ("CONTROL", "null", 'write it in quotes: "null"'),
        ("CONTROL", "{a: b}", "control_pert: Input should be a valid string, not a mapping"),
        ("LINES", "A, 007", 'lines.1: 007 is read as the number 7, not as text; write it in quotes: "007"'),
        ("LINES", "1.e+5", 'lines.0: 1.e+5 is read as the number 100000.0, not as text; write it in quotes: "1.e+5"'),
        ("LINES", "2024-01-02", 'is read as the date 2024-01-02, not as text; write it in quotes: "2024-01-02"'),
        ("DRAWS", "1e5", "n_bootstrap: '1e5' is text in YAML; write all digits of the number"),
        ("DRAWS", "5", "n_bootstrap: Input should be greater than or equal to 100, not 5"),
        ("DRAWS", "many", "not 'many'"),
    ],
)  # fmt: skip
def test_a_wrong_type_shows_the_value_and_the_way_out(
    tmp_path: Path, key: str, value: str, message: str
) -> None:
    with pytest.raises(StatetxError) as caught:
        load(config(tmp_path, **{key: value}))
    assert message in caught.value.what
    assert "\n" not in caught.value.what


def test_labels_without_a_file_are_explained_too() -> None:
    for control, message in ((0, 'quotes: "0"'), (False, "YAML reads NO, no and off as false")):
        raw: dict[str, Any] = {
            "datasets": {"d": {"files": "x", "control_pert": control, "scale": "counts"}}
        }
        with pytest.raises(StatetxError) as caught:
            load(raw | {"splits": {}, "models": {}, "experiments": {}})
        assert message in caught.value.what


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_configurations_of_old_editors_are_read(tmp_path: Path, encoding: str) -> None:
    path = config(tmp_path, LINES='"βTC6"')
    path.write_bytes(path.read_text("utf-8").replace("\n", "\r\n").encode(encoding))
    assert load(path).splits["s"].lines == ["βTC6"]


def test_a_bomb_that_snakemake_read_is_one_error() -> None:
    value: Any = "x"
    for _ in range(40):
        value = [value, value]
    with pytest.raises(StatetxError, match="it has more than"):
        load({"datasets": value})


@pytest.mark.parametrize("name", ["..", ".", "x" * 101, "pack", "a b", "a/b", "", "a\n"])
def test_names_that_cannot_be_directories_are_refused(tmp_path: Path, name: str) -> None:
    import yaml

    raw = yaml.safe_load(config(tmp_path).read_text())
    raw["models"][name] = {"kind": "no_change"}
    with pytest.raises(StatetxError, match="this name cannot be used") as caught:
        load(raw)
    assert len(caught.value.what) < 400


def test_toml_of_old_editors_is_read(tmp_path: Path) -> None:
    text = '[datasets]\r\nd = "γ.h5ad"\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "s.toml").write_bytes(text.encode(encoding))
        assert parameters.read_toml(str(tmp_path / "s.toml")) == {"datasets": {"d": "γ.h5ad"}}


@pytest.mark.parametrize("root", ["data[old]", "data{x}", "da*ta", "$HOME", "plain"])
def test_odd_names_of_files_and_roots_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / root
    home.mkdir()
    for name in ("a[1].h5ad", "a1.h5ad", "b{c}.h5ad"):
        (home / name).touch()
    cfg = load(config(tmp_path, FILES='"{data_root}/a[1].h5ad", "{data_root}/*{c}.h5ad"'))
    if root == "$HOME":
        cfg = load(config(tmp_path, FILES='"{data_root}/a[1].h5ad"'))
        monkeypatch.setenv("HOME", str(home))
    cfg = cfg.model_copy(update={"data_root": str(home) if root != "$HOME" else root})
    found = source_files(cfg, "d")
    assert [Path(path).name for path in found][:1] == ["a[1].h5ad"]
    assert root == "$HOME" or [Path(path).name for path in found][1:] == ["b{c}.h5ad"]


def test_a_link_to_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.h5ad").symlink_to("gone.h5ad")
    for files in ("a.h5ad", "'*.h5ad'"):
        with pytest.raises(StatetxError, match=r"'a\.h5ad' is a link to 'gone\.h5ad'") as caught:
            source_files(load(config(tmp_path, FILES=files)), "d")
        assert caught.value.where == "datasets.d.files"


def test_lint_of_everything_with_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drugs = ["NA", "None", "1e5", "TRUE"]
    rows = [f"{line},{drug},50" for line in ("L1", "L2") for drug in ("DMSO_TF_00", *drugs)]
    table = "\r\n".join(["line,perturbation,n_cells", *rows, ",,", ""])
    (tmp_path / "t.csv").write_bytes(table.encode("utf-8-sig"))
    split = '[datasets]\r\nd = "c"\r\n[training]\r\nd = "train"\r\n[fewshot."d.L1"]\r\ntest = ["NA"]\r\n'
    (tmp_path / "s.toml").write_bytes(split.encode("utf-8-sig"))
    arguments = ["lint", str(tmp_path / "s.toml"), "--data", str(tmp_path / "t.csv")]
    monkeypatch.setattr(sys, "argv", ["statetx", *arguments])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert (done.value.code or 0) == 0, capsys.readouterr()


def test_more_cells_than_anybody_wants_are_a_slip(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("perturbation,cell_line,n_cells\nA,L1,99999999999\n")
    with pytest.raises(DataError, match="n_cells is '99999999999'"):
        read_asked(tmp_path / "t.csv", ["L1"], ["A"], {"control"}, Reading())
