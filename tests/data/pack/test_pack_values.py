"""What packing keeps: counts bit for bit, log1p to 1e-6, genes by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from small_cells import CONTROL, cells, packed, settings, source_of

from statetx.core.errors import DataError
from statetx.data.h5ad.csc_rows import Buckets
from statetx.data.pack import pack
from statetx.data.store import kernels
from statetx.data.store.store import open_store


def logged(adata: anndata.AnnData, target: float = 1e4, keep: int | None = None) -> anndata.AnnData:
    """ln(1 + target * count / total), of all genes or of the first `keep`."""
    total = np.maximum(np.asarray(adata.X.sum(axis=1)), 1)
    adata.X = adata.X.multiply(target / total).tocsr().log1p().astype(np.float32)
    return adata if keep is None else adata[:, :keep].copy()


@pytest.mark.parametrize("keep", [None, 12])
@pytest.mark.parametrize("target", [1e4, 1832.5])
def test_counts_behind_log1p_are_recovered(tmp_path: Path, keep: int | None, target: float) -> None:
    raw = cells()
    adata = logged(raw.copy(), target, keep)
    store = open_store(packed(tmp_path, settings(scale="log1p"), adata))
    for name in store.lines:
        line = store.line(name)
        rows = np.arange(line.n_cells)
        expected = source_of(line, adata).X.toarray()
        np.testing.assert_allclose(line.expression(rows), expected, atol=1e-6, rtol=1e-6)
        assert line.meaning == kernels.COUNTS
        assert line.csr[2].dtype == np.uint8
        counts = source_of(line, raw).X.toarray()[:, : line.n_genes]
        smallest = np.where(counts > 0, counts, np.inf).min(axis=1)
        one = smallest == 1  # rows whose smallest count is 1 come back as they were
        assert one.sum() > 20
        assert np.array_equal(line.counts(rows)[one], counts[one])


def test_values_without_counts_behind_them_stay(tmp_path: Path) -> None:
    adata = logged(cells())
    here = np.asarray(adata.obs["cell_line"] == "L2")
    factor = np.random.default_rng(1).uniform(0.9, 1.0, adata.X.nnz).astype(np.float32)
    rows = np.repeat(here, np.diff(adata.X.indptr))
    adata.X.data[rows] *= factor[rows]
    store = open_store(packed(tmp_path, settings(scale="log1p"), adata))
    # A chunk of a file is recovered or not: L1 shares the chunk of L2.
    for name, meaning in (("L1", kernels.EXPRESSION), ("L2", kernels.EXPRESSION)):
        line = store.line(name)
        found = line.expression(np.arange(line.n_cells))
        expected = source_of(line, adata).X.toarray()
        if name == "L2":
            assert np.array_equal(found, expected), "bit for bit"
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)
        assert line.meaning == meaning


def test_half_recovered_lines_are_expression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line whose cells come from chunks with and without counts behind them."""
    good, bad = logged(cells(seed=1)), logged(cells(seed=2))
    bad.X.data *= np.random.default_rng(1).uniform(0.9, 1.0, bad.X.nnz).astype(np.float32)
    store = open_store(packed(tmp_path, settings(scale="log1p"), good, bad))
    line = store.line("L1")
    assert line.meaning == kernels.EXPRESSION
    expected = source_of(line, good, bad).X.toarray()
    np.testing.assert_allclose(
        line.expression(np.arange(line.n_cells)), expected, atol=1e-6, rtol=1e-6
    )


def test_embeddings_may_be_narrowed(tmp_path: Path) -> None:
    adata = cells()
    adata.obsm["X_emb"] = np.random.default_rng(2).normal(size=(60, 5)).astype(np.float32)
    made = settings(embed_dtype="float16", embed_keys=["X_emb"])
    line = open_store(packed(tmp_path, made, adata)).line("L1")
    assert line.obsm["X_emb"].dtype == np.float16
    half = adata[line.barcodes].obsm["X_emb"].astype(np.float16)
    rows = np.arange(line.n_cells)
    assert np.array_equal(line.embedding("X_emb", rows), half.astype(np.float32))
    assert np.array_equal(anndata.read_h5ad(line.path).obsm["X_emb"], half)
    adata.obsm["X_emb"][3, 2] = -1e5
    with pytest.raises(DataError, match=r"obsm\['X_emb'\] of size 100000 does not fit"):
        packed(tmp_path, made, adata)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint16])
