"""`statetx lint`: any TOML against any data, what it prints, writes and returns."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from conditions import CONTROL, conditions_of, store_of
from scipy import sparse

from statetx.cli import main as cli
from statetx.config import Simulate
from statetx.config.splits import DrugTable
from statetx.core.errors import SplitError
from statetx.data import simulate
from statetx.data.inspection.design import Columns
from statetx.data.store.layout import file_name
from statetx.splits.lint_file import lint_file

LINES = ["A549", "HOP 62", "MCF7", "v1.2"]
DRUGS = ["Alpha", "Beta", "Gamma", "Delta"]
COLUMNS = Columns("drug_dose", "cell_line", "plate", (CONTROL,))
TOML = """
[datasets]
d = "PLACE"

[training]
d = "train"

[fewshot."d.A549"]
val = ["Beta_0.5", "Beta_5"]
test = ["Alpha_0.5", "Alpha_5"]
"""
Run = Callable[..., tuple[int, str, str]]
FEW = '\n[fewshot."d.MCF7"]\n'


def conditions() -> pd.DataFrame:
    table = conditions_of(LINES, DRUGS, batches=("p1",))
    return table.assign(batch=table["line"] + " p1", n_cells=table["n_cells"] + 30)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `statetx lint`: exit code, what it printed, its error message."""

    def work(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["statetx", "lint", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out, err = capsys.readouterr()
        return int(done.value.code or 0), out, err

    return work


@pytest.fixture
def table(tmp_path: Path) -> Path:
    counted = conditions()[["line", "perturbation", "batch", "n_cells"]]
    counted.to_parquet(tmp_path / "table.parquet", index=False)
    return tmp_path / "table.parquet"


def toml(directory: Path, text: str = TOML, place: object = "x") -> Path:
    path = directory / "my.toml"
    path.write_text(text.replace("PLACE", str(place)), encoding="utf-8")
    return path


def api(path: Path, data: Path | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    found = lint_file(path, data, COLUMNS, **options)
    return {name: report.as_dict() for name, _, report in found}


def codes(report: dict[str, Any], severity: str) -> set[str]:
    return {item["code"] for item in report["findings"] if item["severity"] == severity}


# ---------------------------------------------------------------------------------------------
# data


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of h5ads, two lines in each, of the same conditions as the tables."""
    home = tmp_path_factory.mktemp("home") / "cells"
    home.mkdir()
    for name, lines in (("a", LINES[:2]), ("b", LINES[2:])):
        counts = conditions()
        counts = counts[counts["line"].isin(lines)]
        obs = counts.loc[counts.index.repeat(counts["n_cells"])]
        obs = obs.sample(frac=1.0, random_state=0).reset_index(drop=True)
        obs = obs.rename(
            columns={"line": "cell_line", "perturbation": "drug_dose", "batch": "plate"}
        )
        obs = obs[["cell_line", "drug_dose", "plate"]].astype("category")
        obs.index = obs.index.astype(str)
        x = sparse.csr_matrix((len(obs), 3), dtype=np.float32)
        anndata.AnnData(x, obs=obs).write_h5ad(home / f"{name}.h5ad")
    return home


@pytest.mark.parametrize("kind", ["store", "parquet", "csv"])
def test_a_store_and_tables_of_one_design_give_one_report(
    kind: str, tmp_path: Path, table: Path, run: Run
) -> None:
    data = table
    if kind == "store":
        data = store_of(conditions(), tmp_path / "pack")
    if kind == "csv":
        data = table.with_suffix(".csv")
        pd.read_parquet(table).to_csv(data, index=False)
    path = toml(tmp_path)
    code, out, err = run(path, "--data", data)
    assert (code, err) == (0, "")
    assert f"{path}, data set 'd'" in out
    assert out.rstrip().endswith("the split can be used")
    (report,) = api(path, data).values()
    assert codes(report, "warning") == {"shared-controls"}
    assert codes(report, "note") == set()
    assert report == api(path, table)["d"]
    assert report["roles"][2] == {
        "role": "test", "lines": 1, "drugs": 1, "conditions": 2, "cells": 80
    }  # fmt: skip


@pytest.mark.parametrize(
    "place",
    [
        "HOME/cells",
        "HOME/cells/",
        "HOME/cells/*.h5ad",
        "HOME/cells/?.h5*",
        "HOME/cells/[ab].h5ad",
        "HOME/cells/{a,b}.h5ad",
        "HOME/cells/{a, b}.h5ad",
        "HOME/{cells/{a,b},splits/../cells/a}.h5ad",
        "HOME/cell*",
        "HOME/{**/a,cells/b}.h5ad",
        "~/cells",
        "~/cells/{a,b}.h5ad",
        "$STATETX_CELLS",
        "${STATETX_CELLS}/*.h5ad",
        "cells",
        "./cells/*.h5ad",
        "splits/../cells",
    ],
)
def test_the_files_that_a_toml_names_are_found(
    place: str, cells: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = cells.parent
    (home / "splits").mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("STATETX_CELLS", str(cells))
    monkeypatch.chdir(home)
    path = toml(tmp_path, place=place.replace("HOME", str(home)))
    assert api(path) == api(toml(table.parent), table)


def test_paths_are_relative_to_the_working_directory_or_to_the_toml(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beside = toml(cells.parent, place="cells/a.h5ad")
    assert [line["line"] for line in api(beside)["d"]["lines"]] == LINES[:2]
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/a.h5ad").write_bytes((cells / "b.h5ad").read_bytes())
    assert [line["line"] for line in api(beside)["d"]["lines"]] == LINES[2:]


def test_a_path_that_matches_nothing_is_named(tmp_path: Path, run: Run) -> None:
    for place in ("nowhere/*.h5ad", "nowhere", "~/nowhere/{a,b}.h5ad", "~nobody-here/cells"):
        path = toml(tmp_path, place=place)
        code, out, err = run(path)
        assert (code, out) == (1, "")
        assert f"{place!r} matches no file" in err
        assert f"{path}: [datasets]" in err
        assert "--data" in err


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ("cells/{a,c}.h5ad", "cells/c.h5ad"),
        ("{cells/{a,b},other/c}.h5ad", "other/c.h5ad"),
        ("{cells/*,nowhere/*}.h5ad", "nowhere/*.h5ad"),
        ("{cells,splits}", "splits"),
    ],
)
def test_a_part_of_a_path_that_matches_nothing_is_not_skipped(
    place: str, part: str, cells: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cells.parent)
    (cells.parent / "splits").mkdir(exist_ok=True)
    code, out, err = run(toml(cells.parent, place=place))
    assert (code, out) == (1, "")
    assert f"{part!r}, a part of {place!r}, matches no file" in err


def test_a_misspelt_file_gets_a_hint(cells: Path, run: Run, monkeypatch: Any) -> None:
    monkeypatch.chdir(cells.parent)
    assert "did you mean 'cells'?" in run(toml(cells.parent, place="cels"))[2]
    (cells.parent / "none").mkdir(exist_ok=True)
    assert "does not contain .h5ad" in run(toml(cells.parent, place="none"))[2]


def test_a_data_set_without_path_needs_data(tmp_path: Path, table: Path, run: Run) -> None:
    text = TOML.replace('d = "PLACE"', "")
    code, _, err = run(toml(tmp_path, text))
    assert (code, "the data set has no path" in err) == (1, True)
    assert codes(api(toml(tmp_path, text), table)["d"], "error") == {"unknown-dataset"}


def test_columns_and_controls_that_are_not_there_are_named(
    cells: Path, table: Path, tmp_path: Path, run: Run
) -> None:
    path = toml(tmp_path, place=cells)
    code, _, err = run(path, "--pert-col", "drug")
    assert (code, "did you mean 'drug_dose'?" in err, "--pert-col" in err) == (1, True, True)
    code, _, err = run(path, "--control_pert", "DMSO_TF")
    assert (code, f"did you mean {CONTROL!r}?" in err) == (1, True)
    renamed = pd.read_parquet(table).rename(columns={"n_cells": "cells"})
    renamed.to_parquet(table)
    code, _, err = run(path, "--data", table)
    assert (code, "no column 'n_cells'" in err, "'cells'" in err) == (1, True, True)
    code, _, err = run(path, "--data", tmp_path / "nowhere.csv")
    assert (code, "cannot read the conditions" in err) == (1, True)


def test_names_in_a_csv_are_text(tmp_path: Path) -> None:
    rows = [
        (line, label, 50) for line in ("007", "NA", "1.0") for label in ("01", "1.50", "2", CONTROL)
    ]
    counted = pd.DataFrame(rows, columns=["line", "perturbation", "n_cells"])
    counted.to_csv(tmp_path / "table.csv", index=False)
    text = '[datasets]\nd = "x"\n[training]\nd = "train"\n'
    text += '[fewshot."d.007"]\nval = ["01"]\ntest = ["1.50"]\n[fewshot."d.NA"]\nval = ["2"]\n'
    report = api(toml(tmp_path, text), tmp_path / "table.csv")["d"]
    assert codes(report, "error") == set()
    assert [line["line"] for line in report["lines"]] == ["007", "1.0", "NA"]


def test_counts_that_are_none_are_refused(tmp_path: Path, table: Path) -> None:
    bad = pd.read_parquet(table).astype({"n_cells": float})
    bad.loc[3, "n_cells"] = np.nan
    bad.to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(SplitError, match="n_cells"):
        api(toml(tmp_path), tmp_path / "bad.csv")


# ---------------------------------------------------------------------------------------------
# files that cannot be read


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[datasets]\nd = "x"\n[training]\nd = train\n', ("line 4", "column 5")),
        (b'[datasets]\nd = "x"\n[datasets]\ne = "y"\n', ("line 3", "twice")),
        (b'[datasets]\nd = "caf\xe9"\n', ("utf-8", "0xe9")),
        (b"", ("splits no data set", "[zeroshot]")),
        (b'[datasets]\nd = "x"\n', ("splits no data set", "[training]")),
        (None, ("No such file", "my.toml")),
    ],
)
def test_a_file_that_cannot_be_read_says_where(
    content: bytes | None,
    words: tuple[str, ...],
    tmp_path: Path,
    table: Path,
    run: Run,
) -> None:
    path = tmp_path / "my.toml"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run(path, "--data", table)
    assert (code, out) == (1, "")
    assert str(path) in err
    for word in words:
        assert word in err
    assert "Traceback" not in err


# ---------------------------------------------------------------------------------------------
# options


def test_errors_exit_with_1_and_wrong_use_with_2(tmp_path: Path, table: Path, run: Run) -> None:
    code, out, err = run(toml(tmp_path, TOML + FEW + 'test = ["Alpah_5"]\n'), "--data", table)
    assert (code, err) == (1, "")
    assert "error (unknown-perturbation): line 'MCF7' has no perturbation 'Alpah_5'" in out
    assert "did you mean 'Alpha_5'?" in out
    assert out.rstrip().endswith("refused: 1 error")
    assert run()[0] == 2
    assert run(toml(tmp_path), "--data", table, "--nothing")[0] == 2


def test_compat_warns_of_what_cell_load_ignores(tmp_path: Path, table: Path, run: Run) -> None:
    path = toml(tmp_path, TOML + FEW + 'test = ["Alpah_5"]\n')
    code, out, _ = run(path, "--data", table, "--compat")
    assert code == 0
    assert "warning (unknown-perturbation)" in out
    path = toml(tmp_path, TOML + FEW + 'test = ["Alpha_5"]\n')
    assert run(path, "--data", table, "--compat")[0] == 1


def test_allow_warns_and_refuses_unknown_checks(tmp_path: Path, table: Path, run: Run) -> None:
    path = toml(tmp_path, TOML + FEW + 'test = ["Alpha_5"]\n')
    code, out, _ = run(path, "--data", table)
    assert (code, "error (split-doses)" in out) == (1, True)
    code, out, _ = run(path, "--data", table, "--allow", "empty-val", "--allow", "split-doses")
    assert (code, "warning (split-doses)" in out) == (0, True)
    code, out, err = run(path, "--data", table, "--allow", "split-dose")
    assert (code, out, "no check 'split-dose'" in err) == (1, "", True)


def test_features_make_new_drugs_predictable(tmp_path: Path, table: Path, run: Run) -> None:
    held = 'test = ["Alpha_0.5", "Alpha_5"]\n'
    text = TOML + "".join(f'[fewshot."d.{line}"]\n{held}' for line in LINES[1:])
    path = toml(tmp_path, text)
    code, out, _ = run(path, "--data", table)
    assert (code, "error (unseen-perturbations): 2 of 2 test perturbations" in out) == (1, True)
    code, out, _ = run(path, "--data", table, "--features")
    assert (code, "note (new-perturbations)" in out) == (0, True)


def test_partition_and_min_cells_reach_the_checks(tmp_path: Path, table: Path, run: Run) -> None:
    path = toml(tmp_path)
    code, out, _ = run(path, "--data", table, "--partition", "--min-cells", 41)
    assert code == 0
    assert "note (partitioned-controls)" in out
    assert "shared-controls" not in out
    assert "2 of 2 test conditions have fewer than 41 cells: 'Alpha_0.5 in A549: 40'" in out


def test_one_compound_under_two_names_is_found(tmp_path: Path, table: Path, run: Run) -> None:
    acid = "CC(C)Cc1ccc(cc1)C(C)C(=O)O"
    salt = "CC(C)Cc1ccc(cc1)C(C)C(=O)[O-].[Na+]"
    drugs = pd.DataFrame({"name": DRUGS, "structure": [acid, "CCO", salt, None]})
    drugs.to_csv(tmp_path / "drugs.csv", index=False)
    path = toml(tmp_path)
    told = ("--drug-table", tmp_path / "drugs.csv", "--drug-name", "name")
    assert run(path, "--data", table, *told)[0] == 0
    code, out, _ = run(path, "--data", table, *told, "--smiles", "structure")
    assert code == 1
    assert "one compound under two names is in train and in test" in out
    assert "'Alpha = Gamma in A549'" in out
    report = api(
        path, table, drug_table=DrugTable(path=str(told[1]), name="name", smiles="structure")
    )
    assert codes(report["d"], "error") == {"same-structure"}
    code, _, err = run(path, "--data", table, *told, "--smiles", "smiles")
    assert (code, "no column 'smiles'" in err) == (1, True)
    drugs.iloc[:3].to_csv(tmp_path / "drugs.csv", index=False)
    code, _, err = run(path, "--data", table, *told)
    assert (code, "'Delta'" in err) == (1, True)


# ---------------------------------------------------------------------------------------------
# what is written


def test_the_json_is_the_report_of_the_api(tmp_path: Path, table: Path, run: Run) -> None:
    for text in (TOML, TOML + FEW + 'test = ["Alpha_5"]\n'):
        path, out = toml(tmp_path, text), tmp_path / "new" / "lint.json"
        code, _, _ = run(path, "--data", table, "--json", out, "--force")
        report = json.loads(out.read_text())
        assert report == api(path, table)["d"]
        assert code == min(report["errors"], 1)


def test_several_data_sets_are_checked_in_turn(cells: Path, tmp_path: Path, run: Run) -> None:
    text = TOML.replace("[training]", f'e = "{cells}/b.h5ad"\n\n[training]\ne = "train"')
    text += '[zeroshot]\n"e.MCF7" = "test"\n'
    path, out = toml(tmp_path, text, cells / "a.h5ad"), tmp_path / "lint.json"
    code, shown, _ = run(
        path, "--batch-col", "plate", "--json", out, "--picture", tmp_path / "p.svg"
    )
    assert (code, "data set 'd'" in shown, "data set 'e'" in shown) == (0, True, True)
    assert json.loads(out.read_text()) == api(path)
    assert sorted(file.name for file in tmp_path.glob("*.svg")) == ["p.e.svg", "p.svg"]
    found = json.loads(out.read_text())
    assert [line["line"] for line in found["d"]["lines"]] == LINES[:2]
    assert codes(found["e"], "note") == {"other-datasets", "unseen-lines"}


def test_pictures_are_svg_or_png_only(tmp_path: Path, table: Path, run: Run) -> None:
    path = toml(tmp_path)
    for name, start in (("a.svg", b"<?xml"), ("b.png", b"\x89PNG"), ("c.PNG", b"\x89PNG")):
        assert run(path, "--data", table, "--picture", tmp_path / name)[0] == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert "A549" in (tmp_path / "a.svg").read_text()
    code, _, err = run(path, "--data", table, "--picture", tmp_path / "d.pdf")
    assert (code, "'d.pdf'" in err, ".svg or .png" in err) == (1, True, True)
    assert not (tmp_path / "d.pdf").exists()


def test_a_refused_split_is_drawn_all_the_same(tmp_path: Path, table: Path, run: Run) -> None:
    picture = tmp_path / "p.svg"
    path = toml(tmp_path, TOML + FEW + 'test = ["Alpha_5"]\n')
    assert run(path, "--data", table, "--picture", picture)[0] == 1
    assert picture.is_file()
    path = toml(tmp_path, '[datasets]\nd = "x"\n[zeroshot]\n"d.A594" = "test"\n')
    code, out, _ = run(path, "--data", table, "--picture", tmp_path / "none.svg")
    assert (code, "did you mean 'A549'?" in out) == (1, True)


def test_the_shipped_example_fits_the_demo(tmp_path: Path) -> None:
    demo = Simulate()
    labels = [simulate.label(d, dose) for d in simulate.drug_names(demo) for dose in demo.doses]
    rows = [(line, p, 60) for line in simulate.line_names(demo) for p in [*labels, CONTROL]]
    counted = pd.DataFrame(rows, columns=["line", "perturbation", "n_cells"])
    counted.to_parquet(tmp_path / "demo.parquet")
    path = Path(__file__).parents[2] / "config/splits/demo_holdout.toml"
    report = api(path, tmp_path / "demo.parquet")["demo"]
    assert codes(report, "error") == set()
    assert report["roles"][2]["conditions"] == len(labels) + len(demo.doses)


def lines_of(place: str, home: Path) -> list[str]:
    return [line["line"] for line in api(toml(home, place=place))["d"]["lines"]]


def test_some_lines_of_a_store_are_those_that_are_named(tmp_path: Path) -> None:
    home = store_of(conditions(), tmp_path / "pack")
    for line in LINES:
        (home / f"{file_name(line)}.h5ad").touch()
    assert lines_of(str(home), tmp_path) == LINES
    assert lines_of(f"{home}/{{A549,MCF7}}.h5ad", tmp_path) == ["A549", "MCF7"]
    with pytest.raises(
        SplitError, match=r"'.*A459.h5ad', a part of '.*', matches no file"
    ) as error:
        lines_of(f"{home}/{{A459,MCF7}}.h5ad", tmp_path)
    assert "did you mean 'A549.h5ad'?" in str(error.value)


def test_a_store_that_lost_a_line_and_one_beside_other_files(tmp_path: Path) -> None:
    home = store_of(conditions(), tmp_path / "pack")
    for line in LINES[1:]:
        (home / f"{file_name(line)}.h5ad").touch()
    with pytest.raises(SplitError, match=r"does not contain the file 'A549.h5ad'"):
        lines_of(str(home), tmp_path)
    (tmp_path / "other.h5ad").touch()
    with pytest.raises(SplitError, match="other files"):
        lines_of(f"{tmp_path}/{{pack,other.h5ad}}", tmp_path)
