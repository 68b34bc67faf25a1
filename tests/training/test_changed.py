"""A training whose configuration changed while it was interrupted: anew or refused, never a mixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.numpy import load_file
from small_model import small

from statetx.config import load
from statetx.config.root import Config
from statetx.core.errors import ModelError
from statetx.data.store.plan import read_plan, write_plan
from statetx.stages import parameters, paths
from statetx.training.loop.lightning_module import PertSetsModule

CHANGES: dict[str, dict[str, Any]] = {
    "lr": {"model": small(lr=2e-3)},
    "more steps": {"model": small(max_steps=8)},
    "batches": {"model": small(batches="encoder")},
    "sets": {"model": small(sets={"weights": "uniform"})},
    "seed": {"seed": 1},
    "plan": {"plan_path": True},
    "control matching": {"match_by_batch": (False,)},
}


@pytest.fixture
def changed(request: pytest.FixtureRequest, tiny_plan: Path, tmp_path: Path) -> dict[str, Any]:
    """Arguments of a training that differs in one thing."""
    found = {"model": small(), **CHANGES[request.param]}
    if "plan_path" in found:
        table = read_plan(tiny_plan).table
        spare = (table["line"] == "L03") & (table["perturbation"] == "Drug03_5")
        assert spare.sum() == 1
        write_plan(pd.DataFrame(table[~spare]), tmp_path / "other.parquet")
        found["plan_path"] = tmp_path / "other.parquet"
    return found


def _interrupted(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, **arguments: Any
) -> None:
    """Train with the usual settings, and die in step 5."""
    step = PertSetsModule.training_step

    def fail(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 4:
            raise RuntimeError("the machine died")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PertSetsModule, "training_step", fail)
        with pytest.raises(RuntimeError, match="the machine died"):
            train(small(), **arguments)


@pytest.mark.parametrize("changed", CHANGES, indirect=True)
def test_the_state_of_another_configuration_is_refused(
    train: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    tmp_path: Path,
) -> None:
    _interrupted(train, monkeypatch)
    state = tmp_path / "run.state" / "last.ckpt"
    before = state.read_bytes()
    with pytest.raises(ModelError, match="resume state belongs to a training with other") as caught:
        train(**changed)
    assert "remove the state directory and train again" in str(caught.value.fix)
    assert str(state) == caught.value.where
    assert state.read_bytes() == before
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("changed", CHANGES, indirect=True)
def test_in_a_state_directory_of_its_own_it_starts_anew(
    train: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    tmp_path: Path,
) -> None:
    """As in the workflow, where the name of the directory stands for the configuration."""
    fresh = train(name="fresh", **changed)
    _interrupted(train, monkeypatch)
    taken: list[int] = []
    step = PertSetsModule.training_step

    def counted(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        taken.append(self.global_step)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PertSetsModule, "training_step", counted)
    out = train(state_dir=tmp_path / "another.state", **changed)
    assert taken == list(range(changed["model"].training.max_steps))
    for name in ("best", "last"):
        one, two = (load_file(home / f"{name}.safetensors") for home in (fresh, out))
        assert one.keys() == two.keys()
        assert not any((one[key] != two[key]).any() for key in one)


def _config(**model: Any) -> Config:
    return load(
        {
            "datasets": {
                "d": {"files": "simulate", "control_pert": "DMSO_TF_00", "scale": "counts"}
            },
            "splits": {"s": {"dataset": "d", "generator": "dc_block"}},
            "models": {"m": {**small().changed(), "embed_key": None, **model}},
            "experiments": {"main": {"splits": ["s"], "models": ["m"]}},
        }
    )


def test_the_workflow_gives_every_configuration_a_state_directory_of_its_own(
    tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    table = read_plan(tiny_plan).table
    write_plan(table.assign(role="train"), tmp_path / "other.parquet")
    (tmp_path / "f.csv").write_text("label,x\na,1\n")

    def state(cfg: Config, seed: int = 0, plan: Path = tiny_plan, match: Any = (True,)) -> Path:
        params = parameters.train_params(cfg, "m")
        made = (params["settings"], params["code"], None, match)
        return paths.state_dir(
            "d", "s", "m", seed, parameters.train_made_from(tiny_store, plan, *made)
        )

    usual = _config()
    features = {"perturbation_features_file": str(tmp_path / "f.csv")}
    found = [
        state(usual),
        state(usual, seed=1),
        state(usual, plan=tmp_path / "other.parquet"),
        state(usual, match=(False,)),
        state(_config(training={"lr": 2e-3})),
        state(_config(batches="encoder")),
        state(_config(**features)),
    ]
    (tmp_path / "f.csv").write_text("label,x\na,2\n")
    found.append(state(_config(**features)))
    assert len(set(found)) == len(found)
    # Where cells lie and on how many devices makes no difference to what is learnt.
    assert state(_config(resident="ram", devices=2)) == found[0]
