"""Somebody's own cells: what is predicted from them, and every way in which they can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from resealed import reseal
from scipy import sparse

from statetx.core.errors import ConfigError, DataError, ModelError, StatetxError
from statetx.data.store.store import open_store
from statetx.inference.infer import infer

CONTROL = "DMSO_TF_00"


def write(adata: anndata.AnnData, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(path)
    return path


def test_every_pair_of_the_file_from_its_own_controls(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    source = write(cells, tmp_path / "mine.h5ad")
    before = source.read_bytes()
    n = infer(model_dirs["no_change"], source, tmp_path / "out.h5ad")
    assert source.read_bytes() == before
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    treated = cells.obs[cells.obs["drug_dose"] != CONTROL]
    expected = treated.groupby(["cell_line", "drug_dose"], observed=True).size().to_dict()
    got = found.obs.groupby(["cell_line", "perturbation"], observed=True).size().to_dict()
    assert got == expected
    assert n == found.n_obs == len(treated)
    # Basal cells: controls, of the same line, of the same plate, unchanged by "no change".
    basal = cells[found.obs["control_barcode"].to_numpy()]
    assert set(basal.obs["drug_dose"]) == {CONTROL}
    assert (basal.obs["cell_line"].to_numpy() == found.obs["cell_line"].to_numpy()).all()
    assert (basal.obs["batch"].to_numpy() == found.obs["batch"].to_numpy()).all()
    np.testing.assert_array_equal(found.X, basal.obsm["X_hvg"])
    assert found.var_names.tolist() == list(cells.uns["hvg_names"])


@pytest.mark.parametrize("kind", ["context_mean", "pertsets"])
def test_gene_order_does_not_matter(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path, kind: str
) -> None:
    order = np.random.default_rng(1).permutation(cells.obsm["X_hvg"].shape[1])
    shuffled = cells.copy()
    shuffled.obsm["X_hvg"] = cells.obsm["X_hvg"][:, order]
    shuffled.uns["hvg_names"] = np.asarray(cells.uns["hvg_names"])[order]
    for name, adata in (("a", cells), ("b", shuffled)):
        infer(
            model_dirs[kind],
            write(adata, tmp_path / name / "mine.h5ad"),
            tmp_path / name / "out.h5ad",
        )
    assert (tmp_path / "a" / "out.h5ad").read_bytes() == (tmp_path / "b" / "out.h5ad").read_bytes()


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_counts_are_normalised_over_all_genes_of_the_file(
    counts_model: Path, cells: anndata.AnnData, tmp_path: Path, layout: str
) -> None:
    order = np.random.default_rng(2).permutation(cells.n_vars)
    extra = anndata.AnnData(
        sparse.csr_matrix(np.full((cells.n_obs, 2), 3.0, dtype=np.float32)), obs=cells.obs
    )
    extra.var_names = ["extra1", "extra2"]
    mine = anndata.concat([cells[:, order], extra], axis=1, merge="same")
    counts = sparse.csr_matrix(mine.X)
    mine.X = {"csr": counts, "csc": counts.tocsc(), "dense": counts.toarray()}[layout]
    infer(counts_model, write(mine, tmp_path / "mine.h5ad"), tmp_path / "out.h5ad")
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    basal = mine[found.obs["control_barcode"].to_numpy()]
    raw = sparse.csr_matrix(basal.X).toarray().astype(np.float64)
    expected = np.log1p(1e4 * raw / raw.sum(axis=1, keepdims=True))
    place = [mine.var_names.get_loc(gene) for gene in found.var_names]
    np.testing.assert_allclose(found.X, expected[:, place], rtol=1e-6)


def test_a_condition_does_not_depend_on_the_others(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    source = write(cells, tmp_path / "mine.h5ad")
    infer(model_dirs["pertsets"], source, tmp_path / "all.h5ad")
    (tmp_path / "t.csv").write_text("perturbation,cell_line\nDrug02_5,L03\n")
    infer(model_dirs["pertsets"], source, tmp_path / "one.h5ad", table=tmp_path / "t.csv")
    infer(model_dirs["pertsets"], source, tmp_path / "line.h5ad", celltypes=["L03"])
    everything, one, line = (
        anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("all", "one", "line")
    )
    for wide in (everything, line):
        same = wide[(wide.obs["perturbation"] == "Drug02_5") & (wide.obs["cell_line"] == "L03")]
        np.testing.assert_array_equal(same.X, one.X)
    assert set(line.obs["cell_line"]) == {"L03"}


def test_a_table_may_ask_for_what_was_never_measured(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    mine = cells[cells.obs["drug_dose"] == CONTROL].copy()
    source = write(mine, tmp_path / "mine.h5ad")
    table = tmp_path / "t.csv"
    table.write_text("cell_line,perturbation,n_cells\nL03,Drug02_5,75\nL01,Drug03_0.5,\n")
    infer(model_dirs["perturbation_mean"], source, tmp_path / "out.h5ad", table=table)
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    sizes = found.obs.groupby(["cell_line", "perturbation"], observed=True).size().to_dict()
    n_controls = int((mine.obs["cell_line"] == "L01").sum())
    assert sizes == {("L03", "Drug02_5"): 75, ("L01", "Drug03_0.5"): n_controls}
    # 75 cells from 60 controls: each is used once before any is used twice.
    uses = found.obs.loc[found.obs["cell_line"] == "L03", "control_barcode"].value_counts()
    assert set(uses) == {1, 2}
    assert len(uses) == int((mine.obs["cell_line"] == "L03").sum())
    basal = mine[found.obs["control_barcode"].to_numpy()]
    assert (basal.obs["batch"].to_numpy() == found.obs["batch"].to_numpy()).all()


def test_without_anything_to_predict(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    mine = cells[cells.obs["drug_dose"] == CONTROL].copy()
    with pytest.raises(DataError, match="nothing to predict"):
        infer(model_dirs["no_change"], write(mine, tmp_path / "m.h5ad"), tmp_path / "out.h5ad")


def test_other_column_names_and_another_control_label(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    model = model_dirs["context_mean"]
    infer(model, write(cells, tmp_path / "a" / "m.h5ad"), tmp_path / "a.h5ad")
    names = {"drug_dose": "pert", "cell_line": "ct", "batch": "plate"}
    mine = cells.copy()
    mine.obs = mine.obs.rename(columns=names)
    mine.obs["pert"] = mine.obs["pert"].astype(str).replace(CONTROL, "vehicle")
    mine.obsm["mine"] = mine.obsm.pop("X_hvg")
    infer(
        model,
        write(mine, tmp_path / "b" / "m.h5ad"),
        tmp_path / "b.h5ad",
        pert_col="pert",
        celltype_col="ct",
        batch_col="plate",
        control_pert="vehicle",
        embed_key="mine",
    )
    a, b = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in "ab")
    np.testing.assert_array_equal(a.X, b.X)
    ours = ["perturbation", "cell_line", "set_id", "control_barcode"]
    assert a.obs[ours].astype(str).equals(b.obs[ours].astype(str))
    # The asker's own names stand beside ours, so that the file goes with theirs.
    assert b.obs["pert"].tolist() == b.obs["perturbation"].tolist()
    assert b.obs["ct"].tolist() == b.obs["cell_line"].tolist()


def test_no_batch_column_is_said(
    model_dirs: dict[str, Path],
    cells: anndata.AnnData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del cells.obs["batch"]
    source = write(cells, tmp_path / "m.h5ad")
    infer(model_dirs["no_change"], source, tmp_path / "out.h5ad")
    assert "no obs column 'batch'" in capsys.readouterr().out
    with pytest.raises(DataError, match="no column 'batch'"):
        infer(model_dirs["no_change"], source, tmp_path / "out2.h5ad", batch_col="batch")


def relabel(adata: anndata.AnnData, old: str, new: object) -> None:
    labels = adata.obs["drug_dose"].astype(object)
    adata.obs["drug_dose"] = labels.where(labels != old, new)


@pytest.mark.parametrize("kind", ["pertsets", "context_mean", "no_change"])
def test_an_unknown_perturbation(
    model_dirs: dict[str, Path],
    cells: anndata.AnnData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    relabel(cells, "Drug02_5", "Drgu02_5")
    source = write(cells, tmp_path / "m.h5ad")
    with pytest.raises(ModelError) as caught:
        infer(model_dirs[kind], source, tmp_path / "out.h5ad")
    assert "'Drgu02_5'" in caught.value.what
    assert "did you mean 'Drug02_5'?" in str(caught.value.fix)
    assert ("a baseline could only predict" in str(caught.value.fix)) == (kind != "pertsets")
    assert not (tmp_path / "out.h5ad").exists()
    infer(model_dirs[kind], source, tmp_path / "out.h5ad", on_unknown="skip")
    assert "'Drgu02_5'" in capsys.readouterr().out
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert "Drgu02_5" not in set(found.obs["perturbation"])
    assert found.n_obs == (~cells.obs["drug_dose"].isin([CONTROL, "Drgu02_5"])).sum()


def test_nothing_but_unknown_perturbations(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    mine = cells[cells.obs["drug_dose"].isin([CONTROL, "Drug02_5"])].copy()
    relabel(mine, "Drug02_5", "aspirin")
    source = write(mine, tmp_path / "m.h5ad")
    with pytest.raises(ModelError, match="none of the 1"):
        infer(model_dirs["no_change"], source, tmp_path / "out.h5ad", on_unknown="skip")


def no_control(adata: anndata.AnnData) -> None:
    relabel(adata, CONTROL, "DMSO_TX")


def nan_label(adata: anndata.AnnData) -> None:
    relabel(adata, "Drug02_5", np.nan)


def nan_line(adata: anndata.AnnData) -> None:
    adata.obs["cell_line"] = (
        adata.obs["cell_line"].astype(object).where(adata.obs["cell_line"] != "L03")
    )


def nan_value(adata: anndata.AnnData) -> None:
    row = int(np.flatnonzero(adata.obs["drug_dose"] == CONTROL)[3])
    for row in np.flatnonzero(adata.obs["drug_dose"] == CONTROL):
        adata.obsm["X_hvg"][row, 5] = np.nan


def missing_gene(adata: anndata.AnnData) -> None:
    names = np.asarray(adata.uns["hvg_names"]).astype(object)
    names[4] = "something else"
    adata.uns["hvg_names"] = names.astype(str)


def counts_in_obsm(adata: anndata.AnnData) -> None:
    adata.obsm["X_hvg"] = np.rint(np.expm1(adata.obsm["X_hvg"])).astype(np.float32)


def no_names(adata: anndata.AnnData) -> None:
    del adata.uns["hvg_names"]


def no_column(adata: anndata.AnnData) -> None:
    adata.obs = adata.obs.rename(columns={"drug_dose": "drug_does"})


@pytest.mark.parametrize(
    ("spoil", "what", "fix"),
    [
        (no_control, "no cell has the control label 'DMSO_TF_00'", "did you mean 'DMSO_TX'?"),
        (nan_label, "obs['drug_dose'] has no label", "remove them"),
        (nan_line, "obs['cell_line'] has no label", "remove them"),
        (nan_value, "not finite", "repair"),
        (missing_gene, "1 of the model's 60 genes are missing", "genes.txt"),
        (counts_in_obsm, "looks like counts", "ln(1"),
        (no_names, "does not say which genes", "hvg_names"),
        (
            no_column,
            "obs has no column 'drug_dose'",
            "did you mean 'drug_does'? Name the right column with `--pert-col`",
        ),
    ],
)
def test_bad_cells(
    model_dirs: dict[str, Path],
    cells: anndata.AnnData,
    tmp_path: Path,
    spoil,
    what: str,
    fix: str,
) -> None:
    spoil(cells)
    source = write(cells, tmp_path / "in" / "m.h5ad")
    before = source.read_bytes()
    with pytest.raises(DataError) as caught:
        infer(model_dirs["pertsets"], source, tmp_path / "out" / "p.h5ad")
    assert what in caught.value.what
    assert fix in str(caught.value.fix)
    assert str(source) in str(caught.value.where)
    assert source.read_bytes() == before
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_missing_gene_of_x_is_named(
    counts_model: Path, cells: anndata.AnnData, tmp_path: Path
) -> None:
    gene = str(cells.var_names[17])
    mine = cells[:, cells.var_names != gene].copy()
    with pytest.raises(DataError, match=f"1 of the model's 120 genes are missing: '{gene}'"):
        infer(counts_model, write(mine, tmp_path / "m.h5ad"), tmp_path / "out.h5ad")


def test_totals_of_a_column(counts_model: Path, cells: anndata.AnnData, tmp_path: Path) -> None:
    """A model whose training counts were divided by an obs column asks for that column."""
    model = shutil.copytree(counts_model, tmp_path / "model")
    meta = json.loads((model / "model.json").read_text())
    meta["scale"]["total_counts_col"] = "n_total"
    reseal(model, meta)
    with pytest.raises(DataError, match="no column 'n_total'"):
        infer(model, write(cells, tmp_path / "m.h5ad"), tmp_path / "out.h5ad")
    depth = np.arange(cells.n_obs) + 500.0
    cells.obs["n_total"] = depth
    infer(model, write(cells, tmp_path / "m.h5ad"), tmp_path / "out.h5ad")
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    basal = cells[found.obs["control_barcode"].to_numpy()]
    raw = sparse.csr_matrix(basal.X).toarray().astype(np.float64)
    expected = np.log1p(1e4 * raw / basal.obs["n_total"].to_numpy()[:, None])
    np.testing.assert_allclose(found.X, expected, rtol=1e-6)


def test_a_line_without_controls_never_borrows_them(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    bare = (cells.obs["cell_line"] == "L03") & (cells.obs["drug_dose"] == CONTROL)
    source = write(cells[~bare.to_numpy()].copy(), tmp_path / "m.h5ad")
    with pytest.raises(DataError, match="line 'L03' has no control cells"):
        infer(model_dirs["no_change"], source, tmp_path / "out.h5ad")
    infer(model_dirs["no_change"], source, tmp_path / "out.h5ad", celltypes=["L01"])
    assert set(anndata.read_h5ad(tmp_path / "out.h5ad").obs["cell_line"]) == {"L01"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("perturbation,cell_line\nDrug02_5,L3\n", "no cell line 'L3'"),
        ("perturbation,cell_line\nDrug2_5,L03\n", "'Drug2_5'"),
        (f"perturbation,cell_line\n{CONTROL},L03\n", "is not a perturbation to predict"),
        ("perturbation,cell_line\n,L03\n", "is not a perturbation to predict"),
        ("perturbation,cell_line\nDrug02_5,L03\nDrug02_5,L03\n", "asked for twice"),
        ("perturbation,cell_line,n_cells\nDrug02_5,L03,0\n", "n_cells is '0'"),
        ("perturbation,cell_line,n_cells\nDrug02_5,L03,1.5\n", "n_cells is '1.5'"),
        ("perturbation,cell_line,n_cell\nDrug02_5,L03,3\n", "unknown column 'n_cell'"),
        ("perturbation\nDrug02_5\n", "no column 'cell_line'"),
        ("perturbation,cell_line\n", "nothing to predict"),
        ("", "cannot read the table"),
    ],
)
def test_bad_tables(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path, text: str, what: str
) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text)
    source = write(cells, tmp_path / "m.h5ad")
    with pytest.raises(StatetxError) as caught:
        infer(model_dirs["no_change"], source, tmp_path / "out.h5ad", table=table)
    assert what in caught.value.what
    assert str(table) in str(caught.value.where)
    assert not (tmp_path / "out.h5ad").exists()


def test_a_matrix_of_other_cells_than_obs(
    counts_model: Path, cells: anndata.AnnData, tmp_path: Path
) -> None:
    source = write(cells, tmp_path / "m.h5ad")
    with h5py.File(source, "r+") as file:
        n_genes = cells.n_vars
        del file["X"]
        made = file.create_dataset("X", shape=(0, n_genes), dtype="f4")
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with pytest.raises(
        DataError, match=f"X is 0 x {n_genes}, but the file has {cells.n_obs} cells"
    ):
        infer(counts_model, source, tmp_path / "out.h5ad")


def test_bad_options(model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path) -> None:
    source = write(cells, tmp_path / "m.h5ad")
    before = source.read_bytes()
    model = model_dirs["no_change"]
    with pytest.raises(ConfigError, match="is the input file"):
        infer(model, source, source)
    with pytest.raises(ConfigError, match="on_unknown is 'skipp'"):
        infer(model, source, tmp_path / "out.h5ad", on_unknown="skipp")
    with pytest.raises(DataError, match="no cell line 'L1'"):
        infer(model, source, tmp_path / "out.h5ad", celltypes=["L1"])
    with pytest.raises(DataError, match="control label 'DMSO'"):
        infer(model, source, tmp_path / "out.h5ad", control_pert="DMSO")
    with pytest.raises(DataError, match="does not exist"):
        infer(model, tmp_path / "none.h5ad", tmp_path / "out.h5ad")
    with pytest.raises(ModelError, match="not a model directory"):
        infer(tmp_path, source, tmp_path / "out.h5ad")
    assert source.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.h5ad"]


def test_a_truncated_file(
    model_dirs: dict[str, Path], cells: anndata.AnnData, tmp_path: Path
) -> None:
    source = write(cells, tmp_path / "m.h5ad")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot read this file"):
        infer(model_dirs["no_change"], source, tmp_path / "out.h5ad")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.h5ad"]


def test_the_store_itself_is_somebodys_own_file(
    model_dirs: dict[str, Path], tiny_store: Path, tmp_path: Path
) -> None:
    """A packed line is a valid h5ad: inference from it works as from any."""
    out = tmp_path / "out.h5ad"
    n = infer(model_dirs["no_change"], tiny_store / "L02.h5ad", out, pert_col="perturbation")
    conditions = open_store(tiny_store).conditions
    mine = conditions[(conditions["line"] == "L02") & ~conditions["is_control"]]
    assert n == int(mine["n_cells"].sum())
