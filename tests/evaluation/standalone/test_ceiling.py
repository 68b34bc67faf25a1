"""cell-eval's ceiling: the same halves, the same numbers."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from cell_eval_fixture import EXPECTED, GENES, make

from statetx.core.errors import ConfigError, DataError
from statetx.evaluation.cell_eval import clustering
from statetx.evaluation.standalone.ceiling import ceiling_files, ceiling_of


def cells() -> ad.AnnData:
    _, values, labels = make(predicted=False)
    obs = pd.DataFrame({"drug": labels, "line": "A/B"}, index=[f"c{i}" for i in range(len(labels))])
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=GENES))


def assert_same(got: Path, expected: str) -> None:
    absent = {"clustering_agreement"} if clustering.why_absent() else set()
    ours = list(csv.DictReader(got.read_text().splitlines()))
    theirs = list(csv.DictReader((EXPECTED / expected).read_text().splitlines()))
    for a, b in zip(ours, theirs, strict=True):
        assert list(a) == [name for name in b if name not in absent]
        for column in a:
            if b[column] in ("", "NaN") or column == "perturbation":
                assert a[column] == b[column], column
            else:
                assert math.isclose(float(a[column]), float(b[column]), abs_tol=1e-9), column


def test_halves_and_numbers_of_cell_eval(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "real.h5ad")
    ceiling_files(tmp_path / "real.h5ad", "drug", "ctrl", out=tmp_path)
    assert_same(tmp_path / "ceiling_results.csv", "cell_eval_ceiling_results.csv")
    assert_same(tmp_path / "agg_ceiling_results.csv", "cell_eval_agg_ceiling_results.csv")
    ceiling_files(tmp_path / "real.h5ad", "drug", "ctrl", "line", out=tmp_path / "lines")
    assert_same(tmp_path / "lines/A-B/ceiling_results.csv", "cell_eval_ceiling_results.csv")


def test_order_of_categories_odd_numbers_and_a_single_cell(tmp_path: Path, caplog) -> None:
    """Random numbers go to labels in the order of the column's categories."""
    whole = cells()
    keep = np.ones(whole.n_obs, dtype=bool)
    keep[np.flatnonzero(whole.obs["drug"] == "pC")[1:]] = False
    keep[np.flatnonzero(whole.obs["drug"] == "g3")[0]] = False
    few = whole[keep].copy()
    order = ["pC", "pB", "ctrl", "g7", "g3", "pA"]
    few.obs["drug"] = pd.Categorical(few.obs["drug"].astype(str), categories=order)
    few.write_h5ad(tmp_path / "real.h5ad")
    with caplog.at_level(logging.WARNING):
        ceiling_files(tmp_path / "real.h5ad", "drug", "ctrl", out=tmp_path)
    assert "1 perturbations have fewer than 2 cells and are not in the ceiling: pC" in caplog.text
    assert_same(tmp_path / "ceiling_results.csv", "cell_eval_ceiling_results_in_order.csv")


def test_full_depth() -> None:
    assert ceiling_of("pearson_delta", [0.5, 0.5]) == pytest.approx(2 / 3)
    assert ceiling_of("de_direction_match", [1.0, None]) == 1.0
    for column in ([-0.5], [0.0], [math.nan, 1.0], [None]):
        assert math.isnan(ceiling_of("pearson_delta", column))
    assert math.isnan(ceiling_of("mse", [0.5]))


@pytest.mark.parametrize("single", ["the control 'ctrl'", "every perturbation"])
def test_too_few_cells(tmp_path: Path, single: str) -> None:
    whole = cells()
    names = {"ctrl"} if "ctrl" in single else set(whole.obs["drug"]) - {"ctrl"}
    first = ~whole.obs["drug"].duplicated()
    whole[~whole.obs["drug"].isin(names) | first].copy().write_h5ad(tmp_path / "real.h5ad")
    with pytest.raises(DataError, match=f"{single} has fewer than 2 cells"):
        ceiling_files(tmp_path / "real.h5ad", "drug", "ctrl", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_calls(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "real.h5ad")
    with pytest.raises(ConfigError, match="no metric profile"):
        ceiling_files(tmp_path / "real.h5ad", "drug", "ctrl", out=tmp_path, profile="fool")
    with pytest.raises(DataError, match="no control cells 'cttrl'"):
        ceiling_files(tmp_path / "real.h5ad", "drug", "cttrl", out=tmp_path)
