"""Real measurements: published matrices must come out as they went in."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np

from statetx.config import Dataset
from statetx.data.inspection import inspect as h5ad
from statetx.data.pack.pack import pack
from statetx.data.sets.control_matching import draw_controls
from statetx.data.store.roles import control_runs
from statetx.data.store.store import open_store


def described(**changes: object) -> Dataset:
    base = {
        "files": ["*.h5ad"],
        "control_pert": "control",
        "scale": "counts",
        "total_counts_col": "n_total",
        "expression_key": "X_hvg",
    }
    return Dataset.model_validate({**base, **changes})


def test_kang(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "data/kang_ifnb_scgen_valid").glob("*.h5ad"))
    settings = described(target_sum=1832.5)
    assert not h5ad.inspect(files, settings).problems
    pack(files, settings, "kang", tmp_path)
    store = open_store(tmp_path)
    assert len(store.lines) == 7
    assert store.conditions["n_cells"].sum() == 1975
    line = store.line("CD14+Mono")
    source = anndata.read_h5ad(files[0].with_name("CD14+Mono.h5ad"))[line.barcodes]
    rows = np.arange(line.n_cells)
    assert np.array_equal(line.expression(rows), source.obsm["X_hvg"])
    assert np.array_equal(line.counts(rows), source.X.toarray())
    # Our log1p of the counts is the published one, to its own rounding.
    store.manifest["expression_key"] = None
    genes = [store.manifest["genes"].index(name) for name in store.genes]
    np.testing.assert_allclose(
        line.expression(rows)[:, genes], source.obsm["X_hvg"], rtol=1e-4, atol=1e-5
    )
    # Batch = condition here: controls can only be matched within the line.
    treated = line.rows("IFNb")
    runs = control_runs(line, store.control, "train", "shared")
    assert not set(runs) & set(line.batches(treated))
    drawn = draw_controls(line.name, runs, line.batches(treated), 0, "IFNb")
    assert set(drawn) <= set(line.rows("control"))


def test_norman(shared: Path, tmp_path: Path) -> None:
    files = [shared / "data/perturbench_norman_mcfaline/k562.h5ad"]
    pack(files, described(labels_are_genes=True), "norman", tmp_path)
    store = open_store(tmp_path)
    line = store.line("k562")
    source = anndata.read_h5ad(files[0])[line.barcodes]
    assert np.array_equal(line.expression(np.arange(line.n_cells)), source.obsm["X_hvg"])
    assert np.array_equal(line.total_counts, source.obs["n_total"])
    treated = line.rows("KLF1+MAP2K6")
    batches = line.batches(treated)
    runs = control_runs(line, store.control, "train", "shared")
    drawn = draw_controls(line.name, runs, batches, 0, "KLF1+MAP2K6")
    assert np.array_equal(line.batches(drawn), batches)
