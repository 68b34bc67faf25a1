"""Whatever way somebody's cells were normalised: the right answer, or one error with the evidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from resealed import reseal
from scipy import sparse

from statetx.core.errors import DataError
from statetx.inference.infer import infer
from statetx.inference.recognise_normalisation import recognise, target_sum_of

SCALES: dict[str, tuple[float | None, Callable[[np.ndarray], np.ndarray]]] = {
    "counts": (None, lambda x: x),
    "log of counts": (None, np.log1p),
    "10,000": (1e4, np.log1p),
    "million": (1e6, np.log1p),
    "2,000": (2e3, np.log1p),
    "median": (-1.0, np.log1p),
    "log2": (1e4, np.log2),
    "log2 of a million": (1e6, np.log2),
    "log10": (1e4, np.log10),
    "not logged": (1e4, lambda x: x),
}
OF_COUNTS = ("counts", "log of counts")


def scaled(counts: np.ndarray, scale: str) -> np.ndarray:
    """Counts of all genes [n, G] in another scale, float32."""
    target, log = SCALES[scale]
    total = counts.sum(axis=1, keepdims=True)
    if target is not None:
        counts = (counts / total) * (np.median(total) if target < 0 else target)
    plus = 1.0 if log in (np.log2, np.log10) else 0.0
    return log(counts + plus).astype(np.float32)


def counts_of(cells: anndata.AnnData) -> np.ndarray:
    return sparse.csr_matrix(cells.X).toarray().astype(np.float64)


def predicted(model: Path, cells: anndata.AnnData, home: Path, **options: str) -> anndata.AnnData:
    home.mkdir(parents=True, exist_ok=True)
    cells.write_h5ad(home / "mine.h5ad")
    infer(model, home / "mine.h5ad", home / "out.h5ad", **options)
    return anndata.read_h5ad(home / "out.h5ad")


def said(found: anndata.AnnData) -> dict:
    return json.loads(found.uns["statetx"])


def same(a: anndata.AnnData, b: anndata.AnnData, tolerance: float = 2e-5) -> None:
    assert a.obs.equals(b.obs)
    np.testing.assert_allclose(a.X, b.X, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="session")
def right(model_dirs, counts_model, two_lines, tmp_path_factory) -> dict[str, anndata.AnnData]:
    """What comes from the file as the model was trained on it."""
    home = tmp_path_factory.mktemp("right")
    models = {"X": counts_model, **{k: model_dirs[k] for k in ("no_change", "pertsets")}}
    return {name: predicted(model, two_lines, home / name) for name, model in models.items()}


@pytest.mark.parametrize("scale", SCALES)
def test_all_genes_in_any_scale(counts_model, right, cells, tmp_path: Path, scale: str) -> None:
    cells.X = sparse.csr_matrix(scaled(counts_of(cells), scale))
    found = predicted(counts_model, cells, tmp_path)
    same(found, right["X"])
    assert said(found)["target_sum"] == 1e4
    about = said(found)["expression"]
    assert about["matrix"] == "X"
    expected = {"million": 1e6, "2,000": 2e3, "log2": 1e4}
    if scale in expected:
        assert about["target_sum"] == pytest.approx(expected[scale])


@pytest.mark.parametrize("scale", SCALES)
def test_chosen_genes_from_x(model_dirs, right, cells, tmp_path: Path, capsys, scale: str) -> None:
    """A model of X_hvg and a file without that matrix."""
    del cells.obsm["X_hvg"]
    cells.X = scaled(counts_of(cells), scale)
    found = predicted(model_dirs["pertsets"], cells, tmp_path)
    same(found, right["pertsets"], 1e-4)
    assert "taken from X" in capsys.readouterr().out


@pytest.mark.parametrize("scale", SCALES)
def test_chosen_genes_in_any_scale(model_dirs, right, cells, tmp_path: Path, scale: str) -> None:
    place = [cells.var_names.get_loc(gene) for gene in cells.uns["hvg_names"]]
    cells.obsm["X_hvg"] = scaled(counts_of(cells), scale)[:, place]
    if scale in OF_COUNTS:
        with pytest.raises(DataError, match="looks like counts"):
            predicted(model_dirs["no_change"], cells, tmp_path)
    elif scale == "not logged":
        with pytest.raises(DataError, match=r"target sum|looks like counts"):
            predicted(model_dirs["no_change"], cells, tmp_path)
    else:
        same(predicted(model_dirs["no_change"], cells, tmp_path), right["no_change"])


@pytest.mark.parametrize("n_others", [0, 20])
@pytest.mark.parametrize("scale", SCALES)
def test_a_file_without_most_other_genes(
    model_dirs, right, cells, tmp_path: Path, scale: str, n_others: int
) -> None:
    """Log values still show their target sum; totals of counts are lost with the genes."""
    del cells.obsm["X_hvg"]
    chosen = [str(gene) for gene in cells.uns["hvg_names"]]
    chosen += [gene for gene in cells.var_names if gene not in set(chosen)][:n_others]
    counts = counts_of(cells)
    cells.X = scaled(counts, scale)
    cells.obs["n_all"] = counts.sum(axis=1)
    few = cells[:, chosen].copy()
    if scale in OF_COUNTS:
        with pytest.raises(DataError, match="does not seem to cover all measured genes") as caught:
            predicted(model_dirs["no_change"], few, tmp_path)
        assert "--total-counts-col" in str(caught.value.fix)
        found = predicted(model_dirs["no_change"], few, tmp_path, total_counts_col="n_all")
        same(found, right["no_change"])
    elif scale == "not logged":
        with pytest.raises(DataError, match=r"target sum|cover all"):
            predicted(model_dirs["no_change"], few, tmp_path)
    else:
        same(predicted(model_dirs["no_change"], few, tmp_path), right["no_change"])


@pytest.mark.parametrize("matrix", ["X", "X_hvg"])
def test_values_that_were_normalised_within_the_chosen_genes(
    model_dirs, cells, tmp_path: Path, matrix: str
) -> None:
    few = cells[:, [str(gene) for gene in cells.uns["hvg_names"]]].copy()
    values = scaled(counts_of(few), "10,000")
    if matrix == "X":
        few.X = values
        del few.obsm["X_hvg"]
    else:
        few.obsm["X_hvg"] = values
    with pytest.raises(DataError, match="does not seem to cover all measured genes"):
        predicted(model_dirs["no_change"], few, tmp_path)


@pytest.mark.parametrize("scale", ["10,000", "million", "2,000"])
def test_values_that_hide_their_counts(model_dirs, right, cells, tmp_path, scale: str) -> None:
    """Rounded values show nothing but their sums."""
    place = [cells.var_names.get_loc(gene) for gene in cells.uns["hvg_names"]]
    values = scaled(counts_of(cells), scale)[:, place]
    cells.obsm["X_hvg"] = np.round(values, 2)
    if scale == "10,000":
        found = predicted(model_dirs["no_change"], cells, tmp_path)
        same(found, right["no_change"], 0.01)
        assert "not certain" in said(found)["expression"]["done"]
        return
    with pytest.raises(
        DataError, match=r"of another target sum than the model's 10,000.*: .* sum to"
    ):
        predicted(model_dirs["no_change"], cells, tmp_path)


@pytest.mark.parametrize("other", ["million", "2,000", "median"])
def test_parts_of_a_file_that_were_normalised_apart(
    counts_model, model_dirs, right, cells, tmp_path: Path, other: str
) -> None:
    """Over all genes each cell shows its own sum; chosen genes only show that something is wrong."""
    counts = counts_of(cells)
    half = (np.arange(len(counts)) % 2 == 0)[:, None]
    cells.X = np.where(half, scaled(counts, "10,000"), scaled(counts, other))
    same(predicted(counts_model, cells, tmp_path / "all"), right["X"])
    place = [cells.var_names.get_loc(gene) for gene in cells.uns["hvg_names"]]
    cells.obsm["X_hvg"] = np.asarray(cells.X)[:, place]
    with pytest.raises(DataError, match="different target sums"):
        predicted(model_dirs["no_change"], cells, tmp_path / "few")


def test_a_few_cells_of_another_scale(counts_model, cells, tmp_path: Path, monkeypatch) -> None:
    """The cells that show the scale may all be of one; the others are compared with them."""
    monkeypatch.setattr("statetx.inference.own_cells.EVIDENCE_ROWS", 20)
    counts = counts_of(cells)
    values = scaled(counts, "10,000")
    controls = np.flatnonzero((cells.obs["drug_dose"] == "DMSO_TF_00").to_numpy())
    values[controls[[1, 4]]] = scaled(counts, "million")[controls[[1, 4]]]
    cells.X = values
    with pytest.raises(DataError, match="different target sums: the cell in row"):
        predicted(counts_model, cells, tmp_path)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_controls(counts_model, model_dirs, cells, tmp_path: Path, n: int) -> None:
    """One cell alone cannot show that its sum is everybody's."""
    line = cells[cells.obs["cell_line"] == "L03"]
    control = (line.obs["drug_dose"] == "DMSO_TF_00").to_numpy()
    few = line[np.sort(np.r_[np.flatnonzero(control)[:n], np.flatnonzero(~control)[:30]])].copy()
    expected = predicted(counts_model, few, tmp_path / "counts")
    few.X = scaled(counts_of(few), "10,000")
    same(predicted(counts_model, few, tmp_path / "log"), expected)
    few.X = np.log1p(np.expm1(few.X) / 5)
    if n < 3:
        with pytest.raises(DataError, match="not certain"):
            predicted(counts_model, few, tmp_path / "other")
    else:
        same(predicted(counts_model, few, tmp_path / "other"), expected)


