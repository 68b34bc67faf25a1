"""Tracking to wandb, offline: nothing leaves the run's directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_model import small

from statetx.config import Tracking
from statetx.core.errors import ModelError
from statetx.training.loop.lightning_module import PertSetsModule


def test_wandb_that_cannot_start_stops_before_the_first_step(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")

    def init(**_: object) -> None:
        raise wandb.errors.UsageError("no API key")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(PertSetsModule, "training_step", None)
    with pytest.raises(ModelError, match="wandb cannot start: no API key"):
        train(small(), tracking=Tracking(wandb=True))
    assert not (tmp_path / "run" / "model").exists()


def test_offline_run_lands_beside_the_model(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb-home"))
    out = train(small(), tracking=Tracking(wandb=True, mode="offline", tags=["test"]))
    runs = list((out.parent / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 1
    recorded = runs[0].read_bytes()
    assert b"val_pearson_delta" in recorded
    assert b"gradient_norm" in recorded
    assert (out / "metrics.csv").is_file()
    assert list((tmp_path / "here").iterdir()) == []
