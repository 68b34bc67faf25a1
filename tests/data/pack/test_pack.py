"""Packing: every cell arrives unchanged, in a file that maps and that any tool opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from statetx.config import Dataset
from statetx.core.errors import DataError
from statetx.data.pack.pack import pack
from statetx.data.store.layout import file_name
from statetx.data.store.store import open_store

LINES = ("L01", "L02")


def sources(directory: Path) -> list[Path]:
    return [directory / f"{line}.h5ad" for line in LINES]


@pytest.fixture(scope="module")
def reference(
    tiny_source: Path, tiny_settings: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("reference")
    pack(sources(tiny_source), tiny_settings, "tiny", out)
    return out


def test_every_cell_arrives_unchanged(tiny_source: Path, reference: Path) -> None:
    store = open_store(reference)
    for name in LINES:
        source = anndata.read_h5ad(tiny_source / f"{name}.h5ad")
        line = store.line(name)
        assert sorted(line.barcodes) == sorted(source.obs_names)
        source = source[line.barcodes]
        rows = np.arange(line.n_cells)
        counts = source.X.toarray()
        assert np.array_equal(line.counts(rows), counts)
        assert np.array_equal(line.total_counts, counts.sum(axis=1, dtype=np.float64))
        for key in ("X_hvg", "X_embedding"):
            assert np.array_equal(line.embedding(key, rows), source.obsm[key])
        assert np.array_equal(line.batches(rows), source.obs["batch"].astype(str))
        for perturbation in source.obs["drug_dose"].unique():
            mine = source.obs_names[line.rows(perturbation)]
            assert set(source.obs.loc[mine, "drug_dose"]) == {perturbation}
            assert len(mine) == (source.obs["drug_dose"] == perturbation).sum()
    assert store.genes == list(anndata.read_h5ad(tiny_source / "L01.h5ad").uns["hvg_names"])


def test_counts_may_be_whole_but_for_rounding(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    """The check of a whole file and that of each line must agree on a single 2.0000153."""
    for path in sources(tiny_source):
        cells = anndata.read_h5ad(path)
        cells.X = cells.X.astype(np.float32)
        cells.X.data[0] += np.float32(1.5e-5)
        cells.write_h5ad(tmp_path / path.name)
    pack(sources(tmp_path), tiny_settings, "tiny", tmp_path / "packed")
    line = open_store(tmp_path / "packed").line("L01")
    assert sorted(set((line.counts(np.arange(line.n_cells)) % 1).ravel()))[0] == 0
    assert (line.counts(np.arange(line.n_cells)) % 1).max() > 1e-6


def test_rows_are_sorted_and_shuffled_inside(tiny_source: Path, reference: Path) -> None:
    packed = anndata.read_h5ad(reference / "L01.h5ad").obs
    keys = list(zip(packed["perturbation"].astype(str), packed["batch"].astype(str), strict=True))
    assert keys == sorted(keys)
    control = packed.index[packed["perturbation"] == "DMSO_TF_00"]
    assert list(control) != sorted(control), "rows of a batch must not keep the order of the file"


def test_packed_file_is_h5ad_in_memory_and_backed(reference: Path) -> None:
    whole = anndata.read_h5ad(reference / "L01.h5ad")
    backed = anndata.read_h5ad(reference / "L01.h5ad", backed="r")
    assert sparse.issparse(whole.X)
    assert np.array_equal(np.asarray(backed[5:9].to_memory().X.todense()), whole.X[5:9].todense())
    assert list(whole.obs.columns) == [
        "perturbation", "cell_line", "batch", "total_counts", "scale",
    ]  # fmt: skip
    assert len(whole.uns["hvg_names"]) == whole.obsm["X_hvg"].shape[1]


def test_datasets_are_contiguous_aligned_and_small(reference: Path) -> None:
    with h5py.File(reference / "L01.h5ad") as file:
        names = ["X/indptr", "X/indices", "X/data", "obsm/X_hvg", "obsm/X_embedding"]
        for name in [*names, "obs/total_counts"]:
            item = file[name]
            assert item.chunks is None
            assert item.compression is None
            assert item.id.get_offset() % 64 == 0, name
        assert file["X/indices"].dtype == np.uint16
        assert file["X/data"].dtype == (np.uint8 if file["X/data"][()].max() < 256 else np.uint16)
        assert file["obsm/X_hvg"].dtype == np.float32


def test_conditions_and_manifest(reference: Path, tiny_settings: Dataset) -> None:
    conditions = pd.read_parquet(reference / "conditions.parquet")
    assert list(conditions.columns) == [
        "line", "perturbation", "drug", "dose", "unit", "batch", "is_control", "row_start", "n_cells",
    ]  # fmt: skip
    for name in LINES:
        mine = conditions[conditions["line"] == name]
        assert np.array_equal(mine["row_start"], np.r_[0, np.cumsum(mine["n_cells"])[:-1]])
    one = conditions[conditions["perturbation"] == "Drug03_0.5"].iloc[0]
    assert (one["drug"], one["dose"], one["is_control"]) == ("Drug03", 0.5, False)
    manifest = json.loads((reference / "manifest.json").read_text())
    assert manifest["format"] == 2
    assert manifest["embeddings"] == {"X_hvg": 60, "X_embedding": 64}
    assert manifest["scale"] == "counts"
    assert [line["name"] for line in manifest["lines"]] == list(LINES)
    assert all(line["n_controls"] == 60 for line in manifest["lines"])
    packed = json.loads((reference / "sources.json").read_text())["sources"]
    assert [Path(source["path"]).name for source in packed] == ["L01.h5ad", "L02.h5ad"]
    assert manifest["sources"] == [source["content"] for source in packed]


def dense(adata: anndata.AnnData) -> None:
    adata.X = adata.X.toarray()


def csc(adata: anndata.AnnData) -> None:
    adata.X = sparse.csc_matrix(adata.X)


def integers(adata: anndata.AnnData) -> None:
    adata.X = adata.X.astype(np.int64)


def text_obs(adata: anndata.AnnData) -> None:
    for name in ("drug_dose", "cell_line", "batch"):
        adata.obs[name] = adata.obs[name].astype(str).astype(object)


def unused_categories(adata: anndata.AnnData) -> None:
    for name in ("drug_dose", "cell_line", "batch"):
        adata.obs[name] = adata.obs[name].cat.set_categories(
            ["zzz", *reversed(adata.obs[name].cat.categories), "aaa"]
        )


def mask_instead_of_names(adata: anndata.AnnData) -> None:
    adata.var["highly_variable"] = adata.var_names.isin(adata.uns.pop("hvg_names"))


@pytest.mark.parametrize(
    "change", [dense, csc, integers, text_obs, unused_categories, mask_instead_of_names]
)
def test_every_layout_gives_the_same_bytes(
    tiny_source: Path,
    tiny_settings: Dataset,
    reference: Path,
    tmp_path: Path,
    change: Callable[[anndata.AnnData], None],
) -> None:
    for path in sources(tiny_source):
        adata = anndata.read_h5ad(path)
        change(adata)
        adata.write_h5ad(tmp_path / path.name)
    out = tmp_path / "pack"
    pack(sources(tmp_path), tiny_settings, "tiny", out)
    for name in ("L01.h5ad", "L02.h5ad", "conditions.parquet"):
        assert (out / name).read_bytes() == (reference / name).read_bytes(), name


def test_many_small_chunks_and_blocks_give_the_same_bytes(
    tiny_source: Path,
    tiny_settings: Dataset,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("statetx.data.h5ad.matrix.CHUNK_BYTES", 8 * 120 * 17)
    monkeypatch.setattr("statetx.data.h5ad.matrix.CHUNK_NONZEROS", 700)
    monkeypatch.setattr("statetx.data.pack.gather.BLOCK_BYTES", 5_000)
    pack(sources(tiny_source), tiny_settings, "tiny", tmp_path)
    for name in ("L01.h5ad", "L02.h5ad", "conditions.parquet"):
        assert (tmp_path / name).read_bytes() == (reference / name).read_bytes(), name


def test_lines_are_gathered_over_files(
    tiny_source: Path, tiny_settings: Dataset, reference: Path, tmp_path: Path
) -> None:
    both = anndata.concat(
        [anndata.read_h5ad(path) for path in sources(tiny_source)], uns_merge="same"
    )
    plates = sorted(both.obs["batch"].unique())
    for plate in plates:
        both[both.obs["batch"] == plate].copy().write_h5ad(tmp_path / f"{plate}.h5ad")
    pack([tmp_path / f"{plate}.h5ad" for plate in plates], tiny_settings, "tiny", tmp_path / "out")
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "out/conditions.parquet"),
        pd.read_parquet(reference / "conditions.parquet"),
    )
    mine, other = open_store(tmp_path / "out").line("L02"), open_store(reference).line("L02")
    rows = np.arange(other.n_cells)
    order = pd.Index(mine.barcodes).get_indexer(other.barcodes)
    assert np.array_equal(mine.counts(order), other.counts(rows))


def test_inputs_are_not_touched_and_bystanders_stay(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in sources(tiny_source)}
    (tmp_path / "benchmark.txt").write_text("kept")
    pack(sources(tiny_source), tiny_settings, "tiny", tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "L01.h5ad", "L02.h5ad", "benchmark.txt", "conditions.parquet", "manifest.json",
        "sources.json",
    ]  # fmt: skip


def test_aliases_become_the_canonical_control(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    path = sources(tiny_source)[0]
    adata = anndata.read_h5ad(path)
    values = adata.obs["drug_dose"].astype(str).to_numpy()
    renamed = np.flatnonzero(values == "DMSO_TF_00")[::3]
    values[renamed] = "DMSO_TF"
    adata.obs["drug_dose"] = pd.Categorical(values)
    adata.write_h5ad(tmp_path / "L01.h5ad")
    settings = tiny_settings.model_copy(update={"control_pert": ["DMSO_TF_00", "DMSO_TF"]})
    pack([tmp_path / "L01.h5ad"], settings, "tiny", tmp_path / "out")
    store = open_store(tmp_path / "out")
    assert store.control == "DMSO_TF_00"
    assert store.manifest["control_aliases"] == ["DMSO_TF"]
    assert "DMSO_TF" not in set(store.conditions["perturbation"])
    assert len(store.line("L01").rows("DMSO_TF_00")) == 60
    packed = anndata.read_h5ad(tmp_path / "out/L01.h5ad").obs
    raw = adata.obs["drug_dose"].astype(str).loc[packed.index]
    assert np.array_equal(packed["raw_label"].astype(str), raw)


def test_line_names_that_no_file_system_likes(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    adata = anndata.read_h5ad(sources(tiny_source)[0])
    name = "Hep G2/C3A γ~"
    adata.obs["cell_line"] = pd.Categorical([name] * adata.n_obs)
    adata.write_h5ad(tmp_path / "a.h5ad")
    pack([tmp_path / "a.h5ad"], tiny_settings, "tiny", tmp_path / "out")
    assert file_name(name) == "Hep%20G2%2FC3A%20%CE%B3%7E"
    assert file_name("..") == "%2E%2E", "not the directory above"
    assert (tmp_path / "out" / f"{file_name(name)}.h5ad").exists()
    assert open_store(tmp_path / "out").line(name).n_cells == adata.n_obs


def test_repeated_barcodes_are_told_apart(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    for i, name in enumerate(("a", "b")):
        adata = anndata.read_h5ad(sources(tiny_source)[0])[i::2].copy()
        adata.obs_names = ["same", *adata.obs_names[1:]]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    pack([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tiny_settings, "tiny", tmp_path / "out")
    found = open_store(tmp_path / "out").line("L01").barcodes
    assert len(set(found)) == len(found)
    assert {"same#0.0", "same#1.0"} <= set(found)


def test_log_data_totals_and_one_batch(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    adata = anndata.read_h5ad(sources(tiny_source)[0])
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.obs["n_total"] = total
    adata.X = adata.X.multiply(1e4 / total[:, None]).tocsr().log1p().astype(np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    settings = tiny_settings.model_copy(
        update={"scale": "log1p", "batch_col": None, "expression_key": None, "embed_keys": []}
    )
    pack([tmp_path / "a.h5ad"], settings, "tiny", tmp_path / "sums")
    line = open_store(tmp_path / "sums").line("L01")
    rows = np.arange(line.n_cells)
    np.testing.assert_allclose(line.total_counts, 1e4, rtol=1e-5)
    assert set(line.batches(rows)) == {"all"}
    source = adata[line.barcodes].X.toarray()
    np.testing.assert_allclose(line.expression(rows), source, rtol=1e-6, atol=1e-6)
    named = settings.model_copy(update={"total_counts_col": "n_total"})
    pack([tmp_path / "a.h5ad"], named, "tiny", tmp_path / "column")
    line = open_store(tmp_path / "column").line("L01")
    assert np.array_equal(line.total_counts, adata[line.barcodes].obs["n_total"])


def test_counts_too_large_for_a_byte_and_corrected_counts(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    for name, value, kind in (
        ("a", 70_000.0, "int32"),
        ("b", 260.0, "uint16"),
        ("c", 30.5, "float32"),
    ):
        adata = anndata.read_h5ad(sources(tiny_source)[0])
        adata.X.data[:] = np.minimum(adata.X.data, 30)
        adata.X.data[7] = value
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        pack([tmp_path / f"{name}.h5ad"], tiny_settings, "tiny", tmp_path / name)
        with h5py.File(tmp_path / name / "L01.h5ad") as file:
            assert str(file["X/data"].dtype) == kind
        line = open_store(tmp_path / name).line("L01")
        assert line.counts(np.arange(line.n_cells)).max() == value


def test_a_store_cut_short_is_refused(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "cut")
    path = tmp_path / "cut/L01.h5ad"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match=r"cannot open|ends inside") as caught:
        open_store(tmp_path / "cut").line("L01")
    assert "L01.h5ad" in str(caught.value)
