"""Pairs that do not fit, and pairs with little to score: a clear error, or a note in the row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from cell_eval_fixture import GENES, make
from line_samples import CONTROL, LINE, Line, install

from statetx.config import Evaluation
from statetx.core.errors import DataError, ResultsError
from statetx.evaluation.held_out.evaluate import evaluate_run
from statetx.evaluation.held_out.reference import reference
from statetx.evaluation.scores.columns import DROPPED, SCORED_ZERO, parse_note
from statetx.evaluation.standalone.evaluate_files import evaluate_files

Change = Callable[[ad.AnnData], ad.AnnData]


def side(predicted: bool, scale: str = "log1p") -> ad.AnnData:
    """The fixture's cells, dealt in turn to two lines."""
    counts, values, labels = make(predicted)
    names = [f"c{i}" for i in range(len(labels))]
    lines = np.where(np.arange(len(labels)) % 2, "B", "A")
    obs = pd.DataFrame({"drug": labels, "line": lines}, index=names)
    out = ad.AnnData(counts if scale == "counts" else values, obs, pd.DataFrame(index=GENES))
    out.obsm["emb"] = values[:, :5].copy()
    return out


def same(cells: ad.AnnData) -> ad.AnnData:
    return cells


def without(column: str, *values: str) -> Change:
    return lambda cells: cells[~cells.obs[column].isin(values)].copy()


def named(column: str, old: str, new: str) -> Change:
    def change(cells: ad.AnnData) -> ad.AnnData:
        cells.obs[column] = cells.obs[column].astype(str).replace(old, new)
        return cells

    return change


def thinned(label: str, n: int) -> Change:
    """Keep `n` cells of a label."""

    def change(cells: ad.AnnData) -> ad.AnnData:
        keep = np.ones(len(cells), dtype=bool)
        keep[np.flatnonzero(cells.obs["drug"] == label)[n:]] = False
        return cells[keep].copy()

    return change


def other_genes(cells: ad.AnnData) -> ad.AnnData:
    cells.var_names = ["z0", "z1", *GENES[2:]]
    return cells


def no_embedding(cells: ad.AnnData) -> ad.AnnData:
    del cells.obsm["emb"]
    return cells


def broken_embedding(cells: ad.AnnData) -> ad.AnnData:
    cells.obsm["emb"][4, 1] = np.nan
    return cells


def short_embedding(cells: ad.AnnData) -> ad.AnnData:
    cells.obsm["emb"] = cells.obsm["emb"][:, :3].copy()
    return cells


def no_control_in_a(cells: ad.AnnData) -> ad.AnnData:
    return cells[~((cells.obs["drug"] == "ctrl") & (cells.obs["line"] == "A"))].copy()


def evaluate(home: Path, pred: ad.AnnData, real: ad.AnnData, **options: Any) -> Any:
    pred.write_h5ad(home / "pred.h5ad")
    real.write_h5ad(home / "real.h5ad")
    files = home / "pred.h5ad", home / "real.h5ad"
    return evaluate_files(*files, "drug", "ctrl", out=home / "out", **options)


