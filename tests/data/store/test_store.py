"""Reading the packed store."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from statetx.core.errors import DataError, ResultsError
from statetx.core.fingerprint import followed_modules
from statetx.data.store.store import open_store

CONTROL = "DMSO_TF_00"


def test_rows_are_sorted_runs_and_capped_draws_repeat(tiny_store: Path) -> None:
    line = open_store(tiny_store).line("L03")
    rows = line.rows("Drug04_5")
    assert rows.dtype == np.int64
    assert np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
    capped = line.rows("Drug04_5", max_cells=7, seed=1)
    assert len(capped) == 7
    assert np.array_equal(capped, np.sort(capped))
    assert set(capped) <= set(rows)
    assert np.array_equal(capped, line.rows("Drug04_5", max_cells=7, seed=1))
    assert not np.array_equal(capped, line.rows("Drug04_5", max_cells=7, seed=2))
    assert np.array_equal(line.rows("Drug04_5", max_cells=10_000), rows)
    everything = [line.rows(p) for p in line.conditions["perturbation"].unique()]
    assert np.array_equal(np.sort(np.concatenate(everything)), np.arange(line.n_cells))


def test_runs_of_one_batch(tiny_store: Path) -> None:
    line = open_store(tiny_store).line("L01")
    for batch in ("plate1", "plate2"):
        start, stop = line.run(CONTROL, batch)
        assert stop - start == 30
        assert set(line.batches(np.arange(start, stop))) == {batch}
    start, stop = line.run("Drug01_0.5", "plate2")
    assert start == stop, "the low dose is on plate 1 only"


def test_any_rows_in_any_order(tiny_store: Path) -> None:
    line = open_store(tiny_store).line("L02")
    dense = anndata.read_h5ad(tiny_store / "L02.h5ad").X.toarray()
    rng = np.random.default_rng(0)
    rows = rng.integers(0, line.n_cells, 700)  # more than one piece, with repeats
    assert np.array_equal(line.counts(rows), dense[rows])
    assert line.counts(rows).dtype == np.float32
    assert line.counts(np.array([], dtype=np.int64)).shape == (0, line.n_genes)


def test_expression_from_counts_is_log1p(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    store.manifest["expression_key"] = None
    line = store.line("L02")
    rows = np.random.default_rng(1).permutation(line.n_cells)
    counts = line.counts(rows).astype(np.float64)
    expected = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(line.expression(rows), expected, rtol=1e-6)
    hvg = [list(anndata.read_h5ad(tiny_store / "L02.h5ad").var_names).index(g) for g in store.genes]
    np.testing.assert_allclose(line.embedding("X_hvg", rows), expected[:, hvg], rtol=1e-5)


def test_expression_is_the_declared_matrix(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    line = store.line("L02")
    rows = np.arange(5)
    assert np.array_equal(line.expression(rows), line.embedding("X_hvg", rows))
    assert line.expression(rows).shape == (5, len(store.genes))


@pytest.mark.parametrize("writer", ["simulate", "pack", "h5ad", "layout"])
def test_a_better_reader_packs_nothing_again(writer: str) -> None:
    assert "statetx.data.store.store" not in followed_modules([f"statetx.data.{writer}"])


def test_misspelt_names_get_the_nearest(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    with pytest.raises(ResultsError, match="no cell line 'L1'") as caught:
        store.line("L1")
    assert "did you mean" in str(caught.value)
    with pytest.raises(ResultsError, match="no perturbation 'drug01_5'") as caught:
        store.line("L01").rows("drug01_5")
    assert "did you mean 'Drug01_5'?" in str(caught.value)
    with pytest.raises(ResultsError, match="no obsm matrix 'X_hgv'"):
        store.line("L01").embedding("X_hgv", np.arange(2))


def test_what_is_no_store_is_refused(tmp_path: Path, tiny_store: Path) -> None:
    with pytest.raises(ResultsError, match="not a packed store"):
        open_store(tmp_path)
    text = (tiny_store / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"format": 2', '"format": 99'))
    (tmp_path / "conditions.parquet").write_bytes((tiny_store / "conditions.parquet").read_bytes())
    with pytest.raises(ResultsError, match="store has format 99"):
        open_store(tmp_path)
    (tmp_path / "conditions.parquet").unlink()
    (tmp_path / "conditions.parquet").mkdir()
    with pytest.raises(ResultsError, match=r"conditions\.parquet is not a file"):
        open_store(tmp_path)


def test_a_recompressed_file_is_refused(tmp_path: Path, tiny_store: Path) -> None:
    for name in ("manifest.json", "conditions.parquet"):
        (tmp_path / name).write_bytes((tiny_store / name).read_bytes())
    anndata.read_h5ad(tiny_store / "L01.h5ad").write_h5ad(tmp_path / "L01.h5ad", compression="gzip")
    with h5py.File(tmp_path / "L01.h5ad") as file:
        assert file["X/data"].chunks is not None
    with pytest.raises(DataError, match="pack the data set again"):
        open_store(tmp_path).line("L01")
