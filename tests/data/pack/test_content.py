"""What counts as other cells in a source file, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse
from small_cells import cells, settings

from statetx.data.pack.content import content_of, stamp


def content(data: anndata.AnnData, path: Path, **options: object) -> str:
    data.write_h5ad(path, **options)
    return content_of(path, settings())


@pytest.fixture
def data() -> anndata.AnnData:
    return cells(seed=0)


def test_layout_name_and_further_columns_do_not_count(
    data: anndata.AnnData, tmp_path: Path
) -> None:
    before = content(data, tmp_path / "a.h5ad")
    assert content(data, tmp_path / "b.h5ad", compression="gzip") == before
    more = data.copy()
    more.obs["new"] = 1
    more.layers["other"] = more.X.copy()
    assert content(more, tmp_path / "c.h5ad") == before
    wide = data.copy()
    wide.X = wide.X.astype(np.float64)
    assert content(wide, tmp_path / "d.h5ad") == before
    dense = data.copy()
    dense.X = dense.X.toarray() if sparse.issparse(dense.X) else sparse.csr_matrix(dense.X)
    assert content(dense, tmp_path / "e.h5ad") == before


def _triple(data: anndata.AnnData) -> None:
    x = sparse.csr_matrix(data.X)
    x.data[7] *= 3
    data.X = x


def _swap_labels(data: anndata.AnnData) -> None:
    labels = data.obs["drug_dose"].astype(str).to_numpy()
    first, other = 0, int(np.flatnonzero(labels != labels[0])[0])
    labels[[first, other]] = labels[[other, first]]
    data.obs["drug_dose"] = labels


def _swap_genes(data: anndata.AnnData) -> None:
    data.var_names = [data.var_names[1], data.var_names[0], *data.var_names[2:]]


def _rename_cell(data: anndata.AnnData) -> None:
    data.obs_names = ["other", *data.obs_names[1:]]


@pytest.mark.parametrize("change", [_triple, _swap_labels, _swap_genes, _rename_cell])
def test_values_labels_genes_and_names_count(
    data: anndata.AnnData, tmp_path: Path, change: Callable[[anndata.AnnData], None]
) -> None:
    before = content(data, tmp_path / "a.h5ad")
    change(data)
    assert content(data, tmp_path / "b.h5ad") != before


def test_packing_finds_the_same_digest(data: anndata.AnnData, tmp_path: Path) -> None:
    import json

    from statetx.data.pack.pack import pack

    path = tmp_path / "a.h5ad"
    expected = content(data, path)
    pack([path], settings(), "d", tmp_path / "pack")
    (source,) = json.loads((tmp_path / "pack" / "sources.json").read_text())["sources"]
    assert source == {"path": str(path), "stamp": stamp(path), "content": expected}
