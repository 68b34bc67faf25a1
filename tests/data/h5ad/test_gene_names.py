"""Gene names that somebody wants are found where the file keeps them, with the line that mends it."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from small_cells import cells

from statetx.data.h5ad.gene_names import common_names, other_names


def ensembl(path: Path, column: str = "feature_name", twice: bool = False) -> list[str]:
    """Write a file with Ensembl ids, its symbols in a column of var; return the symbols."""
    made = cells()
    symbols = made.var_names.tolist()
    if twice:
        symbols[1] = symbols[0]
    made.var[column] = pd.Categorical(symbols)
    made.var_names = [f"ENSG{i:011d}.{i % 3}" for i in range(made.n_vars)]
    made.uns["hvg_names"] = np.asarray(made.var_names[[3, 1, 2]], dtype=object)
    made.obsm["X_hvg"] = made.X[:, [3, 1, 2]].toarray()
    made.write_h5ad(path)
    return symbols


def told(line: str | None) -> str:
    assert line is not None
    return line.split("are in the file: ")[1]


@pytest.mark.parametrize("column", ["feature_name", "gene_name", "gene_ids"])
def test_a_column_of_var(column: str, tmp_path: Path) -> None:
    symbols = ensembl(tmp_path / "a.h5ad", column)
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    exec(told(other_names(tmp_path / "a.h5ad", symbols)), {"adata": adata})
    assert adata.var_names.tolist() == symbols
    adata.write_h5ad(tmp_path / "b.h5ad")
    assert other_names(tmp_path / "b.h5ad", symbols) is None


def test_genes_of_an_obsm_matrix_are_renamed_too(tmp_path: Path) -> None:
    symbols = ensembl(tmp_path / "a.h5ad")
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    wanted = [symbols[i] for i in (1, 2, 3)]
    line = other_names(tmp_path / "a.h5ad", wanted, adata.uns["hvg_names"].tolist())
    exec(told(line), {"adata": adata})
    assert adata.uns["hvg_names"].tolist() == [symbols[i] for i in (3, 1, 2)]
    assert adata.var_names.tolist() == symbols


def test_repeated_symbols_are_made_unique(tmp_path: Path) -> None:
    symbols = ensembl(tmp_path / "a.h5ad", twice=True)
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    exec(told(other_names(tmp_path / "a.h5ad", symbols)), {"adata": adata})
    assert adata.var_names.is_unique


def test_versions_of_ensembl_ids(tmp_path: Path) -> None:
    ensembl(tmp_path / "a.h5ad")
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    plain = [name.split(".")[0] for name in adata.var_names]
    exec(told(other_names(tmp_path / "a.h5ad", plain)), {"adata": adata})
    assert adata.var_names.tolist() == plain
    adata.write_h5ad(tmp_path / "b.h5ad")
    both = common_names(
        tmp_path / "b.h5ad", plain, tmp_path / "a.h5ad", [f"{name}.9" for name in plain]
    )
    assert both is not None
    assert both.startswith("in a.h5ad, ")


def test_nothing_is_proposed_without_evidence(tmp_path: Path) -> None:
    symbols = ensembl(tmp_path / "a.h5ad")
    assert other_names(tmp_path / "a.h5ad", ["x", "y"]) is None
    assert other_names(tmp_path / "a.h5ad", [*symbols[:3], *"abcdefgh"]) is None
    assert other_names(tmp_path / "none.h5ad", symbols) is None