IN_LINES, EMBEDDED, COUNTS = {"celltype_col": "line"}, {"embed_key": "emb"}, {"scale": "counts"}
# What is changed of predicted and real cells, options, file at fault, what it says, how to mend.
PAIRS: dict[str, tuple[Change, Change, dict[str, str], str, str, str]] = {
    "genes": (other_genes, same, {}, "pred", r"2 \('g0', 'g1'\) only real, 2 \('z0', 'z1'\) only pred", "give the prediction"),
    "predicted line": (without("line", "B"), same, IN_LINES, "pred", "prediction does not contain 1 of 2 cell lines: 'B'", "--common-only"),
    "real line": (same, without("line", "B"), IN_LINES, "real", "real cells do not contain 1 of 2 predicted cell lines: 'B'", "--common-only"),
    "predicted label": (without("drug", "pA"), same, {}, "pred", "does not contain 1 of 5 perturbations of cell line 'all': 'pA'", "--common-only"),
    "real label": (same, without("drug", "pA"), {}, "real", "cells do not contain 1 of 5 predicted .*'pA'", "--common-only"),
    "real control": (same, without("drug", "ctrl"), {}, "real", "no control cells 'ctrl'", "known: 'g3'"),
    "one line's control": (same, no_control_in_a, IN_LINES, "real", "'ctrl' in cell line 'A'", "known: 'g3'"),
    "nothing but controls": (
        *(without("drug", "g3", "g7", "pA", "pB", "pC"),) * 2, {}, "pred", "only control cells", "ctrl",
    ),
    "real counts": (same, lambda _: side(False, "counts"), {}, "real", "not log1p values: all", "Set scale to counts"),
    "predicted log1p": (same, lambda _: side(False, "counts"), COUNTS, "pred", "not counts", "Set scale to log1p"),
    "predicted embedding": (no_embedding, same, EMBEDDED, "pred", "no obsm matrix 'emb'", "none"),
    "real embedding": (same, no_embedding, EMBEDDED, "real", "no obsm matrix 'emb'", "none"),
    "short embedding": (short_embedding, same, EMBEDDED, "pred", "5 dimensions", "same model"),
    "broken embedding": (broken_embedding, same, EMBEDDED, "pred", "1 values are NaN", "without it"),
    "empty label": (named("drug", "pA", ""), named("drug", "pA", ""), {}, "real", "no label in 20", "label"),
    "blank label": (named("drug", "pA", " "), same, {}, "pred", "no label in 20", "label"),
    "empty line": (named("line", "A", ""), same, IN_LINES, "pred", "no label in 91", "label"),
    "no cells": (lambda cells: cells[:0].copy(), same, {}, "pred", "holds no cells", "right file"),
    "no genes": (lambda cells: cells[:, :0].copy(), same, {}, "pred", "holds no genes", "right file"),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS)
