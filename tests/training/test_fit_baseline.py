"""Baselines fitted over a store: every number against a plain numpy computation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from statetx.config import Additive, ContextMean, NearestDrug, NoChange, PerturbationMean, Ridge
from statetx.data.store.plan import Plan, read_plan
from statetx.data.store.store import Store, open_store
from statetx.models import model_dir
from statetx.training import fit_baseline as statistics

EVERY: list[Any] = [
    NoChange(kind="no_change"),
    ContextMean(kind="context_mean"),
    PerturbationMean(kind="perturbation_mean"),
    Additive(kind="additive"),
    Ridge(kind="ridge"),
    Ridge(kind="ridge", n_components=3),
    NearestDrug(kind="nearest_drug", k=2),
]


def _delta(store: Store, line: str, label: str) -> np.ndarray:
    cells = store.line(line)
    means = [cells.expression(cells.rows(name)).mean(0) for name in (label, store.control)]
    return means[0] - means[1]


@pytest.mark.parametrize(
    ("model", "seen"),
    [
        (ContextMean(kind="context_mean"), lambda line, label: line == "L01"),
        (PerturbationMean(kind="perturbation_mean"), lambda line, label: label == "Drug01_5"),
    ],
)
def test_a_baseline_predicts_control_plus_mean_training_delta(
    train: Callable[..., Path], tiny_store: Path, tiny_plan: Path, model: object, seen: Callable
) -> None:
    store, plan = open_store(tiny_store), read_plan(tiny_plan)
    assert ("L01", "Drug01_5") in plan.conditions("test")
    loaded = model_dir.load(train(model))
    cells = store.line("L01")
    basal = cells.expression(cells.rows(store.control))
    used = [pair for pair in plan.conditions("train") if seen(*pair)]
    assert used
    delta = np.mean([_delta(store, *pair) for pair in used], axis=0)
    predicted = loaded.predict(basal, "L01", "Drug01_5")
    expected = np.maximum(basal.mean(0) + delta, 0)
    np.testing.assert_allclose(predicted.cells.mean(0), expected, atol=2e-5)
    assert not predicted.fallback
    assert predicted.cells.min() >= 0


def test_baselines_have_only_the_checkpoint_best(train: Callable[..., Path]) -> None:
    out = train(NoChange(kind="no_change"), keep=["best", "last"])
    loaded = model_dir.load(out)
    assert list(loaded.meta["checkpoints"]) == ["best"]
    assert loaded.cell_set_len is None
    assert not (out / "metrics.csv").exists()


def test_chunks_do_not_matter(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = open_store(tiny_store).line("L02")
    whole = statistics.pseudobulk(cells, cells.rows("DMSO_TF_00"))
    monkeypatch.setattr(statistics, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(
        statistics.pseudobulk(cells, cells.rows("DMSO_TF_00")), whole, rtol=1e-12
    )


def _files(model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(model.iterdir())}


@pytest.mark.parametrize("model", EVERY, ids=lambda model: f"{model.kind}-{len(model.changed())}")
def test_cells_that_do_not_train_leave_no_trace_in_a_baseline(
    train: Callable[..., Path], tiny_store: Path, tiny_plan: Path, tmp_path: Path, model: Any
) -> None:
    """Cells of test and validation conditions change, and the plan's rows are shuffled."""
    fitted = _files(train(model))
    assert fitted == _files(train(model))
    other = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    store, plan = open_store(tiny_store), read_plan(tiny_plan)
    held_out = plan.conditions("test") + plan.conditions("val")
    for name, label in held_out:
        line = store.line(name)
        rows = line.rows(label)
        with h5py.File(other / line.path.name, "r+") as file:
            cells = file["obsm/X_hvg"][:]
            cells[rows] = 7.0
            file["obsm/X_hvg"][:] = cells
    changed = open_store(other).line(held_out[0][0])
    assert (changed.expression(changed.rows(held_out[0][1])) == 7.0).all()
    shuffled = tmp_path / "shuffled.parquet"
    Plan(plan.table.sample(frac=1, random_state=0)).table.to_parquet(shuffled, index=False)
    assert list(read_plan(shuffled).table["line"]) != list(plan.table["line"])
    again = _files(train(model, store_dir=other, plan_path=shuffled))
    different = {name for name in fitted if again[name] != fitted[name]}
    assert different <= {"model.json"}  # names the digest of the plan's rows
    weights = [one["best.safetensors"] for one in (again, fitted)]
    assert weights[0] == weights[1]


def test_ridge_predicts_doses_never_trained_and_the_others_say_that_they_cannot(
    train: Callable[..., Path], tiny_store: Path
) -> None:
    cells = open_store(tiny_store).line("L01")
    basal = cells.expression(cells.rows("DMSO_TF_00"))
    flags = {}
    for model in EVERY[1:]:
        loaded = model_dir.load(train(model, model.kind))
        predicted = loaded.predict(basal, "L01", "Drug02_1.5")
        assert predicted.cells.min() >= 0
        flags[model.kind] = predicted.fallback
        nobody = loaded.predict(basal, "L01", "Nothing_1.5")
        assert nobody.fallback is (model.kind != "context_mean")
    assert flags == {
        "context_mean": False,
        "perturbation_mean": True,
        "additive": True,
        "ridge": False,
        "nearest_drug": False,
    }


def test_settings_reach_the_model(train: Callable[..., Path]) -> None:
    meta = model_dir.load(train(NearestDrug(kind="nearest_drug", k=2))).meta
    assert meta["architecture"]["k"] == meta["hyper_parameters"]["k"] == 2
    meta = model_dir.load(train(Ridge(kind="ridge"))).meta
    assert meta["architecture"]["penalty"] > 0


def test_additive_equals_least_squares_over_the_store(
    train: Callable[..., Path], tiny_store: Path, tiny_plan: Path
) -> None:
    store, plan = open_store(tiny_store), read_plan(tiny_plan)
    loaded = model_dir.load(train(Additive(kind="additive")))
    cells = store.line("L01")
    basal = cells.expression(cells.rows(store.control))
    pairs = plan.conditions("train")
    names = sorted({name for pair in pairs for name in pair})
    features = np.array([[float(name in pair) for name in names] for pair in pairs])
    deltas = np.stack([_delta(store, *pair) for pair in pairs])
    effects = np.linalg.lstsq(features, deltas, rcond=None)[0]
    for line, label in plan.conditions("test"):
        expected = basal.mean(0) + effects[names.index(line)] + effects[names.index(label)]
        predicted = loaded.predict(basal, line, label)
        np.testing.assert_allclose(predicted.cells.mean(0), np.maximum(expected, 0), atol=2e-5)
        assert not predicted.fallback