def test_a_model_whose_own_cells_show_another_target_sum_than_it_states(
    model_dirs, right, cells, tmp_path: Path
) -> None:
    """Training on X_hvg takes any target_sum for granted; the cells in the model's directory do not lie."""
    import shutil

    model = shutil.copytree(model_dirs["no_change"], tmp_path / "model")
    meta = json.loads((model / "model.json").read_text())
    meta["scale"]["target_sum"] = 4e4
    meta["controls"]["share"] = [share / 4 for share in meta["controls"]["share"]]
    reseal(model, meta)
    found = predicted(model, cells, tmp_path / "out")
    np.testing.assert_array_equal(found.X, right["no_change"].X)
    assert said(found)["target_sum"] == 1e4
    assert "own control cells" in said(found)["expression"]["target_sum_of_model_from"]


def test_training_cells_without_a_common_sum(
    tiny_source, tiny_plan, tiny_settings, cells, tmp_path: Path
) -> None:
    """Size factors of their own per cell, as scran gives: the training data's own file is right."""
    from statetx.config import NoChange
    from statetx.data.pack.pack import pack
    from statetx.training.fit import fit

    def deconvolved(adata: anndata.AnnData) -> anndata.AnnData:
        factors = 10.0 + 45.0 * np.random.default_rng(adata.n_obs).random((adata.n_obs, 1))
        adata.X = np.log1p(factors * counts_of(adata)).astype(np.float32)
        return adata

    files = []
    for path in sorted(tiny_source.glob("*.h5ad")):
        files.append(tmp_path / path.name)
        deconvolved(anndata.read_h5ad(path)).write_h5ad(files[-1])
    changes = {"expression_key": None, "embed_keys": [], "scale": "log1p"}
    pack(files, tiny_settings.model_copy(update=changes), "tiny", tmp_path / "pack")
    model = tmp_path / "model"
    section, places = NoChange(kind="no_change"), (tmp_path / "state", tmp_path / "checkpoints")
    fit(tmp_path / "pack", tiny_plan, section, 0, model, *places)
    mine = deconvolved(cells)
    assert np.expm1(mine.X).sum(axis=1).max() > 1e4
    found = predicted(model, mine, tmp_path / "out")
    basal = mine[found.obs["control_barcode"].to_numpy()]
    place = [mine.var_names.get_loc(gene) for gene in found.var_names]
    np.testing.assert_allclose(found.X, basal.X[:, place], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("depth", [400, 5_000, 60_000])
def test_chosen_genes_of_any_depth_show_their_target_sum(dtype: type, depth: int) -> None:
    rng = np.random.default_rng(depth)
    profile = rng.gamma(0.3, 1.0, 2000)
    totals = rng.integers(depth // 2, 2 * depth, 60)
    counts = np.stack([rng.multinomial(n, profile / profile.sum()) for n in totals])
    genes = np.argsort(-profile)[:600:2]
    for target in (1e4, 1e6, 1832.5, float(np.median(totals))):
        values = np.log1p((counts / totals[:, None] * target).astype(dtype))[:, genes]
        found = recognise(sparse.csr_matrix(values), whole=False)
        assert (found.log, found.target_sum) == ("ln(1 + x)", pytest.approx(target, rel=1e-6))


def test_what_shows_no_target_sum() -> None:
    rng = np.random.default_rng(0)
    for totals in (500 + 5000 * rng.random(60), 5000.0 + rng.integers(0, 2, 60)):
        assert target_sum_of(1e4 / totals)[0] is None  # not whole; hardly different
    noise = sparse.csr_matrix(rng.gamma(1.0, 1.0, (60, 300)) * (rng.random((60, 300)) < 0.2))
    assert recognise(noise, whole=True).target_sum is None


def test_square_roots_are_refused(counts_model, right, cells, tmp_path: Path) -> None:
    cells.X = sparse.csr_matrix(np.sqrt(counts_of(cells)).astype(np.float32))
    with pytest.raises(DataError, match="holds square roots of counts"):
        predicted(counts_model, cells, tmp_path)


def test_genes_under_another_name_in_x_are_proposed(model_dirs, cells, tmp_path: Path) -> None:
    """A model of obsm genes, a file without obsm whose var_names are Ensembl ids."""
    cells.var["feature_name"] = cells.var_names.to_numpy(dtype=str)
    cells.var_names = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
    del cells.obsm["X_hvg"]
    cells.uns.pop("hvg_names", None)
    with pytest.raises(DataError, match=r"adata\.var\['feature_name'\]"):
        predicted(model_dirs["no_change"], cells, tmp_path)