def test_files_that_do_not_fit(case: str, tmp_path: Path) -> None:
    change_pred, change_real, options, fault, message, fix = PAIRS[case]
    with pytest.raises(DataError, match=message) as caught:
        evaluate(tmp_path, change_pred(side(True)), change_real(side(False)), **options)
    assert caught.value.where is not None
    assert str(tmp_path / f"{fault}.h5ad") in caught.value.where
    assert fix in (caught.value.fix or "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["pred", "real"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_files(which: str, share: float, tmp_path: Path) -> None:
    evaluate(tmp_path, side(True), side(False), profile="pds")
    path = tmp_path / f"{which}.h5ad"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    files = tmp_path / "pred.h5ad", tmp_path / "real.h5ad"
    with pytest.raises(DataError, match="cannot read") as caught:
        evaluate_files(*files, "drug", "ctrl", out=tmp_path / "again")
    assert caught.value.where == str(path)
    assert "copy or write it again" in (caught.value.fix or "")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("n", [1, 2])
def test_labels_with_one_or_two_cells(n: int, tmp_path: Path) -> None:
    few = thinned("pA", n)
    scores = evaluate(tmp_path, few(side(True)), few(side(False)))["all"].scores
    notes = scores.set_index("perturbation")["note"].map(parse_note)
    own = scores.set_index("perturbation").loc["pA"]
    if n == 1:
        assert notes["pA"] == {DROPPED: "fewer than 2 cells on a side"}
        assert np.isnan(own["pearson_delta"])
    else:
        assert np.isfinite(
            own[["pearson_delta", "pds_cosine", "mse_unbiased", "energy"]].astype(float)
        ).all()
        assert notes["pA"]["de_mcc"] == "no significant gene in the real cells"
    assert all(DROPPED not in notes[label] for label in ("g3", "g7", "pB", "pC"))


def test_no_significant_gene_anywhere(tmp_path: Path) -> None:
    """Control cells under the names of drugs, on the real side."""

    def nothing(cells: ad.AnnData) -> ad.AnnData:
        controls = cells[cells.obs["drug"] == "ctrl"].copy()
        controls.obs["drug"] = np.resize(["ctrl", "pA", "pB"], len(controls))
        return controls

    result = evaluate(tmp_path, nothing(side(True)), nothing(side(False)))["all"]
    assert result.columns["de_nsig_counts_real"] == [0, 0]
    for row in result.scores.to_dict("records"):
        notes = parse_note(row["note"])
        for column in ("de_mcc", "direction_fidelity", "direction_reach", "lfc_nmae"):
            assert np.isnan(row[column])
            assert notes[column] == "no significant gene in the real cells"
        assert np.isfinite([row["pearson_delta"], row["energy"], row["mse_unbiased"]]).all()


def test_one_perturbation_only(tmp_path: Path) -> None:
    one = without("drug", "g3", "g7", "pA", "pC")
    result = evaluate(tmp_path, one(side(True)), one(side(False)))["all"]
    assert result.labels == ["pB"]
    row = result.scores.iloc[0]
    assert np.isnan(row["pds_cosine"])
    assert "nothing to tell apart" in parse_note(row["note"])["pds_cosine"]
    assert row["pearson_delta"] > 0.5


def test_constant_predictions(tmp_path: Path) -> None:
    """The real control's profile for every cell: no effect at all, so no correlation either."""
    pred, real = side(True), side(False)
    pred.X[:] = real.X[real.obs["drug"] == "ctrl"].mean(axis=0)
    scores = evaluate(tmp_path, pred, real)["all"].scores
    assert (scores["pearson_delta"] == 0).all()
    assert (scores["pds_cosine"] == 0.5).all()
    assert (scores["spread_ratio"] < 1e-12).all()
    assert all(parse_note(note)["pearson_delta"] == SCORED_ZERO for note in scores["note"])


def test_a_drug_that_is_called_like_a_gene(tmp_path: Path) -> None:
    """g3 is a gene of the fixture, g3x is none: our scores leave no gene out for its name."""
    tables = []
    for number, name in enumerate(("g3", "g3x")):
        home = tmp_path / str(number)
        home.mkdir()
        renamed = named("drug", "g3", name)
        scores = evaluate(home, renamed(side(True)), renamed(side(False)))["all"].scores
        tables.append(scores.drop(columns=["perturbation", "drug"]))
    pd.testing.assert_frame_equal(*tables)


# ---------------------------------------------------------------------------------------------
# the road: predictions of a line against the store


G = 40
SETTINGS = Evaluation(max_cells=200)


def line_of(cells: dict[str, int], effect: float = 0.5, controls: int = 60) -> Line:
    rng = np.random.default_rng(8)
    parts = {CONTROL: [("a", controls, np.zeros(G))]} if controls else {}
    parts |= {name: [("a", n, effect * rng.normal(size=G))] for name, n in cells.items()}
    return Line(parts, {"a": np.zeros(G)})


def road(
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    line: Line,
    change: Callable[[ad.AnnData], ad.AnnData | None] = same,
    damage: Callable[[Path], None] = lambda path: None,
    tested: list[str] | None = None,
) -> pd.DataFrame:
    """Reference and evaluation of a prediction that is nearly right; its scores by label."""
    tested = [name for name in line.parts if name != CONTROL] if tested is None else tested
    plan = install(monkeypatch, line, tested, home)
    reference("store", plan, LINE, SETTINGS, home / "reference")
    rows = np.concatenate([line.rows(name) for name in tested])
    noise = np.random.default_rng(9).normal(0, 0.2, (len(rows), G))
    obs = pd.DataFrame(
        {"perturbation": line.labels[rows]}, index=[f"c{i}" for i in range(len(rows))]
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(G)])
    pred = ad.AnnData((line.cells[rows] + noise).astype(np.float32), obs, var)
    (change(pred) or pred).write_h5ad(home / "pred.h5ad")
    damage(home / "pred.h5ad")
    args = ("store", plan, LINE, home / "pred.h5ad", home / "reference", SETTINGS)
    evaluate_run(*args, home / "scores")
    return pd.read_csv(home / "scores" / "scores.csv").set_index("perturbation")


def cut(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])

    return damage