def test_counts_come_back_bit_for_bit(tmp_path: Path, layout: str, kind: Any) -> None:
    adata = cells(seed=3)
    adata.X = adata.X.astype(kind)
    adata.X = {"csr": adata.X, "csc": adata.X.tocsc(), "dense": adata.X.toarray()}[layout]
    adata.obsm["X_emb"] = sparse.csr_matrix(adata.X[:, :4].astype(np.float32))
    store = open_store(packed(tmp_path, settings(embed_keys=["X_emb"]), adata))
    for name in store.lines:
        line = store.line(name)
        rows = np.arange(line.n_cells)
        source = adata[line.barcodes]
        dense = source.X if layout == "dense" else source.X.toarray()
        assert np.array_equal(line.counts(rows), dense)
        assert np.array_equal(line.embedding("X_emb", rows), source.obsm["X_emb"].toarray())
        whole = anndata.read_h5ad(line.path)
        assert np.array_equal(whole.X.toarray(), dense)
        backed = anndata.read_h5ad(line.path, backed="r")
        assert np.array_equal(backed[rows[:7]].to_memory().X.toarray(), dense[:7])


def test_csc_in_pieces_gives_the_rows_of_scipy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statetx.data.h5ad.csc_rows.PIECE", 37)
    rows_of = sparse.random(53, 17, 0.3, format="lil", random_state=0, dtype=np.float32)
    rows_of[5] = 0  # an empty row
    matrix = rows_of.tocsc()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for part in ("data", "indices", "indptr"):
            file[part] = getattr(matrix, part)
        for size in (1, 20, 10_000):
            rows = Buckets(file, matrix.shape, size, tmp_path)
            for start, stop in ((0, 53), (0, 1), (4, 9), (9, 9), (30, 53), (2, 3)):
                found = rows.rows(start, stop)
                assert np.array_equal(found.toarray(), matrix[start:stop].toarray())


