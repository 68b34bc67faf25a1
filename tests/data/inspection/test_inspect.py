"""Looking into h5ad files: identity, cell lines, report."""

from __future__ import annotations

import os
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
from statetx.core.fingerprint import followed_modules
from statetx.data.inspection import inspect as h5ad
from statetx.data.inspection.design import Columns

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
    followed = followed_modules(["statetx.data.pack.pack"])
    assert "statetx.data.inspection.checks" in followed
    assert "statetx.data.inspection.inspect" not in followed
    assert not [name for name in followed if ".loader" in name or ".sets" in name]


def test_report_describes_without_settings(tiny_source: Path) -> None:
    report = h5ad.inspect([tiny_source / "L01.h5ad"])
    (found,) = report.files
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    assert (found.n_cells, found.n_genes, found.layout) == (*adata.shape, "csr")
    assert (found.looks_like, found.seen.integral) == ("counts", True)
    assert found.nonzeros == adata.X.nnz
    assert found.seen.zeros == pytest.approx(1 - adata.X.nnz / np.prod(adata.shape), abs=1e-12)
    assert found.obsm == {"X_embedding": (64, "float32"), "X_hvg": (60, "float32")}
    assert {name: c.n_labels for name, c in found.obs.items() if c.kind == "labels"} == {
        "batch": 2,
        "cell_line": 1,
        "drug_dose": 13,
    }
    assert found.obs["drug_dose"].names[0] == "DMSO_TF_00", "the label of most cells comes first"
    assert found.uns["hvg_names"] == 60
    assert found.genes == adata.var_names.tolist()
    assert not report.problems
    assert report.design is None


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
    assert report.design is not None
    assert report.design.lines()["controls"].to_dict() == {"L01": 60, "L02": 0}
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


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_only_full_reads_beyond_the_sample(
    tiny_source: Path,
    tiny_settings: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
) -> None:
    monkeypatch.setattr("statetx.data.h5ad.matrix.SAMPLE_ROWS", 8)
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    # Row 150 of a CSR or dense X, and the middle of the values of a CSC one, are in no sample.
    dense = adata.X.toarray()
    dense[150, 60] = -3.0
    adata.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[layout](
        dense
    )
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    assert not h5ad.inspect([path], tiny_settings, full=False).problems
    (problem,) = h5ad.inspect([path], tiny_settings, full=True).problems
    assert "negative: -3" in str(problem)


