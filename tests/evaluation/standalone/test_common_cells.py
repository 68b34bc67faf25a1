"""Files that share some cells, values a little off, genes under other names: scored, or mended."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from test_bad_pairs import evaluate, side, without

from statetx.core.errors import DataError
from statetx.evaluation.standalone.evaluate_files import evaluate_files

OPTIONS: dict[str, Any] = {"celltype_col": "line", "profile": "pds", "embed_key": "emb"}


def tables(home: Path, line: str) -> list[str]:
    return [(home / "out" / line / name).read_text() for name in ("results.csv", "scores.csv")]


@pytest.mark.parametrize("scale", ["log1p", "counts"])
def test_common_only_scores_as_if_the_files_held_nothing_else(scale: str, tmp_path: Path) -> None:
    pred, real = side(True, scale), side(False, scale)
    fewer, lines = without("drug", "pA", "pB")(pred), without("drug", "g3")(real)
    (tmp_path / "own").mkdir()
    (tmp_path / "cut").mkdir()
    evaluate(tmp_path / "own", fewer, lines, scale=scale, common_only=True, **OPTIONS)
    both = without("drug", "g3")(fewer), without("drug", "pA", "pB")(lines)
    evaluate(tmp_path / "cut", *both, scale=scale, **OPTIONS)
    for line in ("A", "B"):
        assert tables(tmp_path / "own", line) == tables(tmp_path / "cut", line)


def test_common_only_names_what_it_leaves_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pred = without("line", "B")(without("drug", "pA")(side(True)))
    with caplog.at_level(logging.WARNING):
        evaluate(tmp_path, pred, side(False), common_only=True, **OPTIONS)
    assert "cell line A: 1 perturbations are only real and are left out: 'pA'" in caplog.text
    assert "cell line B has nothing in common and is left out" in caplog.text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["A"]


def test_common_only_keeps_to_the_real_controls(tmp_path: Path) -> None:
    pred = without("drug", "pA", "ctrl")(side(True))
    found = evaluate(tmp_path, pred, side(False), common_only=True, profile="pds")
    assert found["all"].labels == ["g3", "g7", "pB", "pC"]


def test_nothing_in_common(tmp_path: Path) -> None:
    pred, real = (
        without("drug", "g3", "g7", "pA")(side(True)),
        without("drug", "pB", "pC")(side(False)),
    )
    with pytest.raises(DataError, match="no perturbation of a cell line in common"):
        evaluate(tmp_path, pred, real, common_only=True)
    assert not (tmp_path / "out").exists()


def test_all_missing_perturbations_are_listed(tmp_path: Path) -> None:
    pred = without("drug", "pA", "pB", "g7")(side(True))
    with pytest.raises(DataError) as caught:
        evaluate(tmp_path, pred, side(False))
    assert "does not contain 3 of 5 perturbations of cell line 'all': 'g7', 'pA', 'pB'" in str(
        caught.value
    )
    assert "did you mean" not in str(caught.value)
    assert "--common-only" in str(caught.value)
    pred = side(True)
    pred.obs["drug"] = pred.obs["drug"].astype(str).replace("pA", "PA")
    with pytest.raises(DataError, match="did you mean 'PA'"):
        evaluate(tmp_path, pred, side(False))


# ---------------------------------------------------------------------------------------------
# negative values


def shifted(by: float, kind: Any) -> ad.AnnData:
    """A prediction with about a third of its values below 0, the least `-by`."""
    out = side(True)
    x = np.asarray(out.X, dtype=np.float32).copy()
    x[x == 0] = -by
    out.X = kind(x)
    return out


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("by", [1e-7, 0.05])
def test_values_slightly_below_zero_are_clipped_when_asked(
    by: float, kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match="values are negative") as caught:
        evaluate(tmp_path, shifted(by, kind), side(False))
    assert "adata.X.clip(0)" in str(caught.value)
    assert "--clip-negative" in str(caught.value)
    assert "z-scored" not in str(caught.value)
    (tmp_path / "mended").mkdir()
    mended = shifted(by, kind)
    dense = np.asarray(mended.X.todense() if sparse.issparse(mended.X) else mended.X)
    mended.X = kind(dense.clip(0))
    evaluate(tmp_path / "mended", mended, side(False), celltype_col="line")
    with caplog.at_level(logging.WARNING):
        evaluate(tmp_path, shifted(by, kind), side(False), clip_negative=True, celltype_col="line")
    assert "they are set to 0" in caplog.text
    assert tables(tmp_path, "A") == tables(tmp_path / "mended", "A")


@pytest.mark.parametrize("clip", [False, True])
def test_scaled_values_are_refused_all_the_same(clip: bool, tmp_path: Path) -> None:
    scaled = side(True)
    x = np.asarray(scaled.X, dtype=np.float32)
    scaled.X = ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)).clip(-10, 10)
    with pytest.raises(DataError, match="values are negative") as caught:
        evaluate(tmp_path, scaled, side(False), clip_negative=clip)
    assert "z-scored" in str(caught.value)
    assert "--clip-negative" not in str(caught.value)


def test_real_cells_are_never_clipped(tmp_path: Path) -> None:
    real = shifted(1e-7, np.asarray)
    with pytest.raises(DataError, match=r"values are negative[^\0]*real\.h5ad"):
        evaluate(tmp_path, side(True), real, clip_negative=True)


# ---------------------------------------------------------------------------------------------
# decimals as counts


def corrected(predicted: bool, change: Any) -> ad.AnnData:
    out = side(predicted, "counts")
    x = np.asarray(out.X, dtype=np.float64) * 40
    out.X = change(x, np.random.default_rng(0)).astype(np.float32)
    return out


def test_corrected_counts_are_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pred = corrected(True, lambda x, rng: x * rng.uniform(0.8, 1, x.shape))
    real = corrected(False, lambda x, rng: x)
    with caplog.at_level(logging.INFO):
        evaluate(tmp_path, pred, real, scale="counts", profile="pds")
    assert "pred.h5ad, X holds decimals, which are taken as corrected counts" in caplog.text
    assert "real.h5ad, X holds decimals" not in caplog.text


def test_normalised_values_are_not_counts(tmp_path: Path) -> None:
    pred = corrected(True, lambda x, rng: x / x.sum(axis=1, keepdims=True) * 1e4)
    with pytest.raises(DataError, match="normalised: the values of every cell sum to 10,000"):
        evaluate(tmp_path, pred, corrected(False, lambda x, rng: x), scale="counts")


# ---------------------------------------------------------------------------------------------
# genes under other names


@pytest.mark.parametrize("column", ["feature_name", "gene_symbols"])
def test_the_column_with_the_right_names_is_proposed(column: str, tmp_path: Path) -> None:
    pred = side(True)
    pred.var[column] = pd.Categorical(list(pred.var_names))
    pred.var["other"] = "x"
    pred.var_names = [f"ENSG{i:011d}.{i % 5}" for i in range(pred.n_vars)]
    with pytest.raises(DataError, match="the genes of the files differ") as caught:
        evaluate(tmp_path, pred, side(False))
    line = f"adata.var_names = adata.var['{column}'].astype(str).to_numpy()"
    assert (
        f"in pred.h5ad, {pred.n_vars} of these {pred.n_vars} names are in the file: {line}"
        in str(caught.value)
    )
    adata = ad.read_h5ad(tmp_path / "pred.h5ad")
    exec(line, {"adata": adata})
    evaluate(tmp_path, adata, side(False), profile="pds")


def test_ensembl_ids_without_versions_are_proposed(tmp_path: Path) -> None:
    pred, real = side(True), side(False)
    pred.var_names = [f"ENSG{i:011d}" for i in range(pred.n_vars)]
    real.var_names = [f"ENSG{i:011d}.{i % 5}" for i in range(pred.n_vars)]
    with pytest.raises(DataError) as caught:
        evaluate(tmp_path, pred, real)
    line = 'adata.var_names = adata.var_names.to_series().str.split(".").str[0].to_numpy()'
    assert "in real.h5ad" in str(caught.value)
    assert line in str(caught.value)
    exec(line, {"adata": real})
    real.write_h5ad(tmp_path / "real.h5ad")
    evaluate_files(
        tmp_path / "pred.h5ad", tmp_path / "real.h5ad", "drug", "ctrl", out=tmp_path / "out",
        profile="pds",
    )  # fmt: skip
