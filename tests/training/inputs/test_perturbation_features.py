"""Networks that know perturbations by features: tables, what they refuse, labels never trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file
from small_model import small
from typer.testing import CliRunner

from statetx.cli.main import app
from statetx.core.errors import DataError, ModelError
from statetx.data.store.plan import read_plan, write_plan
from statetx.data.store.store import open_store
from statetx.inference.infer import infer
from statetx.inference.predict import predict
from statetx.models import model_dir
from statetx.models.kinds.pertsets import FEATURES
from statetx.training import fit_network
from statetx.training.fit import fit
from statetx.training.inputs.perturbation_features import read_features
from statetx.training.loop.lightning_module import PertSetsModule

CONTROL = "DMSO_TF_00"
NEW = ["Drug01_0.5", "Drug01_5"]
"""Tested, never trained."""
KEY = "perturbation_features_file"


@pytest.fixture(scope="module")
def table(tiny_store: Path) -> pd.DataFrame:
    """Features of all labels but the control, and of one that no cell has; unsorted."""
    labels = sorted({*open_store(tiny_store).conditions["perturbation"]} - {CONTROL})
    labels = [*reversed(labels), "Elsewhere_1"]
    values = np.random.default_rng(0).normal(size=(len(labels), 4)).round(3)
    return pd.DataFrame(values, columns=["a", "b", "c", "d"], index=pd.Index(labels, name="drug"))


@pytest.fixture(scope="module")
def plan(tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drug01 is tested in all lines and nowhere trained, as by `drug_out`."""
    whole = read_plan(tiny_plan).table.copy()
    whole.loc[whole["perturbation"].isin(NEW), "role"] = "test"
    write_plan(whole, path := tmp_path_factory.mktemp("plan") / "plan.parquet")
    return path