def test_full_sees_another_scale_beyond_the_sample(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statetx.data.h5ad.matrix.SAMPLE_ROWS", 8)
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    values = np.minimum(adata.X.toarray(), 3)
    values[150] = np.log1p(values[150])
    adata.X = values
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert not h5ad.inspect([tmp_path / "a.h5ad"], tiny_settings, full=False).problems
    (problem,) = h5ad.inspect([tmp_path / "a.h5ad"], tiny_settings).problems
    assert "looks log-transformed" in str(problem)


def test_an_undeclared_data_frame_in_obsm_and_layers_are_no_problem(
    tiny_source: Path, tmp_path: Path
) -> None:
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    adata.obsm["spots"] = pd.DataFrame({"x": np.arange(adata.n_obs)}, index=adata.obs_names)
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    report = h5ad.inspect([tmp_path / "a.h5ad"])
    assert not report.problems
    assert report.files[0].obsm["spots"] == (0, "dataframe")
    assert report.files[0].layers == ["counts"]


def test_columns_of_every_kind(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")[:100].copy()
    adata.obs["gem_group"] = np.arange(100) % 3
    adata.obs["share"] = np.linspace(0.25, 0.75, 100)
    adata.obs["note"] = "same"
    adata.obs["nullable"] = pd.array([1, None] * 50, dtype="Int64")
    adata.strings_to_categoricals()
    adata.obs["name"] = [f"c{i}" for i in range(100)]
    adata.write_h5ad(tmp_path / "a.h5ad")
    obs = h5ad.inspect([tmp_path / "a.h5ad"]).files[0].obs
    assert (obs["gem_group"].n_labels, obs["gem_group"].low, obs["gem_group"].high) == (3, 0, 2)
    assert (obs["share"].n_labels, obs["share"].low, obs["share"].high) == (0, 0.25, 0.75)
    assert (obs["note"].n_labels, obs["note"].names) == (1, ("same",))
    assert (obs["name"].kind, obs["name"].n_labels, obs["name"].complete) == ("text", 100, True)
    assert obs["nullable"].complete
    monkeypatch.setattr("statetx.data.inspection.describe.LABEL_ROWS", 40)
    sampled = h5ad.inspect([tmp_path / "a.h5ad"]).files[0].obs
    assert (sampled["name"].n_labels, sampled["name"].complete) == (40, False)
    assert (sampled["note"].n_labels, sampled["note"].complete) == (1, True), "categories are known"


def test_labels_of_an_old_anndata_are_read_as_labels_not_as_numbers(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5ad"
    shutil.copy(tiny_source / "L01.h5ad", path)
    with h5py.File(path, "r+") as file:
        codes, names = file["obs/drug_dose/codes"][()], file["obs/drug_dose/categories"][()]
        del file["obs/drug_dose"]
        kind = h5py.string_dtype()
        listed = file.create_dataset("obs/__categories/drug_dose", data=names, dtype=kind)
        file["obs/drug_dose"] = codes
        file["obs/drug_dose"].attrs["categories"] = listed.ref
    report = h5ad.inspect([path], tiny_settings)
    plain = h5ad.inspect([tiny_source / "L01.h5ad"], tiny_settings)
    assert not report.problems
    assert report.files[0].obs["drug_dose"] == plain.files[0].obs["drug_dose"]
    assert report.design is not None
    assert plain.design is not None
    assert report.design.table.equals(plain.design.table)


def test_the_same_file_twice_and_other_genes_are_found_without_settings(
    tiny_source: Path, tmp_path: Path
) -> None:
    adata = anndata.read_h5ad(tiny_source / "L02.h5ad")[:, 1:].copy()
    adata.write_h5ad(tmp_path / "b.h5ad")
    first = tiny_source / "L01.h5ad"
    report = h5ad.inspect([first, tmp_path / "b.h5ad", first])
    texts = [str(problem) for problem in report.problems]
    assert len(texts) == 2
    assert "twice" in texts[0]
    assert "1 missing, 0 more" in texts[1]
    assert h5ad.gene_difference(*report.files) == ([report.files[0].genes[0]], [])


def test_as_much_as_is_known_of_the_columns(tiny_source: Path) -> None:
    files = sorted(tiny_source.glob("L*.h5ad"))
    report = h5ad.inspect(files, Columns(pert_col="drug_dose", control_pert=("DMSO_TF",)))
    (problem,) = report.problems
    assert "no cell has the control label 'DMSO_TF'" in str(problem)
    assert "did you mean 'DMSO_TF_00'?" in str(problem)
    some = Columns(pert_col="drug_dose", cell_type_key="cell_line", control_pert=("DMSO_TF_00",))
    report = h5ad.inspect(files, some)
    assert not report.problems
    assert report.design is not None
    assert report.design.lines()["controls"].tolist() == [60] * 4
    (problem,) = h5ad.inspect(files[:1], Columns(batch_col="plate")).problems
    assert "no column 'plate'" in str(problem)
    assert "--batch-col" in str(problem)


def test_a_full_disk_is_a_problem(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "results" / "deeper"
    report = h5ad.inspect([tiny_source / "L01.h5ad"], tiny_settings, place=place)
    assert not report.problems
    assert report.needs is not None
    assert report.needs.place == tmp_path
    assert report.needs.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    (problem,) = h5ad.inspect([tiny_source / "L01.h5ad"], tiny_settings, place=place).problems
    assert "1e-06 GB are free" in str(problem)
    assert str(tmp_path) in str(problem)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("X/indptr", lambda old: None, "no 'indptr'"),
        ("X/indices", lambda old: old[:-1], "places"),
        ("X/indptr", lambda old: old[:-1], "entries instead of"),
        ("X/indptr", lambda old: np.r_[old[:-1], old[-1] - 1], "ends at"),
    ],
)
def test_a_damaged_matrix_is_one_problem(
    tiny_source: Path, tmp_path: Path, name: str, change: Callable, said: str
) -> None:
    path = tmp_path / "a.h5ad"
    shutil.copy(tiny_source / "L01.h5ad", path)
    with h5py.File(path, "r+") as file:
        new = change(file[name][()])
        del file[name]
        if new is not None:
            file[name] = new
    (problem,) = h5ad.inspect([path], full=False).problems
    assert "'X' is damaged" in str(problem)
    assert said in str(problem)


def test_full_says_what_all_cells_show(tiny_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statetx.data.h5ad.matrix.SAMPLE_ROWS", 8)
    path = tiny_source / "L01.h5ad"
    adata = anndata.read_h5ad(path)
    sampled = h5ad.inspect([path], full=False).files[0].seen
    every = h5ad.inspect([path]).files[0].seen
    assert (sampled.cells, every.cells) == (8, adata.n_obs)
    assert every.values == adata.X.nnz
    assert every.largest == every.largest_count == adata.X.max() > sampled.largest
