"""Several processes train one network: the same as one process, and they end together.

Slow where processes are started: each imports torch and lightning.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_model import small

from statetx.core.errors import DataError, ModelError, Stopped
from statetx.training.fit import fit
from statetx.training.launch import launch
from statetx.training.processes import joined, share


@pytest.fixture
def arguments(tiny_store: Path, tiny_plan: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(name: str, **settings: Any) -> dict[str, Any]:
        return {
            "store_dir": tiny_store,
            "plan_path": tiny_plan,
            "model": small(**{"dropout": 0.0, **settings}),
            "seed": 0,
            "out": tmp_path / name / "model",
            "state_dir": tmp_path / f"{name}.state",
            "checkpoints_dir": tmp_path / name / "checkpoints",
        }

    return make


def _fails() -> None:
    """Fail on one rank while the others wait for it."""
    with joined() as here:
        if here.rank == 1:
            raise DataError("a cell is broken", where="cells.h5ad", fix="mend it")
        torch.distributed.barrier()


def _refuses() -> None:
    with joined() as here:
        share(7, here)


@pytest.mark.slow
def test_two_processes_train_as_one_does(arguments: Callable[..., dict[str, Any]]) -> None:
    alone, shared = arguments("alone"), arguments("shared")
    fit(**alone)
    launch(fit, shared, 2)
    one, two = (load_file(x["out"] / "last.safetensors") for x in (alone, shared))
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=2e-6, err_msg=name)
    curve, other = (
        np.genfromtxt(x["out"] / "metrics.csv", delimiter=",", names=True) for x in (alone, shared)
    )
    for column in ("train_loss", "val_loss", "gradient_norm", "val_pearson_delta"):
        np.testing.assert_allclose(other[column], curve[column], rtol=1e-4, err_msg=column)


@pytest.mark.slow
def test_the_first_error_ends_all_and_is_told() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(DataError, match="a cell is broken") as caught:
        launch(_fails, {}, 2)
    assert caught.value.fix == "mend it"
    with pytest.raises(ModelError, match="7 sets cannot be shared evenly by 2 devices"):
        launch(_refuses, {}, 2)
    assert signal.getsignal(signal.SIGTERM) is before


def _alone_in_a_session(arguments: dict[str, Any]) -> None:
    os.setsid()
    with pytest.raises(Stopped, match="stopped by SIGTERM after step") as caught:
        launch(fit, arguments, 2)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    raise SystemExit(3)


@pytest.mark.slow
def test_a_signal_saves_once_and_any_number_of_processes_goes_on(
    arguments: Callable[..., dict[str, Any]],
) -> None:
    alone, shared = (arguments(name, max_steps=100, val_freq=100) for name in ("alone", "shared"))
    state = shared["state_dir"] / "last.ckpt"
    running = multiprocessing.get_context("spawn").Process(
        target=_alone_in_a_session, args=(shared,)
    )
    running.start()
    while not state.exists() and running.is_alive():
        time.sleep(0.01)
    os.kill(running.pid or 0, signal.SIGUSR1)
    running.join(60)
    assert running.exitcode == 3
    step = int(torch.load(state, weights_only=True)["global_step"])
    assert 0 < step < 100
    assert not shared["out"].exists()
    fit(**shared)
    fit(**alone)
    one, two = (load_file(x["out"] / "last.safetensors") for x in (alone, shared))
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=1e-4, err_msg=name)
    assert not state.parent.exists()
