"""Somebody's tables of differential expression: cell-eval's numbers from them, and bad ones."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from cell_eval_fixture import EXPECTED, GENES, GROUPS, make, uniform

from statetx.core.errors import DataError
from statetx.evaluation.scores.differential_expression import SortedControl, compare
from statetx.evaluation.standalone.de_file import SuppliedTable
from statetx.evaluation.standalone.evaluate_files import evaluate_files

LABELS = [label for label in GROUPS if label != "ctrl"]
NEEDED = ["target", "feature", "log2_fold_change", "p_value", "fdr"]


def table(predicted: bool) -> pd.DataFrame:
    """What pdex gives for the fixture."""
    _, values, labels = make(predicted)
    cells = ((label, values[labels == label]) for label in LABELS)
    return compare(cells, SortedControl.from_cells(values[labels == "ctrl"]), GENES).frame()


def spoiled(predicted: bool) -> pd.DataFrame:
    """The same in another order, with rows missing, cells empty or NaN, and another ranking."""
    out = table(predicted)[NEEDED].astype({"log2_fold_change": object, "fdr": object})
    draws = [uniform(np.arange(len(out)), np.full(len(out), i), 40 + predicted) for i in range(5)]
    out["abs_log2_fold_change"] = draws[0]
    out.loc[draws[1] < 0.1, "log2_fold_change"] = ""
    out.loc[draws[1] > 0.9, "log2_fold_change"] = "NaN"
    out.loc[draws[2] < 0.1, "fdr"] = ""
    return out[draws[3] > 0.2].iloc[np.argsort(draws[4][draws[3] > 0.2])]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, predicted in (("real", False), ("pred", True)):
        _, values, labels = make(predicted)
        obs = pd.DataFrame({"drug": labels, "line": "A"}, index=[f"c{i}" for i in range(182)])
        ad.AnnData(values, obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad(
            tmp_path / f"{name}.h5ad"
        )
        table(predicted).to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def run(home: Path, real_de: str | None, pred_de: str | None, **options):
    return evaluate_files(
        home / "pred.h5ad",
        home / "real.h5ad",
        "drug",
        "ctrl",
        out=home / "out",
        real_de=real_de and home / real_de,
        pred_de=pred_de and home / pred_de,
        **options,
    )


def assert_results(home: Path, expected: str) -> None:
    got = list(csv.DictReader((home / "out/results.csv").read_text().splitlines()))
    for a, b in zip(
        got, csv.DictReader((EXPECTED / expected).read_text().splitlines()), strict=True
    ):
        for column in a:
            if b[column] in ("", "NaN") or column == "perturbation":
                assert a[column] == b[column], (a["perturbation"], column)
            else:
                assert math.isclose(float(a[column]), float(b[column]), abs_tol=1e-9), column


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_own_tables_change_nothing(files: Path, kind: str) -> None:
    if kind == "parquet":
        for name, predicted in (("real", False), ("pred", True)):
            table(predicted).to_parquet(files / f"{name}.parquet")
    both = run(files, f"real.{kind}", f"pred.{kind}")["all"]
    assert_results(files, "cell_eval_results.csv")
    assert both.scores is not None
    assert not list((files / "out").glob("*_de.parquet"))
    run(files, None, f"pred.{kind}")
    assert_results(files, "cell_eval_results.csv")
    assert [path.name for path in (files / "out").glob("*_de.parquet")] == ["real_de.parquet"]
    run(files, "out/real_de.parquet", f"pred.{kind}")
    assert_results(files, "cell_eval_results.csv")


def test_rows_may_lack_and_cells_be_empty(files: Path) -> None:
    spoiled(False).to_csv(files / "real.csv", index=False)
    spoiled(True).to_csv(files / "pred.csv", index=False)
    run(files, "real.csv", "pred.csv", with_scores=False)
    assert_results(files, "cell_eval_supplied.csv")


def test_other_columns_do_not_matter(files: Path) -> None:
    """Nor does what a column looks like at first: whole numbers, then others."""
    for name, predicted in (("real", False), ("pred", True)):
        frame = table(predicted).astype({"log2_fold_change": object})
        frame.loc[frame.index % 7 == 0, "log2_fold_change"] = 0
        mixed = [1] * 100 + ["a,b"] * 50
        frame = frame.assign(remark=mixed)[["remark", *NEEDED]]
        frame.to_csv(files / f"{name}.csv", index=False)
        frame.astype({"target": "category", "log2_fold_change": "float32"}).drop(
            columns="remark"
        ).to_parquet(files / f"{name}.parquet")
    run(files, "real.csv", "pred.csv")
    first = (files / "out/results.csv").read_text()
    run(files, "real.parquet", "pred.parquet")
    assert (files / "out/results.csv").read_text() == first


def test_names_of_genes_stay_text(files: Path) -> None:
    called = ["NA", "nan", "1", *GENES[3:]]
    for name, predicted in (("real", False), ("pred", True)):
        cells = ad.read_h5ad(files / f"{name}.h5ad")
        cells.var_names = called
        cells.write_h5ad(files / f"{name}.h5ad")
        frame = table(predicted)
        frame["feature"] = called * 5
        frame.to_csv(files / f"{name}.csv", index=False)
    run(files, "real.csv", "pred.csv")


def test_several_lines_need_a_column(files: Path) -> None:
    for name, predicted in (("real", False), ("pred", True)):
        cells = ad.read_h5ad(files / f"{name}.h5ad")
        other = cells.copy()
        other.obs["line"] = "B"
        ad.concat([cells, other], index_unique="-").write_h5ad(files / f"{name}.h5ad")
        once = table(predicted)
        twice = pd.concat([once.assign(line="A"), once.assign(line="B", fdr=1.0)])
        twice.to_csv(files / f"{name}.csv", index=False)
        once.to_csv(files / f"{name}_without.csv", index=False)
    got = run(files, "real.csv", "pred.csv", celltype_col="line")
    assert got["A"].columns["de_nsig_counts_real"] == [10.0, 8.0, 11.0, 8.0, 0.0]
    assert got["B"].columns["de_nsig_counts_real"] == [0.0] * 5
    with pytest.raises(DataError, match="no column 'line': the cells are of several lines"):
        run(files, "real_without.csv", "pred.csv", celltype_col="line")


BAD = {
    "other labels": (
        lambda t: t.replace({"target": {"g3": "TP53"}}),
        "target 'TP53' is not a pert",
    ),
    "control": (lambda t: t.replace({"target": {"g3": "ctrl"}}), "target 'ctrl' is not a pert"),
    "fewer labels": (lambda t: t[t["target"] != "pB"], "no row for perturbation 'pB'"),
    "other genes": (lambda t: t.replace({"feature": {"g3": "MYC"}}), "feature 'MYC' is not a gene"),
    "twice": (lambda t: pd.concat([t, t.iloc[[4]]]), "target 'g3', feature 'g4' occurs twice"),
    "column": (lambda t: t.drop(columns="fdr"), "no column 'fdr'"),
    "text": (lambda t: t.assign(p_value="small"), "a row cannot be read"),
    "nothing": (lambda t: t.iloc[:0], "no row for perturbation 'g3'"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("side", ["real", "pred"])
def test_tables_of_other_cells(files: Path, name: str, side: str) -> None:
    change, message = BAD[name]
    change(table(side == "pred")).to_csv(files / f"{side}.csv", index=False)
    with pytest.raises(DataError, match=message) as caught:
        run(files, "real.csv", "pred.csv")
    assert f"{side}.csv" in caught.value.where
    assert caught.value.fix
    assert not (files / "out").exists()


def test_no_table_at_all(files: Path) -> None:
    for text in ("", "\x00\x01", "target,feature\n1\n"):
        (files / "real.csv").write_text(text)
        with pytest.raises(DataError, match=r"cannot read|no column"):
            run(files, "real.csv", None)
    with pytest.raises(DataError, match="cannot read"):
        run(files, "absent.parquet", None)


def test_a_header_of_one_endless_field(files: Path) -> None:
    table = files / "endless.csv"
    table.write_text("a" * 200_000 + ",b\n1,2\n")
    with pytest.raises(DataError, match="cannot read the header of the table") as caught:
        SuppliedTable.read(table, None)
    assert "endless.csv" in str(caught.value.where)
