"""Baselines on somebody's cells move from these cells' own controls, whatever their line is called."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from statetx.core.errors import ConfigError, DataError
from statetx.data.store.store import open_store
from statetx.inference.infer import infer
from statetx.inference.write_predictions import Request, write_predictions
from statetx.models.model_dir import load

CONTROL = "DMSO_TF_00"
MOVED = ["context_mean", "perturbation_mean", "additive", "ridge", "nearest_drug"]


def predicted(model: Path, cells: anndata.AnnData, home: Path, **options) -> anndata.AnnData:
    home.mkdir(parents=True, exist_ok=True)
    cells.write_h5ad(home / "mine.h5ad")
    infer(model, home / "mine.h5ad", home / "out.h5ad", **options)
    return anndata.read_h5ad(home / "out.h5ad")


def said(found: anndata.AnnData) -> dict:
    return json.loads(found.uns["statetx"])


@pytest.fixture
def renamed(cells: anndata.AnnData) -> anndata.AnnData:
    """Cells of L03 that are called L01, a line that was trained."""
    mine = cells[cells.obs["cell_line"] == "L03"].copy()
    mine.obs["cell_line"] = pd.Categorical(["L01"] * mine.n_obs)
    return mine


@pytest.mark.parametrize("kind", MOVED)
def test_the_mean_of_the_own_controls_is_moved(model_dirs, renamed, tmp_path: Path, kind: str):
    found = predicted(model_dirs[kind], renamed, tmp_path)
    model = load(model_dirs[kind]).predictor
    own = renamed[renamed.obs["drug_dose"] == CONTROL].obsm["X_hvg"].mean(axis=0, dtype=np.float64)
    for label in ("Drug02_5", "Drug03_0.5"):
        delta, _ = model.delta("L01", label)
        got = found[found.obs["perturbation"] == label].X.mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(got, np.maximum(own + delta, 0.0), rtol=1e-5, atol=1e-5)
        assert found.X.max() <= np.log1p(1e4) + 1e-5
        trained = model._controls.mean_of_line("L01", got[None])
        assert np.abs(own - trained).max() > 0.3  # the lines differ: the test would see a leak


@pytest.mark.parametrize("kind", ["no_change", "pertsets"])
def test_a_name_alone_changes_nothing(model_dirs, renamed, tmp_path: Path, kind: str) -> None:
    """Models that know no lines: the same basal cells, the same answer."""
    model, cells = load(model_dirs[kind]), renamed[:20].obsm["X_hvg"]
    as_trained = model.predict(cells, "L01", "Drug02_5").cells
    np.testing.assert_array_equal(as_trained, model.predict(cells, "nobody", "Drug02_5").cells)


@pytest.mark.parametrize("kind", MOVED)
def test_all_controls_of_a_trained_line_give_what_the_model_holds(
    model_dirs, cells, tmp_path: Path, kind: str
) -> None:
    """On the training data's own file nothing changes."""
    model = load(model_dirs[kind]).predictor
    controls = cells[cells.obs["drug_dose"] == CONTROL]
    for line in ("L01", "L03"):
        own = controls[controls.obs["cell_line"] == line].obsm["X_hvg"].mean(0, dtype=np.float64)
        np.testing.assert_allclose(
            model._controls.mean_of_line(line, own[None]), own, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("rule", ["0", "control_mean"])
def test_a_few_missing_genes_are_filled(
    model_dirs, cells, tmp_path: Path, capsys, tiny_store, rule: str
) -> None:
    expected = predicted(model_dirs["no_change"], cells, tmp_path / "all")
    names = np.asarray(cells.uns["hvg_names"])
    gone = [2, 40]
    kept = np.setdiff1d(np.arange(len(names)), gone)
    cells.obsm["X_hvg"], cells.uns["hvg_names"] = cells.obsm["X_hvg"][:, kept], names[kept]
    with pytest.raises(DataError, match="2 of the model's 60 genes are missing") as caught:
        predicted(model_dirs["no_change"], cells, tmp_path / "error")
    assert "--fill-missing" in str(caught.value.fix)
    found = predicted(model_dirs["no_change"], cells, tmp_path / rule, fill_missing=rule)
    np.testing.assert_array_equal(found.X[:, kept], expected.X[:, kept])
    filled = np.zeros(2)
    if rule == "control_mean":  # of the training controls, each line counting equally
        store = open_store(tiny_store)
        lines = [store.line(name) for name in store.lines]
        means = [line.expression(line.rows(CONTROL)).mean(axis=0, dtype=float) for line in lines]
        filled = np.mean(means, axis=0)[gone]
        assert filled.min() > 0
    np.testing.assert_allclose(found.X[:, gone], np.tile(filled, (found.n_obs, 1)), rtol=1e-5)
    about = said(found)["expression"]["filled"]
    assert about == {"rule": rule, "share": 2 / 60, "genes": names[gone].tolist()}
    assert "2 of the model's 60 genes (3.3%) are missing" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["perturbation_mean", "pertsets"])
