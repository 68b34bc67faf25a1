"""Train in a temporary run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from statetx.config import Tracking
from statetx.training.fit import fit


@pytest.fixture
def train(tiny_store: Path, tiny_plan: Path, tmp_path: Path) -> Callable[..., Path]:
    """Call with a model section; returns the model directory. State: ``tmp/NAME.state``."""

    def run(model: Any, name: str = "run", seed: int = 0, **changes: Any) -> Path:
        out = tmp_path / name / "model"
        arguments: dict[str, Any] = {
            "store_dir": tiny_store,
            "plan_path": tiny_plan,
            "state_dir": tmp_path / f"{name}.state",
            "checkpoints_dir": tmp_path / name / "checkpoints",
            "keep": ["best"],
            "tracking": Tracking(),
            "provenance": {"run": name},
        }
        fit(model=model, seed=seed, out=out, **{**arguments, **changes})
        return out

    return run
