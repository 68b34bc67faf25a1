"""Simulated data: realism that others rely on, and a truth that can be found again."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from statetx.config import Simulate
from statetx.core.errors import ConfigError
from statetx.data.simulate import CONTROL, label, line_names, plant, simulate

WIDE = Simulate(
    n_lines=2,
    n_drugs=3,
    doses=[0.1, 10.0],
    cells_per_condition=150,
    controls_per_line=600,
    n_genes=600,
    n_hvg=200,
    seed=3,
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wide")
    simulate(WIDE, out)
    return out


def test_files_hold_what_the_contract_says(wide: Path) -> None:
    assert sorted(path.name for path in wide.iterdir()) == [
        "L01.h5ad",
        "L02.h5ad",
        "truth.parquet",
    ]
    adata = anndata.read_h5ad(wide / "L01.h5ad")
    n_controls = int((adata.obs["drug_dose"] == CONTROL).sum())
    assert n_controls == WIDE.controls_per_line
    assert adata.obs["drug_dose"].nunique() == 1 + 3 * 2
    per_condition = adata.obs["drug_dose"].value_counts().drop(CONTROL)
    assert per_condition.mean() == pytest.approx(WIDE.cells_per_condition, rel=0.2)
    assert set(adata.obs["cell_line"]) == {"L01"}
    assert all(
        isinstance(adata.obs[name].dtype, pd.CategoricalDtype)
        for name in ("drug_dose", "cell_line", "batch")
    )
    assert np.array_equal(adata.X.data, np.rint(adata.X.data))
    total = np.asarray(adata.X.sum(axis=1))
    expected = np.log1p(adata.X.toarray() * 1e4 / total)
    variable = adata.var_names.get_indexer(adata.uns["hvg_names"])
    np.testing.assert_allclose(adata.obsm["X_hvg"], expected[:, variable], rtol=1e-5)
    assert adata.obsm["X_hvg"].dtype == np.float32
    assert adata.obsm["X_embedding"].shape == (adata.n_obs, 64)


def test_counts_are_sparse_and_overdispersed(tmp_path: Path) -> None:
    simulate(Simulate(n_lines=1, n_drugs=2, doses=[1.0], controls_per_line=200), tmp_path)
    adata = anndata.read_h5ad(tmp_path / "L01.h5ad")
    assert 1 - adata.X.nnz / np.prod(adata.shape) > 0.85
    counts = adata[adata.obs["drug_dose"] == CONTROL].X.toarray()
    mean, variance = counts.mean(axis=0), counts.var(axis=0)
    seen = mean > 1
    assert (variance[seen] > 1.2 * mean[seen]).mean() > 0.95, "a Poisson has variance = mean"


def test_every_plate_has_one_dose_and_controls(wide: Path) -> None:
    obs = anndata.read_h5ad(wide / "L02.h5ad").obs
    for _, cells in obs.groupby("batch", observed=True):
        assert (cells["drug_dose"] == CONTROL).any()
        doses = {name.rsplit("_", 1)[1] for name in cells["drug_dose"] if name != CONTROL}
        assert len(doses) == 1


def test_truth_is_sparse_monotone_and_partly_line_specific(wide: Path) -> None:
    truth = pd.read_parquet(wide / "truth.parquet")
    assert list(truth.columns) == ["line", "perturbation", "drug", "dose", "gene", "lfc"]
    assert (truth["lfc"] != 0).all()
    n_possible = WIDE.n_lines * WIDE.n_drugs * len(WIDE.doses) * WIDE.n_genes
    assert len(truth) < 0.1 * n_possible
    by_dose = truth.pivot_table(index=["line", "drug", "gene"], columns="dose", values="lfc")
    assert not by_dose.isna().any().any()
    assert (np.sign(by_dose[0.1]) == np.sign(by_dose[10.0])).all()
    assert (by_dose[10.0].abs() > by_dose[0.1].abs()).all()
    high = truth[truth["dose"] == 10.0].pivot_table(
        index=["drug", "gene"], columns="line", values="lfc", fill_value=0.0
    )
    different = (high["L01"] - high["L02"]).abs() > 1e-9
    assert 0.2 < different.mean() < 0.95


def test_strong_effects_are_found_in_pseudobulk(wide: Path) -> None:
    truth = pd.read_parquet(wide / "truth.parquet")
    found, planted = [], []
    for name in line_names(WIDE):
        adata = anndata.read_h5ad(wide / f"{name}.h5ad")
        for (perturbation,), rows in truth[truth["line"] == name].groupby(["perturbation"]):
            lfc = rows.set_index("gene")["lfc"].reindex(adata.var_names, fill_value=0.0).to_numpy()
            cells = adata.obs["drug_dose"] == perturbation
            plate = adata.obs.loc[cells, "batch"].iloc[0]
            basal = (adata.obs["drug_dose"] == CONTROL) & (adata.obs["batch"] == plate)
            treated = np.asarray(adata[cells].X.sum(axis=0)).ravel()
            control = np.asarray(adata[basal].X.sum(axis=0)).ravel()
            # Genes without effect give the depth ratio; a total would move with the effects.
            calm = lfc == 0
            ratio = treated / treated[calm].sum() * control[calm].sum() / np.maximum(control, 1)
            seen = (control > 100) & (treated > 20) & (np.abs(lfc) > 0.5)
            found += np.log(ratio[seen]).tolist()
            planted += lfc[seen].tolist()
    assert len(found) > 30
    assert np.corrcoef(found, planted)[0, 1] > 0.95
    assert np.polyfit(planted, found, 1)[0] == pytest.approx(1.0, abs=0.12)


def test_some_drugs_do_nothing_and_directions_differ() -> None:
    truth = plant(Simulate())
    size = np.abs(truth.effect).sum(axis=(1, 2))
    assert (size < 0.15 * np.median(size)).sum() == Simulate().n_drugs // 5
    direction = np.sign(truth.effect.sum(axis=(1, 2)))
    assert {-1.0, 1.0} <= set(direction)
    assert (np.diff(truth.hill, axis=1) > 0).all()


def test_same_settings_same_bytes_and_other_seed_other_cells(tmp_path: Path) -> None:
    small = Simulate(
        n_lines=1, n_drugs=2, doses=[1.0], cells_per_condition=5, controls_per_line=8, n_genes=40,
        n_hvg=10,
    )  # fmt: skip
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        simulate(small.model_copy(update={"seed": seed}), tmp_path / name)
    read = {name: (tmp_path / name / "L01.h5ad").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    assert (tmp_path / "a/truth.parquet").read_bytes() == (
        tmp_path / "b/truth.parquet"
    ).read_bytes()


def test_names_and_labels() -> None:
    assert line_names(Simulate(n_lines=3)) == ["L01", "L02", "L03"]
    assert label("Drug01", 0.05) == "Drug01_0.05"
    assert label("Drug01", 5.0) == "Drug01_5"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"n_hvg": 2000}, "n_hvg = 2000"), ({"doses": [1.0, 1.0]}, "different"), ({"doses": [0.0]}, "positive")],
)  # fmt: skip
def test_impossible_settings(tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        simulate(Simulate().model_copy(update=change), tmp_path)
    assert not any(tmp_path.iterdir())
