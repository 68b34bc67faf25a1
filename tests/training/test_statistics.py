"""Baselines fitted over a store: every number against a plain numpy computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from statetx.config import ContextMean, NoChange, PerturbationMean
from statetx.data.plan import read_plan
from statetx.data.store import Store, open_store
from statetx.models import model_dir
from statetx.training import statistics


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