def test_more_genes_than_two_bytes_can_name(tmp_path: Path) -> None:
    n = 65_600
    counts = sparse.random(12, n, 0.002, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(counts.data * 5)
    small = cells(12)
    var = pd.DataFrame(index=[f"g{i}" for i in range(n)])
    adata = anndata.AnnData(counts, small.obs, var)
    line = open_store(packed(tmp_path, settings(), adata)).line("L1")
    assert line.csr[1].dtype == np.int32
    assert int(line.csr[1].max()) > 65_535
    assert np.array_equal(line.counts(np.arange(line.n_cells)), adata[line.barcodes].X.toarray())


def test_empty_cells_and_conditions_of_one_cell(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO", "statetx.pack")
    adata = cells()
    matrix = adata.X.tolil()
    matrix[7] = 0
    adata.X = matrix.tocsr()
    labels = adata.obs["drug_dose"].astype(str).to_numpy()
    labels[1] = "Rare_5"
    adata.obs["drug_dose"] = labels
    store = open_store(packed(tmp_path, settings(), adata))
    assert "1 cells have no counts at all" in caplog.text
    for name in store.lines:
        line = store.line(name)
        found = line.expression(np.arange(line.n_cells))
        assert np.isfinite(found).all()
        assert (found.sum(axis=1) == 0).sum() == ("c0-7" in line.barcodes)
    line = store.line("L1")
    assert len(line.rows("Rare_5")) == 1
    assert line.barcodes[line.rows("Rare_5")].tolist() == ["c0-1"]


def test_totals_of_a_column_decide_the_expression(tmp_path: Path) -> None:
    adata = cells()
    adata.obs["n"] = np.arange(60) + 1000.0
    made = settings(total_counts_col="n", target_sum=5e3)
    line = open_store(packed(tmp_path, made, adata)).line("L2")
    source = adata[line.barcodes]
    exact = np.log1p(5e3 * source.X.toarray().astype(float) / source.obs["n"].to_numpy()[:, None])
    np.testing.assert_allclose(line.expression(np.arange(line.n_cells)), exact, rtol=1e-6)


# ---------------------------------------------------------------------------------------------
# genes


def test_another_order_of_genes_is_aligned_by_name(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO", "statetx.pack")
    a, b = cells(seed=1), cells(seed=2)
    shuffled = b[:, np.random.default_rng(0).permutation(30)].copy()
    store = open_store(packed(tmp_path, settings(), a, shuffled))
    assert "have another order: they are aligned by name" in caplog.text
    assert store.genes == list(a.var_names)
    for name in store.lines:
        line = store.line(name)
        expected = source_of(line, a, b).X.toarray()
        assert np.array_equal(line.counts(np.arange(line.n_cells)), expected)


def test_genes_that_files_share(tmp_path: Path) -> None:
    a, b = cells(seed=1), cells(seed=2)
    fewer = b[:, [9, *range(3, 9), *range(12, 30)]].copy()
    with pytest.raises(DataError, match=r"5 missing \('g0', 'g1', 'g10'") as caught:
        packed(tmp_path, settings(), a, fewer)
    assert "genes: intersect" in str(caught.value)
    store = open_store(packed(tmp_path, settings(genes="intersect"), a, fewer))
    assert store.genes == [g for g in a.var_names if g in set(fewer.var_names)]
    line = store.line("L1")
    expected = anndata.concat([a[:, store.genes], b[:, store.genes]])[line.barcodes].X.toarray()
    assert np.array_equal(line.counts(np.arange(line.n_cells)), expected)
    # Totals are those of all genes of the file, not of the shared ones.
    sums = pd.concat(
        [pd.Series(np.asarray(x.X.sum(axis=1)).ravel(), x.obs_names) for x in (a, fewer)]
    )
    assert np.array_equal(line.total_counts, sums[line.barcodes])
    alien = cells(seed=4)
    alien.var_names = [f"x{i}" for i in range(30)]
    with pytest.raises(DataError, match="no gene is in all files"):
        packed(tmp_path, settings(genes="intersect"), a, alien)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_half_precision_counts_are_read(tmp_path: Path, layout: str) -> None:
    adata = cells(seed=3)
    adata.write_h5ad(tmp_path / "half.h5ad")
    matrix = {"csr": adata.X, "csc": adata.X.tocsc(), "dense": None}[layout]
    with h5py.File(tmp_path / "half.h5ad", "a") as file:
        del file["X"]
        if matrix is None:
            made = file.create_dataset("X", data=adata.X.toarray().astype(np.float16))
            made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        else:
            group = file.create_group("X")
            group.attrs.update({"encoding-type": f"{layout}_matrix", "encoding-version": "0.1.0"})
            group.attrs["shape"] = adata.shape
            group["data"] = matrix.data.astype(np.float16)
            group["indices"], group["indptr"] = matrix.indices, matrix.indptr
    pack.pack([tmp_path / "half.h5ad"], settings(), "d", tmp_path / "pack")
    line = open_store(tmp_path / "pack").line("L1")
    assert np.array_equal(line.counts(np.arange(line.n_cells)), adata[line.barcodes].X.toarray())


@pytest.mark.parametrize(
    ("part", "place", "value", "said"),
    [
        ("indices", 5, -3, "column index outside its 30 columns"),
        ("indices", 5, 30, "column index outside its 30 columns"),
        ("indptr", 4, 10_000, "row pointers do not rise"),
        ("indptr", 0, 2, "row pointers do not rise"),
    ],
)
def test_damaged_places_are_refused(
    tmp_path: Path, part: str, place: int, value: int, said: str
) -> None:
    cells().write_h5ad(tmp_path / "bad.h5ad")
    with h5py.File(tmp_path / "bad.h5ad", "a") as file:
        file["X"][part][place] = value
    with pytest.raises(DataError, match=said):
        pack.pack([tmp_path / "bad.h5ad"], settings(), "d", tmp_path / "pack")


def test_barcodes_that_all_repeat(tmp_path: Path) -> None:
    a, b = cells(seed=1), cells(seed=2)
    b.obs_names = a.obs_names
    store = open_store(packed(tmp_path, settings(), a, b))
    for name in store.lines:
        line = store.line(name)
        assert len(set(line.barcodes)) == line.n_cells
        for row, barcode in enumerate(line.barcodes):
            text, _, place = barcode.partition("#")
            file, source = map(int, place.split("."))
            own = (a, b)[file]
            assert own.obs_names[source] == text
            assert np.array_equal(line.counts(np.array([row]))[0], own.X[source].toarray()[0])


@pytest.mark.parametrize("n", [127, 128, 129])
def test_as_many_batches_as_a_byte_holds(tmp_path: Path, n: int) -> None:
    adata = cells(3 * n)
    adata.obs["batch"] = [f"b{i // 3:04d}" for i in range(3 * n)]
    adata.obs["cell_line"] = "L1"
    adata.obs["drug_dose"] = CONTROL
    store = open_store(packed(tmp_path, settings(), adata))
    line = store.line("L1")
    assert np.array_equal(line.batches(np.arange(3 * n)), adata[line.barcodes].obs["batch"])
