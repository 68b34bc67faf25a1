"""Looking into h5ad files: identity, cell lines, report."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from statetx.config import Dataset
from statetx.data import h5ad
from statetx.errors import DataError
from statetx.provenance import followed_modules

COLUMNS = ["drug_dose", "cell_line", "batch"]


def test_identity_does_not_know_time_or_place(tiny_source: Path, tmp_path: Path) -> None:
    first = h5ad.identity(tiny_source / "L01.h5ad", COLUMNS)
    shutil.copy(tiny_source / "L01.h5ad", tmp_path / "other.h5ad")
    os.utime(tmp_path / "other.h5ad", (1, 1))
    assert h5ad.identity(tmp_path / "other.h5ad", [*reversed(COLUMNS), None]) == first
    assert h5ad.identity(tiny_source / "L02.h5ad", COLUMNS) != first


@pytest.mark.parametrize("name", ["obs/drug_dose/codes", "obs/drug_dose/categories", "var/_index"])
def test_identity_sees_one_changed_label_or_gene(
    tiny_source: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "a.h5ad"
    shutil.copy(tiny_source / "L01.h5ad", path)
    before = h5ad.identity(path, COLUMNS)
    with h5py.File(path, "r+") as file:
        item = file[name]
        at = len(item) // 2
        item[at] = item[at - 1] if item[at] != item[at - 1] else item[at] + 1
    assert h5ad.identity(path, COLUMNS) != before


def test_identity_sees_other_columns_only_when_named(tiny_source: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    # Long enough that only the ends of a column are read.
    adata = anndata.concat([adata] * 40, index_unique="-", keys=[str(i) for i in range(40)])
    adata.obs["note"] = np.arange(adata.n_obs, dtype=np.float64)
    adata.write_h5ad(path)
    plain, named = h5ad.identity(path, COLUMNS), h5ad.identity(path, [*COLUMNS, "note"])
    with h5py.File(path, "r+") as file:
        file["obs/note"][adata.n_obs // 2] = -1.0
    assert h5ad.identity(path, COLUMNS) == plain
    assert h5ad.identity(path, [*COLUMNS, "note"]) != named


def test_cell_lines(tiny_source: Path, tmp_path: Path) -> None:
    files = [tiny_source / f"{line}.h5ad" for line in ("L03", "L01")]
    assert h5ad.cell_lines(files, "cell_line") == ["L01", "L03"]
    with pytest.raises(DataError, match="no column 'line'"):
        h5ad.cell_lines(files, "line")


def test_numbers_and_nullable_columns_are_labels(tiny_source: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    adata.obs["number"] = np.where(np.arange(adata.n_obs) % 2, 11, 2)
    adata.obs["category"] = pd.Categorical(adata.obs["number"])
    adata.obs["nullable"] = pd.array(adata.obs["number"], dtype="Int64")
    adata.write_h5ad(tmp_path / "a.h5ad")
    for name in ("number", "category", "nullable"):
        assert h5ad.cell_lines([tmp_path / "a.h5ad"], name) == ["11", "2"], name
    adata.obs.iloc[3, adata.obs.columns.get_loc("nullable")] = pd.NA
    adata.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(DataError, match=r"no label in 1 of .*, first in row 3"):
        h5ad.cell_lines([tmp_path / "b.h5ad"], "nullable")


def test_a_better_report_repacks_nothing() -> None:
    followed = followed_modules(["statetx.data.pack"])
    assert "statetx.data.checks" in followed
    assert "statetx.data.h5ad" not in followed
    assert not [name for name in followed if ".loader" in name or ".sets" in name]


def test_report_describes_without_settings(tiny_source: Path) -> None:
    report = h5ad.inspect([tiny_source / "L01.h5ad"])
    (found,) = report.files
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    assert (found.n_cells, found.n_genes, found.layout) == (*adata.shape, "csr")
    assert (found.looks_like, found.integral) == ("counts", True)
    assert found.zeros == pytest.approx(1 - adata.X.nnz / np.prod(adata.shape), abs=0.02)
    assert found.obsm == {"X_embedding": 64, "X_hvg": 60}
    assert found.obs == {"batch": 2, "cell_line": 1, "drug_dose": 13}
    assert not report.problems


def test_report_counts_with_settings_and_lists_every_problem(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    files = [tiny_source / "L01.h5ad", tmp_path / "none.h5ad", tmp_path / "b.h5ad"]
    adata = anndata.read_h5ad(tiny_source / "L02.h5ad")
    adata.obs["drug_dose"] = adata.obs["drug_dose"].cat.rename_categories({"DMSO_TF_00": "DMSO"})
    adata.X.data[2] = -1
    adata.write_h5ad(tmp_path / "b.h5ad")
    report = h5ad.inspect(files, tiny_settings)
    assert [found.path.name for found in report.files] == ["L01.h5ad", "b.h5ad"]
    assert report.files[0].controls == {"L01": 60}
    assert report.files[1].controls == {"L02": 0}
    assert report.files[0].perturbations["DMSO_TF_00"] == 60
    texts = "\n".join(str(problem) for problem in report.problems)
    for piece in ("does not exist", "negative: -1", "no control cell: 'L02'"):
        assert piece in texts


def test_inspect_without_a_configuration_still_finds_values_that_are_no_expression(
    tiny_source: Path, tmp_path: Path
) -> None:
    cells = anndata.read_h5ad(sorted(tiny_source.glob("*.h5ad"))[0])
    cells.X = cells.X.astype("float32")
    cells.X.data[3] = float("nan")
    cells.write_h5ad(tmp_path / "nan.h5ad")
    (problem,) = h5ad.inspect([tmp_path / "nan.h5ad"]).problems
    assert "not finite" in str(problem)
