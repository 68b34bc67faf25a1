"""Bad input: one clear error each, nothing written, the input as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from statetx.config import Dataset
from statetx.core.errors import DataError, ResultsError
from statetx.data.inspection import inspect as h5ad
from statetx.data.pack.pack import pack
from statetx.data.store.store import open_store

Change = Callable[[list[anndata.AnnData]], Any]


@pytest.fixture(scope="module")
def pair(tiny_source: Path) -> list[anndata.AnnData]:
    """Two small lines: every fifth cell of two files, and 40 genes in X."""
    out = []
    for line in ("L01", "L02"):
        adata = anndata.read_h5ad(tiny_source / f"{line}.h5ad")[::5, :40].copy()
        assert (adata.obs["drug_dose"] == "DMSO_TF_00").any()
        out.append(adata)
    return out


def relabel(adata: anndata.AnnData, name: str, change: Callable[[np.ndarray], None]) -> None:
    values = adata.obs[name].astype(object).to_numpy()
    change(values)
    adata.obs[name] = pd.Categorical(values)


def set_label(i: int, value: object) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[i] = value

    return change


def set_expression(matrix: str, value: float) -> Change:
    def change(pair: list[anndata.AnnData]) -> None:
        if matrix == "X":
            pair[1].X = pair[1].X.toarray()
            pair[1].X[3, 2] = value
        else:
            pair[1].obsm[matrix][3, 2] = value

    return change


def set_sparse(value: float) -> Change:
    def change(pair: list[anndata.AnnData]) -> None:
        pair[1].X.data[5] = value

    return change


def duplicate_gene(pair: list[anndata.AnnData]) -> None:
    pair[1].var_names = ["Gene0001", "Gene0001", *pair[1].var_names[2:]]


def other_genes(pair: list[anndata.AnnData]) -> None:
    pair[1] = pair[1][:, 1:].copy()


def no_controls(pair: list[anndata.AnnData]) -> None:
    pair[1] = pair[1][pair[1].obs["drug_dose"] != "DMSO_TF_00"].copy()


def logged(pair: list[anndata.AnnData]) -> None:
    pair[1].X = pair[1].X.log1p()


def counts_as_expression(pair: list[anndata.AnnData]) -> None:
    pair[1].obsm["X_hvg"] = np.rint(np.expm1(pair[1].obsm["X_hvg"]))


CASES: list[tuple[str, Change, dict[str, Any], tuple[str, ...]]] = [
    ("column", lambda p: p[1].obs.rename(columns={"drug_dose": "drug_dos"}, inplace=True), {},
     ("no column 'drug_dose'", "did you mean 'drug_dos'?", "pert_col", "b.h5ad")),
    ("line column", lambda p: p[1].obs.pop("cell_line"), {}, ("no column 'cell_line'", "cell_type_key")),
    ("batch column", lambda p: p[1].obs.pop("batch"), {}, ("no column 'batch'", "batch_col")),
    ("totals column", lambda p: None, {"total_counts_col": "n_total"}, ("no column 'n_total'",)),
    ("obsm", lambda p: None, {"expression_key": "X_hgv"}, ("obsm has no matrix 'X_hgv'", "did you mean 'X_hvg'?")),
    ("embedding", lambda p: p[1].obsm.pop("X_embedding"), {}, ("no matrix 'X_embedding'", "b.h5ad")),
    ("control", lambda p: None, {"control_pert": "DMSO_TF"}, ("'DMSO_TF'", "did you mean 'DMSO_TF_00'?", "control_pert")),
    ("NaN label", lambda p: relabel(p[1], "drug_dose", set_label(4, np.nan)), {},
     ("obs['drug_dose'] has no label in 1 of", "row 4", "b.h5ad")),
    ("NaN line", lambda p: relabel(p[1], "cell_line", set_label(2, np.nan)), {}, ("obs['cell_line']", "row 2")),
    ("NaN batch", lambda p: relabel(p[1], "batch", set_label(2, np.nan)), {}, ("obs['batch']", "row 2")),
    ("NaN turned to text", lambda p: relabel(p[1], "drug_dose", set_label(4, "nan")), {}, ("no label in 1 of",)),
    ("empty label", lambda p: relabel(p[1], "cell_line", set_label(0, "")), {}, ("no label in 1 of", "row 0")),
    ("NaN in dense X", set_expression("X", np.nan), {}, ("'X' holds values that are not finite: nan in row 3", "'Gene0003'", "b.h5ad")),
    ("inf in dense X", set_expression("X", np.inf), {}, ("not finite: inf in row 3", "'Gene0003'")),
    ("negative dense X", set_expression("X", -1.0), {}, ("negative: -1 in row 3", "'Gene0003'")),
    ("NaN in sparse X", set_sparse(np.nan), {}, ("not finite", "b.h5ad")),
    ("negative sparse X", set_sparse(-2.0), {}, ("negative: -2", "b.h5ad")),
    ("NaN expression", set_expression("X_hvg", np.nan), {}, ("obsm/X_hvg", "not finite", "row 3")),
    ("negative expression", set_expression("X_hvg", -0.5), {}, ("obsm/X_hvg", "negative: -0.5 in row 3")),
    ("inf in an embedding", set_expression("X_embedding", -np.inf), {}, ("obsm/X_embedding", "not finite: -inf in row 3, column 2")),
    ("duplicate genes", duplicate_gene, {}, ("1 gene names occur more than once: 'Gene0001'", "b.h5ad")),
    ("other genes", other_genes, {}, ("1 missing ('Gene0001')", "b.h5ad", "a.h5ad")),
    ("no controls", no_controls, {}, ("1 of 2 cell lines have no control cell: 'L02'", "b.h5ad")),
    ("log as counts", logged, {}, ("'X' is declared as counts but looks log-transformed", "scale: log1p", "b.h5ad")),
    ("counts as log", lambda p: None, {"scale": "log1p"}, ("declared as log1p but looks like counts", "scale: counts", "a.h5ad")),
    ("counts in the expression matrix", counts_as_expression, {}, ("obsm/X_hvg", "looks like counts", "b.h5ad")),
    ("no gene names", lambda p: p[1].uns.pop("hvg_names"), {}, ("which genes", "uns['hvg_names']", "b.h5ad")),
    ("too few names", lambda p: p[1].uns.update(hvg_names=p[1].uns["hvg_names"][:9]), {}, ("names 9 genes", "60 columns")),
    ("other names", lambda p: p[1].uns.update(hvg_names=p[1].uns["hvg_names"][::-1]), {}, ("genes of obsm['X_hvg'] are ordered differently",)),
    ("zero totals", lambda p: [a.obs.__setitem__("t", 0.0) for a in p], {"total_counts_col": "t"}, ("obs['t'] is 0 in row 0",)),
]  # fmt: skip


def write(pair: list[anndata.AnnData], directory: Path) -> list[Path]:
    paths = [directory / "a.h5ad", directory / "b.h5ad"]
    for adata, path in zip(pair, paths, strict=True):
        adata.write_h5ad(path)
    return paths


@pytest.mark.parametrize(("change", "settings", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])  # fmt: skip
def test_refused_with_one_clear_error(
    pair: list[anndata.AnnData],
    tiny_settings: Dataset,
    tmp_path: Path,
    change: Change,
    settings: dict[str, Any],
    said: tuple[str, ...],
) -> None:
    copies = [adata.copy() for adata in pair]
    change(copies)
    paths = write(copies, tmp_path)
    before = [path.read_bytes() for path in paths]
    declared = tiny_settings.model_copy(update=settings)
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        pack(paths, declared, "bad", out)
    for piece in said:
        assert piece in str(caught.value)
    assert caught.value.where
    assert caught.value.fix
    assert not out.exists() or not list(out.iterdir()), "something was left behind"
    assert [path.read_bytes() for path in paths] == before
    problems = [str(problem) for problem in h5ad.inspect(paths, declared).problems]
    assert str(caught.value) in problems, "inspect must find what stops pack"


def test_the_untouched_pair_is_fine(
    pair: list[anndata.AnnData], tiny_settings: Dataset, tmp_path: Path
) -> None:
    paths = write(pair, tmp_path)
    pack(paths, tiny_settings, "good", tmp_path / "out")
    assert not h5ad.inspect(paths, tiny_settings).problems


def test_a_bad_cell_beyond_the_sample_is_found(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statetx.data.h5ad.matrix.SAMPLE_ROWS", 8)
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    adata.X = adata.X.toarray()
    adata.X[150, 7] = -3.0
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match=r"negative: -3 in row 150, gene 'Gene0008'"):
        pack([tmp_path / "a.h5ad"], tiny_settings, "bad", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_log_values_beyond_the_sample_are_found(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statetx.data.h5ad.matrix.SAMPLE_ROWS", 8)
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    values = np.minimum(adata.X.toarray(), 3)
    values[150] = np.log1p(values[150])
    adata.X = values
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match="looks log-transformed"):
        pack([tmp_path / "a.h5ad"], tiny_settings, "bad", tmp_path / "out")


def test_unreadable_files(tiny_source: Path, tiny_settings: Dataset, tmp_path: Path) -> None:
    whole = (tiny_source / "L01.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.h5ad").write_text("not an h5ad")
    for name, said in (
        ("cut.h5ad", "truncated"),
        ("text.h5ad", "cannot read"),
        ("none.h5ad", "does not exist"),
    ):
        for call in (
            lambda path: pack([path], tiny_settings, "bad", tmp_path / "out"),
            lambda path: h5ad.identity(path, ["drug_dose"]),
            lambda path: h5ad.cell_lines([path], "cell_line"),
        ):
            with pytest.raises(DataError, match=said) as caught:
                call(tmp_path / name)
            assert name in str(caught.value)
        assert len(h5ad.inspect([tmp_path / name], tiny_settings).problems) == 1
    assert not (tmp_path / "out").exists()


def test_results_directory_not_writable(
    tiny_source: Path, tiny_settings: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultsError, match="cannot create this directory") as caught:
        pack([tiny_source / "L01.h5ad"], tiny_settings, "bad", tmp_path / "file" / "pack")
    assert "file/pack" in str(caught.value)


def test_a_file_without_cells(tiny_source: Path, tiny_settings: Dataset, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(tiny_source / "L01.h5ad")
    adata[:0].copy().write_h5ad(tmp_path / "empty.h5ad")
    with pytest.raises(DataError, match="no cell has the control label"):
        pack([tmp_path / "empty.h5ad"], tiny_settings, "bad", tmp_path / "out")
    both = [tmp_path / "empty.h5ad", tiny_source / "L01.h5ad"]
    pack(both, tiny_settings, "good", tmp_path / "out")
    assert open_store(tmp_path / "out").line("L01").n_cells == adata.n_obs


def test_the_same_file_twice(tiny_source: Path, tiny_settings: Dataset, tmp_path: Path) -> None:
    path = tiny_source / "L01.h5ad"
    with pytest.raises(DataError, match="twice"):
        pack([path, path.parent / "." / path.name], tiny_settings, "bad", tmp_path)
    with pytest.raises(DataError, match="no files"):
        pack([], tiny_settings, "bad", tmp_path)
