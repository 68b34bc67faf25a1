"""The Python interface: light to import, and every example in its docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import report_samples

import statetx
from statetx import api
from statetx.config.models import PerturbationMean
from statetx.core.errors import DataError, StatetxError
from statetx.evaluation.verdict.contract import Verdict
from statetx.training.fit import fit

HEAVY = ("torch", "lightning", "transformers", "numba", "scipy", "pandas", "numpy", "anndata")


@pytest.fixture(scope="module")
def model_directory(
    tiny_store: Path, tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    home = tmp_path_factory.mktemp("api")
    fit(
        tiny_store,
        tiny_plan,
        PerturbationMean(kind="perturbation_mean"),
        seed=0,
        out=home / "model",
        state_dir=home / "state",
        checkpoints_dir=home / "checkpoints",
    )
    return home / "model"


@pytest.fixture
def cells(tiny_source: Path) -> anndata.AnnData:
    return anndata.read_h5ad(tiny_source / "L01.h5ad")


def test_every_example_runs(
    model_directory: Path, cells: anndata.AnnData, tiny_source: Path, tmp_path: Path
) -> None:
    verdict = report_samples.verdict()
    verdict["comparisons"][0]["call"] = "BETTER"
    names = {
        "model_directory": model_directory,
        "cells": cells,
        "cells_file": tiny_source / "L01.h5ad",
        "verdict_file": report_samples.write(tmp_path / "verdict.json", verdict),
    }
    runner = doctest.DocTestRunner()
    examples = [
        test for test in doctest.DocTestFinder().find(api, extraglobs=names) if test.examples
    ]
    assert {test.name.rpartition(".")[2] for test in examples} == {
        *("evaluate", "inspect", "load_model", "predict", "read_verdict"),
    }
    for test in examples:
        assert runner.run(test).failed == 0


@pytest.mark.parametrize("writable", [True, False])
def test_importing_loads_nothing_heavy(writable: bool, tmp_path: Path) -> None:
    code = (
        f"import statetx, sys; print(statetx.__version__, [m for m in {HEAVY} if m in sys.modules])"
    )
    environment = dict(os.environ)
    if not writable:
        nowhere = str(tmp_path / "nowhere")
        environment |= {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "TMPDIR": nowhere}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == f"{statetx.__version__} []\n"


def test_the_interface_is_listed_and_nothing_else_is_there() -> None:
    assert {"evaluate", "inspect", "load_model", "predict", "read_verdict"} <= set(dir(statetx))
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        statetx.train  # noqa: B018


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("statetx.models.arc", "load"),
        ("statetx.models.pertsets", "PertSets"),
        ("statetx.models.losses", "energy"),
        ("statetx.evaluation.de", "rank_sum"),
        ("statetx.data.store", "open"),
        ("statetx.data.loader", "SetLoader"),
    ],
)
def test_public_names_can_be_imported(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(module), name))


def test_a_loaded_model_predicts_as_its_directory_does(
    model_directory: Path, cells: anndata.AnnData
) -> None:
    asked = pd.DataFrame({"perturbation": ["Drug01_5"], "cell_line": ["L01"], "n_cells": [7]})
    before = cells.copy()
    one = statetx.predict(model_directory, cells, asked)
    two = statetx.predict(statetx.load_model(model_directory), cells, asked)
    np.testing.assert_array_equal(one.X, two.X)
    assert one.shape == (7, len(statetx.load_model(model_directory).genes))
    assert set(one.obs["perturbation"]) == {"Drug01_5"}
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    with pytest.raises(StatetxError, match="Drug99_5"):
        statetx.predict(model_directory, cells, asked.assign(perturbation="Drug99_5"))


def test_tables_of_evaluate_are_those_of_the_command(
    tiny_source: Path, cells: anndata.AnnData, tmp_path: Path
) -> None:
    from statetx.evaluation.standalone.evaluate_files import evaluate_files

    path = tiny_source / "L01.h5ad"
    names = {"pert_col": "drug_dose", "control_pert": "DMSO_TF_00", "celltype_col": "cell_line"}
    tables = statetx.evaluate(cells, cells, **names, scale="counts", profile="minimal")
    evaluate_files(path, path, **names, out=tmp_path / "out", scale="counts", profile="minimal")
    written = pd.read_csv(tmp_path / "out" / "L01" / "results.csv")
    pd.testing.assert_frame_equal(
        tables.results.drop(columns="cell_line"), written, check_dtype=False, check_exact=True
    )
    scores = pd.read_csv(tmp_path / "out" / "L01" / "scores.csv")
    assert tables.scores["perturbation"].tolist() == scores["perturbation"].tolist()
    assert tables.aggregate["statistic"].tolist()[:3] == ["count", "null_count", "mean"]
    with pytest.raises(DataError, match="drug_doze"):
        statetx.evaluate(cells, cells, pert_col="drug_doze", control_pert="DMSO_TF_00")


def test_a_verdict_is_read_from_its_directory_too(tmp_path: Path) -> None:
    path = report_samples.write(tmp_path / "verdict.json", report_samples.verdict())
    assert statetx.read_verdict(tmp_path) == statetx.read_verdict(path)
    assert isinstance(statetx.read_verdict(path), Verdict)


def test_the_command_line_says_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "statetx", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == statetx.__version__
