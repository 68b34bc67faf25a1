"""Somebody's two files: cell-eval's numbers, scale, controls, lines, and what is wrong with them."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path

import anndata as ad
import numba
import numpy as np
import pandas as pd
import pytest
from cell_eval_fixture import EXPECTED, GENES, make
from scipy import sparse

from statetx.core.errors import ConfigError, DataError
from statetx.evaluation.scores.columns import COLUMNS
from statetx.evaluation.standalone.cells_file import log_normalised, median_total
from statetx.evaluation.standalone.evaluate_files import evaluate_files


def data(predicted: bool, scale: str = "log1p", kind=np.asarray) -> ad.AnnData:
    counts, values, labels = make(predicted)
    obs = pd.DataFrame({"drug": labels, "line": "A/B"}, index=[f"c{i}" for i in range(len(labels))])
    x = kind(counts if scale == "counts" else values)
    out = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES))
    out.obsm["emb"] = values[:, :5]
    return out


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    data(False).write_h5ad(tmp_path / "real.h5ad")
    data(True).write_h5ad(tmp_path / "pred.h5ad")
    return tmp_path / "pred.h5ad", tmp_path / "real.h5ad", tmp_path / "out"


def run(files: tuple[Path, Path, Path], **options):
    pred, real, out = files
    return evaluate_files(pred, real, "drug", "ctrl", out=out, **options)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_every_number_from_files(files, kind) -> None:
    pred, real, out = files
    data(False, kind=kind).write_h5ad(real)
    data(True, kind=kind).write_h5ad(pred)
    before = real.read_bytes()
    run(files)
    assert real.read_bytes() == before
    for name in ("results", "agg_results"):
        got = list(csv.DictReader((out / f"{name}.csv").read_text().splitlines()))
        expected = list(
            csv.DictReader((EXPECTED / f"cell_eval_{name}.csv").read_text().splitlines())
        )
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            for column in a:
                if b[column] in ("", "NaN") or column in ("perturbation", "statistic"):
                    assert a[column] == b[column], column
                else:
                    assert math.isclose(float(a[column]), float(b[column]), abs_tol=1e-9), column
    assert {path.name for path in out.iterdir()} == {
        *("results.csv", "agg_results.csv", "scores.csv", "real_de.parquet", "pred_de.parquet")
    }
    theirs = pd.read_csv(EXPECTED / "cell_eval_real_de.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(pd.read_parquet(out / "real_de.parquet"), theirs, rtol=1e-9)
    scores = pd.read_csv(out / "scores.csv")
    assert scores["perturbation"].tolist() == ["g3", "g7", "pA", "pB", "pC"]
    undefined = {  # no training cells, no doses, 20 cells, 30 genes
        *("pearson_delta_perturbed", "dose_rho", "dose_rho_real", "dose_response"),
        *("cell_covariance", "lfc_nmae"),
    }
    assert scores[[c for c in COLUMNS if c not in undefined]].iloc[:4].notna().all(None)
    # Equal numbers on both sides, so U energy is that of all cells; pB is in the fixture's table.
    row = scores.set_index("perturbation").loc["pB"]
    assert row["energy"] == pytest.approx(-0.018976406, abs=1e-8)


def test_one_profile_for_all_has_no_effect_sizes_to_correlate(files) -> None:
    """Their energy distances differ by rounding, which cell-eval correlates."""
    pred = ad.read_h5ad(files[0])
    pred.X[pred.obs["drug"] != "ctrl"] = pred.X.mean(axis=0)
    pred.write_h5ad(files[0])
    got = run(files)["all"].columns
    assert all(math.isnan(value) for value in got["pearson_edistance"])
    assert not any(math.isnan(value) for value in got["pearson_delta"])


def test_what_is_there_stays_and_what_fails_leaves_nothing(files, monkeypatch) -> None:
    out = files[2]
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    run(files)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert before["mine.txt"] == b"kept"
    monkeypatch.setattr(
        "statetx.evaluation.standalone.evaluate_files.write_aggregate", lambda *_: 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run(files, profile="pds")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_prediction_without_controls_takes_the_real_ones(files, caplog) -> None:
    pred, _, out = files
    whole = data(True)
    whole[whole.obs["drug"] != "ctrl"].copy().write_h5ad(pred)
    with caplog.at_level(logging.WARNING):
        run(files)
    assert "no controls" in caplog.text
    lone = pd.read_csv(out / "results.csv")
    pd.testing.assert_series_equal(lone["mse"], lone["mse_delta"], check_names=False)
    both = pd.read_csv(EXPECTED / "cell_eval_results.csv")
    np.testing.assert_allclose(lone["mse"], both["mse"])
    assert (lone["pearson_delta"] - both["pearson_delta"]).abs().max() > 0.01


def test_lines_get_directories_and_profiles_columns(files) -> None:
    result = run(files, celltype_col="line", profile="pds")
    assert set(result) == {"A/B"}
    header = (files[2] / "A-B" / "results.csv").read_text().splitlines()[0]
    assert header == "perturbation,discrimination_score_l1"
    assert not (files[2] / "results.csv").exists()


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_genes_are_put_in_order_by_name(files, kind, caplog) -> None:
    expected = run(files)["all"]
    data(True, kind=kind)[:, np.random.default_rng(0).permutation(30)].copy().write_h5ad(files[0])
    with caplog.at_level(logging.INFO, logger="statetx"):
        got = run(files)["all"]
    assert "genes are put into the order" in caplog.text
    for column, values in expected.columns.items():
        assert got.columns[column] == pytest.approx(values, abs=1e-9, nan_ok=True), column


@pytest.mark.parametrize("threads", [1, 2])
def test_tests_alone_are_the_same_whoever_makes_them(files, threads: int) -> None:
    """With nothing but tests to make, threads make them label by label."""
    pred, real, out = files
    run(files)
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        run((pred, real, out / "alone"), skip=["pearson_edistance"], with_scores=False)
    finally:
        numba.set_num_threads(before)
    assert not (out / "alone" / "scores.csv").exists()
    for side in ("real_de", "pred_de"):
        assert (out / f"{side}.parquet").read_bytes() == (
            out / "alone" / f"{side}.parquet"
        ).read_bytes()
    whole, alone = (pd.read_csv(home / "results.csv") for home in (out, out / "alone"))
    pd.testing.assert_frame_equal(whole.drop(columns="pearson_edistance"), alone)


def test_skipped_metrics_are_left_out(files) -> None:
    result = run(files, skip=["pearson_edistance", "de_nsig_counts", "clustering_agreement"])["all"]
    full = run(files)["all"]
    gone = {"pearson_edistance", "de_nsig_counts_real", "de_nsig_counts_pred"}
    gone |= {"clustering_agreement"} & set(full.columns)
    assert set(full.columns) - set(result.columns) == gone
    with pytest.raises(ConfigError, match="no metric 'pearson_edist' to skip"):
        run(files, skip=["pearson_edist"])


def test_an_embedding_moves_l2_and_cosine_only(files) -> None:
    plain = run(files)["all"].columns
    moved = run(files, embed_key="emb")["all"].columns
    assert moved["discrimination_score_l1"] == plain["discrimination_score_l1"]
    assert moved["pearson_delta"] == plain["pearson_delta"]
    assert moved["discrimination_score_cosine"] != plain["discrimination_score_cosine"]


def test_counts_are_normalised_as_scanpy_does(files, caplog) -> None:
    sc = pytest.importorskip("scanpy")
    for kind in (np.asarray, sparse.csr_matrix):
        raw = data(False, "counts")
        raw.X[3] = 0  # an empty cell
        own = kind(raw.X)
        raw.X = own.copy()
        sc.pp.normalize_total(raw)
        sc.pp.log1p(raw)
        expected = raw.X.toarray() if sparse.issparse(raw.X) else raw.X
        totals = np.asarray(own.sum(axis=1), dtype=float).ravel()
        got = log_normalised(own, median_total(totals, sparse.issparse(own)))
        got = got.toarray() if sparse.issparse(got) else got
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    data(False, "counts").write_h5ad(files[1])
    data(True, "counts").write_h5ad(files[0])
    with caplog.at_level(logging.WARNING):
        run(files, scale="counts")
    assert "median counts per cell differ" in caplog.text


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_counts_are_rounded_as_scanpy_rounds_them(kind, dtype) -> None:
    """Total and quotient in the precision of the cells, float32 for integers: to the last bit."""
    counts = make(predicted=False)[0].astype(dtype)
    wide = np.float64 if dtype == np.float64 else np.float32
    target = 403.0
    totals = counts.sum(axis=1, dtype=np.float64).astype(wide)
    expected = np.log1p(counts.astype(wide) / (totals / wide(target))[:, None])
    got = log_normalised(kind(counts), target)
    got = got.toarray() if sparse.issparse(got) else got
    assert got.dtype == wide
    np.testing.assert_array_equal(got, expected)


def test_control_aliases(files) -> None:
    pred, real, out = files
    renamed = data(True)
    renamed.obs["drug"] = renamed.obs["drug"].astype(str).replace("ctrl", "vehicle")
    renamed.write_h5ad(pred)
    result = evaluate_files(pred, real, "drug", ["ctrl", "vehicle"], out=out)
    assert result["all"].labels == ["g3", "g7", "pA", "pB", "pC"]
    with pytest.raises(DataError, match=r"real cells do not contain 1 of 6 .*'vehicle'"):
        run(files)


def set_x(a: ad.AnnData, value: float) -> ad.AnnData:
    a.X[3, 2] = value
    return a


def set_label(a: ad.AnnData, value: object) -> ad.AnnData:
    a.obs["drug"] = a.obs["drug"].astype(object)
    a.obs.iloc[0, 0] = value
    return a


def twice(a: ad.AnnData) -> ad.AnnData:
    a.var_names = ["g0", "g0", *GENES[2:]]
    return a


BAD = {
    "nan": (lambda a: set_x(a, np.nan), "NaN or infinite"),
    "inf": (lambda a: set_x(a, np.inf), "NaN or infinite"),
    "negative": (lambda a: set_x(a, -1), "negative"),
    "large": (lambda a: set_x(a, 20), "not log1p values: the largest is 20"),
    "counts": (lambda a: data(True, "counts"), "not log1p values: all values are whole"),
    "gene": (lambda a: a[:, 1:].copy(), r"the genes of the files differ: 1 \('g0'\) only real"),
    "twice": (twice, "more than once: 'g0'"),
    "missing": (
        lambda a: a[a.obs["drug"] != "pA"].copy(),
        "does not contain 1 of 5 perturbations .*: 'pA'",
    ),
    "unknown": (
        lambda a: set_label(a, "pAA"),
        "real cells do not contain 1 of 6 predicted .*: 'pAA'",
    ),
    "unlabelled": (lambda a: set_label(a, None), "no label in 1 of 182"),
    "column": (lambda a: ad.AnnData(a.X, var=a.var), "obs has no column 'drug'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_predictions(name: str, files) -> None:
    change, message = BAD[name]
    change(data(True)).write_h5ad(files[0])
    with pytest.raises(DataError, match=message) as caught:
        run(files)
    assert caught.value.fix
    assert caught.value.where
    assert not files[2].exists()


def test_bad_calls(files) -> None:
    with pytest.raises(DataError, match="no control cells 'cttrl'") as caught:
        evaluate_files(files[0], files[1], "drug", "cttrl", out=files[2])
    assert "did you mean 'ctrl'" in caught.value.fix
    with pytest.raises(DataError, match="these are not counts"):
        run(files, scale="counts")
    with pytest.raises(ConfigError, match="no scale 'raw'"):
        run(files, scale="raw")
    with pytest.raises(ConfigError, match="no metric profile"):
        run(files, profile="fool")
    with pytest.raises(DataError, match="no obsm matrix 'embb'"):
        run(files, embed_key="embb")
    files[0].write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot read this file"):
        run(files)
    assert not files[2].exists()