@pytest.fixture(scope="module")
def model(
    tiny_store: Path, plan: Path, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Model directory of a network trained with the table."""
    home = tmp_path_factory.mktemp("features")
    table.to_csv(home / "f.csv")
    places = (home / "model", home / "state", home / "checkpoints")
    keep = ["best", "last", "step=2"]
    fit(tiny_store, plan, small(**{KEY: str(home / "f.csv")}), 0, *places, keep=keep)
    (home / "f.csv").unlink()  # whatever comes later must not need it
    return home / "model"


def test_the_model_directory_holds_the_table(model: Path, table: pd.DataFrame) -> None:
    meta = json.loads((model / "model.json").read_text())
    assert meta["perturbations"] == [CONTROL, *sorted(table.index)]
    assert meta["perturbations_untrained"] == [*NEW, "Elsewhere_1"]
    assert meta["perturbation_features"]["columns"] == ["a", "b", "c", "d"]
    assert meta["architecture"]["pert_dim"] == 4
    for name in ("best", "last", "step=2"):
        held = load_file(model / f"{name}.safetensors")[FEATURES]
        assert held.dtype == np.float32
        np.testing.assert_array_equal(held[0], 0)  # the control has no row
        expected = table.loc[meta["perturbations"][1:]].to_numpy(np.float32)
        np.testing.assert_array_equal(held[1:], expected)


def test_features_are_what_the_network_is_given(
    train: Callable[..., Path], table: pd.DataFrame, plan: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """For every set the vector of its own label, in training and in validation."""
    table.to_csv(tmp_path / "f.csv")
    seen: list[tuple[str, np.ndarray]] = []

    class Watched(fit_network.PertSets):  # type: ignore[name-defined, misc]
        def forward(self, control: Any, given: Any, *rest: Any) -> Any:
            seen.append(("train" if self.training else "val", given.numpy()))
            return super().forward(control, given, *rest)

    ids: list[np.ndarray] = []
    given = PertSetsModule._given
    monkeypatch.setattr(
        PertSetsModule, "_given", lambda s, b: (ids.append(b.perturbation.numpy()), given(s, b))[1]
    )
    monkeypatch.setattr(fit_network, "PertSets", Watched)
    out = train(small(**{KEY: str(tmp_path / "f.csv")}), plan_path=plan)
    labels = json.loads((out / "model.json").read_text())["perturbations"]
    rows = np.vstack([np.zeros(4), table.loc[labels[1:]].to_numpy()]).astype(np.float32)
    assert len(seen) == len(ids)
    assert {how for how, _ in seen} == {"train", "val"}
    for (_, vectors), own in zip(seen, ids, strict=True):
        np.testing.assert_array_equal(vectors, rows[own])


def test_labels_that_were_never_trained_are_predicted_from_their_features(
    model: Path, tiny_store: Path, plan: Path, tmp_path: Path
) -> None:
    asked = {"line": "L01", "checkpoint": "best", "max_cells": 1500, "seed": 0}
    predict(model, tiny_store, plan, out=tmp_path / "p.h5ad", **asked)  # type: ignore[arg-type]
    found = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert set(found.obs["perturbation"]) == set(NEW)
    loaded, cells = model_dir.load(model), open_store(tiny_store).line("L01")
    basal = cells.expression(cells.rows(CONTROL)[:8])
    answers = {label: loaded.predict(basal, "L01", label).cells for label in loaded.perturbations}
    assert np.abs(answers[NEW[0]] - answers[NEW[1]]).max() > 1e-4
    assert np.abs(answers[NEW[0]] - answers[CONTROL]).max() > 1e-4


def test_infer_takes_every_label_of_the_table_and_says_which_were_never_trained(
    model: Path, tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text(
        "perturbation,cell_line,n_cells\nElsewhere_1,L01,5\nDrug02_5,L01,5\n"
    )
    source = tiny_source / "L01.h5ad"
    assert infer(model, source, tmp_path / "out.h5ad", table=tmp_path / "t.csv") == 10
    said = capsys.readouterr().out
    assert "predicted from its features only, never trained: 'Elsewhere_1'" in said
    assert "Drug02_5" not in said
    (tmp_path / "t.csv").write_text("perturbation,cell_line\nElsewhere_2,L01\n")
    with pytest.raises(ModelError, match="the model has no features of 1 of 1") as caught:
        infer(model, source, tmp_path / "out2.h5ad", table=tmp_path / "t.csv")
    assert "did you mean 'Elsewhere_1'?" in str(caught.value.fix)
    with pytest.raises(ModelError, match="no features of perturbation 'Drug09_5'"):
        model_dir.load(model).predict(np.zeros((1, 60)), "", "Drug09_5")


def test_features_decide_what_is_learnt_for_labels_never_trained(
    train: Callable[..., Path], tiny_store: Path, plan: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    """A new drug with the features of a trained one gets that one's answer."""
    twin = table.copy()
    twin.loc["Drug01_5"] = twin.loc["Drug03_5"]
    twin.to_csv(tmp_path / "f.csv")
    loaded = model_dir.load(train(small(**{KEY: str(tmp_path / "f.csv")}), plan_path=plan))
    cells = open_store(tiny_store).line("L01")
    basal = cells.expression(cells.rows(CONTROL)[:8])
    one, two, other = (
        loaded.predict(basal, "L01", label).cells for label in ("Drug01_5", "Drug03_5", "Drug04_5")
    )
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 1e-5


def test_the_same_vectors_from_any_kind_of_table_give_the_same_weights(
    train: Callable[..., Path], plan: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    table.to_csv(tmp_path / "f.csv")
    table.to_csv(tmp_path / "f.tsv", sep="\t")
    table.to_parquet(tmp_path / "index.parquet")
    table.reset_index().to_parquet(tmp_path / "column.parquet")
    names = ["f.csv", "f.tsv", "index.parquet", "column.parquet"]
    expected = read_features(tmp_path / "f.csv")
    for name in names[1:]:
        found = read_features(tmp_path / name)
        assert (found.labels, found.columns) == (expected.labels, expected.columns)
        np.testing.assert_array_equal(found.values, expected.values)
    found = [
        load_file(
            train(small(**{KEY: str(tmp_path / name)}), f"of {name}", plan_path=plan)
            / "last.safetensors"
        )
        for name in (names[0], names[2])
    ]
    assert all(np.array_equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("per_cell", [False, True])
def test_a_resumed_training_ends_in_the_same_bits_and_never_with_another_table(
    train: Callable[..., Path],
    plan: Path,
    table: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    per_cell: bool,
) -> None:
    table.to_csv(tmp_path / "f.csv")
    settings = small(dropout_per_cell=per_cell, **{KEY: str(tmp_path / "f.csv")})
    whole = train(settings, "whole", plan_path=plan)
    step = PertSetsModule.training_step

    def fail(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 5:
            raise RuntimeError("the machine died")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PertSetsModule, "training_step", fail)
        with pytest.raises(RuntimeError, match="the machine died"):
            train(settings, "part", plan_path=plan)
    changed = table.copy()
    changed.iloc[0, 0] += 1
    changed.to_csv(tmp_path / "f.csv")
    with pytest.raises(ModelError, match="resume state belongs to a training with other settings"):
        train(settings, "part", plan_path=plan)
    table.to_csv(tmp_path / "f.csv")
    part = train(settings, "part", plan_path=plan)
    one, two = (load_file(out / "last.safetensors") for out in (whole, part))
    assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("label", [CONTROL, "DMSO_TF", "[('DMSO_TF', 0.0, 'uM')]"])
def test_the_control_may_have_a_row_in_any_of_its_spellings(
    train: Callable[..., Path], plan: Path, table: pd.DataFrame, tmp_path: Path, label: str
) -> None:
    own = table.copy()
    own.loc[label] = [1.0, 2.0, 3.0, 4.0]
    own.to_csv(tmp_path / "f.csv")
    out = train(small(**{KEY: str(tmp_path / "f.csv")}), plan_path=plan)
    np.testing.assert_array_equal(
        load_file(out / "best.safetensors")[FEATURES][0], [1.0, 2.0, 3.0, 4.0]
    )
    labels = json.loads((out / "model.json").read_text())["perturbations"]
    assert labels == [CONTROL, *sorted(table.index)]
    own.loc["DMSO_TF_0.0"] = 0.0
    own.to_csv(tmp_path / "f.csv")
    with pytest.raises(DataError, match="the control has several rows that disagree"):
        train(small(**{KEY: str(tmp_path / "f.csv")}), "again", plan_path=plan)


def test_labels_without_features_are_refused_before_training(
    train: Callable[..., Path], plan: Path, table: pd.DataFrame, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(PertSetsModule, "training_step", None)
    path = tmp_path / "f.csv"
    table.drop(index=["Drug01_5", "Drug02_5"]).to_csv(path)
    with pytest.raises(ModelError, match="2 perturbations of the plan") as caught:
        train(small(**{KEY: str(path)}), plan_path=plan)
    assert "1 of train, 1 of val, 1 of test" in caught.value.what
    assert "'Drug01_5', 'Drug02_5'" in caught.value.what
    assert "did you mean 'Drug01_0.5'?" in str(caught.value.fix)
    assert str(path) == caught.value.where
    by_drug = table[table.index.str.endswith("_5")].rename(index=lambda label: label[:6])
    by_drug.to_csv(path)
    with pytest.raises(ModelError, match="have no row of features") as caught:
        train(small(**{KEY: str(path)}), plan_path=plan)
    assert "give each dose a row" in str(caught.value.fix)
    # The same split is an error for a network of ids.
    with pytest.raises(ModelError, match="2 of 2 test perturbations have no training") as caught:
        train(small(), plan_path=plan)
    assert KEY in str(caught.value.fix)
    assert not (tmp_path / "run").exists()


def test_perturbations_that_look_alike_are_said(
    train: Callable[..., Path],
    plan: Path,
    table: pd.DataFrame,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    same = table.copy()
    same.loc["Drug03_5"] = same.loc["Drug04_5"]
    same.to_csv(tmp_path / "f.csv")
    with caplog.at_level(logging.INFO, "statetx.training"):
        train(small(**{KEY: str(tmp_path / "f.csv")}), plan_path=plan)
    assert "2 perturbations share their features" in caplog.text
    assert "'Drug03_5', 'Drug04_5'" in caplog.text
    assert "the control has no row: all its features are 0" in caplog.text


GOOD = "label,a,b\nx,1,2.5\ny,-3e2,0\n"


def test_a_table_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(GOOD)
    found = read_features(tmp_path / "f.csv")
    assert found.labels == ["x", "y"]
    assert found.columns == ["a", "b"]
    np.testing.assert_array_equal(found.values, np.float32([[1, 2.5], [-300, 0]]))
    (tmp_path / "n.csv").write_text("label,a\n 1,2\nNA,3\n007,4\n")  # names are text
    assert read_features(tmp_path / "n.csv").labels == [" 1", "NA", "007"]


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("label\nx\n", "1 column and no feature", "f.csv"),
        ("label,a\n", "the table has no row", "label"),
        ("label,a\nx,1\n ,2\n", "row 2 has no label", "label"),
        ("label,a\nx,1\nx,2\ny,3\n", "1 labels are listed more than once, such as 'x'", "label"),
        (
            GOOD.replace("2.5", "high"),
            "the feature of 'x' is 'high', which is not a number",
            "f.csv: b",
        ),
        (
            GOOD.replace("2.5", ""),
            "1 features are not finite numbers; the first is of 'x'",
            "f.csv: b",
        ),
        (GOOD.replace("2.5", "nan"), "not finite numbers; the first is of 'x'", "f.csv: b"),
        (
            GOOD.replace("-3e2", "-inf"),
            "not finite numbers; the first is of 'y': '-inf'",
            "f.csv: a",
        ),
        (GOOD.replace("-3e2", "1e39"), "not finite numbers; the first is of 'y'", "f.csv: a"),
        (
            "label,a\nx,1,2,3\ny,1\n",
            "line 2 has 4 values, but the header has 2 column names",
            "f.csv",
        ),
        ("a,b\nx,1,2\ny,1,3\n", "line 2 has 3 values, but the header has 2 column names", "f.csv"),
    ],
)
def test_a_broken_table_is_refused_with_its_place(
    tmp_path: Path, text: str, message: str, where: str
) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_features(tmp_path / "f.csv")
    assert where in str(caught.value.where)
    assert caught.value.fix


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the features") as caught:
        read_features(tmp_path / "none.csv")
    assert "none.csv" in str(caught.value.where)
    (tmp_path / "broken.parquet").write_bytes(b"half")
    with pytest.raises(DataError, match="cannot read the features"):
        read_features(tmp_path / "broken.parquet")


def test_new_drugs_on_the_whole_road(
    tiny_source: Path, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a split that holds drugs out of all lines to predictions, with batches too."""
    monkeypatch.chdir(tmp_path)
    table.to_csv(tmp_path / "f.csv")
    own = small(**{KEY: "{data_root}/f.csv"}, batches="encoder").changed()
    config = {
        "data_root": str(tmp_path),
        "datasets": {
            "mine": {
                "files": [str(tiny_source / "*.h5ad")],
                "control_pert": CONTROL,
                "scale": "counts",
                "expression_key": "X_hvg",
            }
        },
        "splits": {"new": {"dataset": "mine", "generator": "drug_out", "drug_fraction": 0.3}},
        "models": {"by_features": own, "by_ids": small().changed()},
        "experiments": {"main": {"splits": ["new"], "models": ["by_features"]}},
    }

    def road(*stages: tuple[str, ...]) -> Any:
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        for stage, run, *more in stages:
            done = CliRunner().invoke(app, [stage, "--config", "c.yaml", "--run", run, *more])
            if done.exit_code:
                break
        return done

    config["experiments"]["main"]["models"] = ["by_features", "by_ids"]
    refused = road(("pack", "mine"), ("split", "mine/new"))
    assert refused.exit_code == 1
    assert "knows perturbations by their id only" in str(refused.exception)
    config["experiments"]["main"]["models"] = ["by_features"]
    done = road(
        ("split", "mine/new"),
        ("train", "mine/new/by_features/0"),
        ("predict", "mine/new/by_features/0", "--line", "L02"),
    )
    assert done.exit_code == 0, done.output
    found = anndata.read_h5ad("results/mine/new/by_features/seed0/predictions/best/L02.h5ad")
    drugs = {str(label).split("_")[0] for label in found.obs["perturbation"].unique()}
    trained = read_plan("results/mine/new/plan.parquet").perturbations("train")
    assert drugs
    assert not drugs & {label.split("_")[0] for label in trained}
    assert found.obs["batch"].nunique() == 2
    (tmp_path / "f.csv").write_text("half a table")
    again = road(("train", "mine/new/by_features/0"))
    assert again.exit_code == 1
    assert "no feature" in str(again.exception)