def test_models_predict_from_filled_genes(model_dirs, cells, tmp_path: Path, kind: str) -> None:
    cells.obsm["X_hvg"] = cells.obsm["X_hvg"][:, :-1]
    cells.uns["hvg_names"] = np.asarray(cells.uns["hvg_names"])[:-1]
    found = predicted(model_dirs[kind], cells, tmp_path, fill_missing="control_mean")
    assert found.n_vars == 60
    assert np.isfinite(found.X).all()


def test_most_genes_are_never_filled(model_dirs, cells, tmp_path: Path) -> None:
    cells.obsm["X_hvg"] = cells.obsm["X_hvg"][:, 7:]
    cells.uns["hvg_names"] = np.asarray(cells.uns["hvg_names"])[7:]
    with pytest.raises(
        DataError, match=r"7 of the model's 60 genes \(11.7%\) .* more than the 10%"
    ):
        predicted(model_dirs["no_change"], cells, tmp_path, fill_missing="0")
    with pytest.raises(ConfigError, match="--fill-missing is 'mean'"):
        predicted(model_dirs["no_change"], cells, tmp_path, fill_missing="mean")


def test_more_cells_than_controls_is_said(model_dirs, cells, tmp_path: Path, capsys) -> None:
    mine = cells[cells.obs["drug_dose"] == CONTROL].copy()
    table = tmp_path / "t.csv"
    table.write_text("cell_line,perturbation,n_cells\nL03,Drug02_5,75\nL01,Drug03_0.5,10\n")
    found = predicted(model_dirs["no_change"], mine, tmp_path, table=table)
    assert (
        "1 of 2 conditions ask for more cells than there are controls of their batch and line: controls "
        "serve more than once (at most 75 cells of ('L03', 'Drug02_5') from 60 of 60 controls)"
    ) in capsys.readouterr().out
    assert said(found)["controls"] == {
        "matched_by": ["cell_line", "batch"],
        "repeated": 15,
        "other_batch": 0,
    }


def test_batches_without_controls_are_said(model_dirs, cells, tmp_path: Path, capsys) -> None:
    treated = cells.obs["drug_dose"] != CONTROL
    cells.obs["batch"] = cells.obs["batch"].astype(object).where(treated, "of its own")
    found = predicted(model_dirs["no_change"], cells, tmp_path)
    n = int(treated.sum())
    assert f"{n} of {n} cells are in batches without controls of their line" in (
        capsys.readouterr().out
    )
    assert said(found)["controls"]["other_batch"] == n
    del cells.obs["batch"]
    found = predicted(model_dirs["no_change"], cells, tmp_path)
    assert "no obs column 'batch'" in capsys.readouterr().out
    assert said(found)["controls"]["matched_by"] == ["cell_line"]


class Source:
    """Basal cells of a made line."""

    def __init__(self, cells: np.ndarray) -> None:
        self.cells = cells

    def expression(self, rows: np.ndarray) -> np.ndarray:
        return self.cells[rows]

    def names(self, rows: np.ndarray) -> np.ndarray:
        return rows.astype(str).astype(object)


def test_impossible_predictions_are_cut_and_counted(model_dirs, tmp_path: Path, caplog) -> None:
    model = load(model_dirs["no_change"])
    cells = np.full((3, 60), 9.2, dtype=np.float32)
    cells[1, :4] = 17.7
    request = Request("L", "Drug02_5", np.arange(3), np.full(3, "b", dtype=object))
    write_predictions(tmp_path / "out.h5ad", model, [request], lambda _: Source(cells), {}, 1e4)
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert found.X.max() == np.float32(np.log1p(1e4))
    assert (np.minimum(cells, found.X.max()) == found.X).all()
    assert said(found)["values_bounded"] == 4
    assert "4 of 180 predicted values exceeded ln(1 + 10000) = 9.21" in caplog.text