def no_x(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["X"]


def short_x(path: Path) -> None:
    with h5py.File(path, "a") as file:
        x = file["X"][:-1]
        del file["X"]
        file["X"] = x


def renamed_genes(pred: ad.AnnData) -> None:
    pred.var_names = ["z0", "z1", *pred.var_names[2:]]


def empty_label(pred: ad.AnnData) -> None:
    pred.obs["perturbation"] = pred.obs["perturbation"].astype(str).replace("D1", "")


def of_another_line(pred: ad.AnnData) -> None:
    pred.obs["cell_line"] = "L2"


def as_counts(pred: ad.AnnData) -> None:
    pred.X = np.rint(pred.X)


def untouched(path: Path) -> None:
    """Leave the file as it is."""


ROAD: dict[str, tuple[Callable[..., Any], Callable[[Path], None], str]] = {
    "genes": (renamed_genes, untouched, r"2 in the store only \('g0', 'g1'\), 2 predicted only \('z0', 'z1'\)"),
    "empty label": (empty_label, untouched, "no predicted cells for 'D1'"),
    "line": (of_another_line, untouched, "cells of 'L2', not of 'L1'"),
    "counts": (as_counts, untouched, "not log1p values: all values are whole"),
    "no X": (same, no_x, "cannot read the predictions"),
    "short X": (same, short_x, "X is 59 x 40, but the file has 60 cells and 40 genes"),
    "cut at 10 %": (same, cut(0.1), "cannot read the predictions"),
    "cut at 95 %": (same, cut(0.95), "cannot read the predictions"),
    "missing": (same, Path.unlink, "cannot read the predictions"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROAD)
def test_predictions_that_do_not_fit(case: str, monkeypatch, tmp_path: Path) -> None:
    change, damage, message = ROAD[case]
    with pytest.raises(ResultsError, match=message) as caught:
        road(monkeypatch, tmp_path, line_of({"D1": 20, "D2": 20, "D3": 20}), change, damage)
    assert str(tmp_path / "pred.h5ad") in (caught.value.where or "")
    assert "predict again" in (caught.value.fix or "")
    assert not (tmp_path / "scores").exists()


def test_conditions_with_one_or_two_cells_on_the_road(monkeypatch, tmp_path: Path) -> None:
    table = road(monkeypatch, tmp_path, line_of({"D1": 1, "D2": 2, "D3": 30, "D4": 30}))
    assert DROPPED in parse_note(table.loc["D1", "note"])
    assert np.isnan(table.loc["D1", "pearson_delta"])
    for name in ("D2", "D3", "D4"):
        assert np.isfinite(table.loc[name, ["pearson_delta", "energy"]].astype(float)).all()
    assert pd.read_csv(tmp_path / "scores" / "results.csv")["perturbation"].tolist() == list(
        table.index
    )


def test_no_significant_gene_on_the_road(monkeypatch, tmp_path: Path) -> None:
    table = road(monkeypatch, tmp_path, line_of({"D1": 20, "D2": 20, "D3": 20}, effect=0.0))
    for column in ("de_mcc", "direction_fidelity", "direction_reach", "lfc_nmae"):
        assert table[column].isna().all()
        assert all("no significant gene" in parse_note(note)[column] for note in table["note"])


def test_one_perturbation_on_the_road(monkeypatch, tmp_path: Path) -> None:
    line = line_of({"D1": 20, "D2": 20})
    table = road(monkeypatch, tmp_path, line, tested=["D1"])
    assert table.index.tolist() == ["D1"]
    assert "nothing to tell apart" in parse_note(table.loc["D1", "note"])["pds_cosine"]
    assert table.loc["D1", "pearson_delta"] > 0.9


def test_constant_predictions_on_the_road(monkeypatch, tmp_path: Path) -> None:
    line = line_of({"D1": 20, "D2": 20, "D3": 20})
    control = line.cells[line.rows(CONTROL)].mean(axis=0)

    def constant(pred: ad.AnnData) -> None:
        pred.X[:] = control

    table = road(monkeypatch, tmp_path, line, constant)
    assert (table["pearson_delta"] == 0).all()
    assert (table["pds_cosine"] == 0.5).all()
    assert all(parse_note(note)["pearson_delta"] == SCORED_ZERO for note in table["note"])


def test_a_drug_that_is_called_like_a_gene_on_the_road(monkeypatch, tmp_path: Path) -> None:
    tables = []
    for number, name in enumerate(("g3", "g3x")):
        home = tmp_path / str(number)
        home.mkdir()
        line = line_of({"D1": 20, name: 20, "x": 20})
        tables.append(road(monkeypatch, home, line).drop(columns="drug").reset_index(drop=True))
    pd.testing.assert_frame_equal(*tables)


def test_a_line_with_one_control(monkeypatch, tmp_path: Path) -> None:
    """One without any is refused when the store is packed."""
    with pytest.raises(ResultsError, match="'L1' has fewer than 2 control cells") as caught:
        road(monkeypatch, tmp_path, line_of({"D1": 20, "D2": 20}, controls=1))
    assert "from the test set" in (caught.value.fix or "")
