"""Trainings that are killed without warning, each in a fork of a process that has loaded torch.

``python killed.py STORE PLAN OUT``: one training that nobody disturbs in ``OUT/whole``, and one in ``OUT/part``
that is killed at `KILLS` points and started again each time; prints how the attempts ended as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_model import small

from statetx.data.store.store import open_store
from statetx.training.fit import _task, fit
from statetx.training.inputs import stream
from statetx.training.loop import checkpoints, trainer
from statetx.training.loop.lightning_module import PertSetsModule

KILLS, STEPS, EVERY = 10, 40, 3
PLACES = ("in a step", "in a checkpoint", "in a state", "after a state")
SETTINGS: dict[str, Any] = {
    **{"max_steps": STEPS, "ckpt_every_n_steps": EVERY, "val_freq": 4, "lr": 3e-3},
    **{"ema_decay": 0.4, "warmup_steps": 5, "schedule": "cosine", "weight_decay": 0.1},
    **{"batches": "encoder"},
}
KEEP = ["best", "last", "step=3", "step=39"]


def die() -> None:
    """End like a machine without power."""
    os.kill(os.getpid(), signal.SIGKILL)


def lie_in_wait(place: str, step: int) -> None:
    """Let this process be killed at the first chance from a step on."""
    at = {"step": -1}
    take, state = PertSetsModule.training_step, trainer.DirectIO.save_checkpoint

    def taken(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        at["step"] = self.global_step
        if place == "in a step" and at["step"] >= step:
            die()
        return take(self, batch, batch_idx)

    def halved(write: Callable[..., None]) -> Callable[..., None]:
        def half(*arguments: Any, **more: Any) -> None:
            write(*arguments, **more)
            path = next(x for x in arguments if isinstance(x, Path))
            if at["step"] >= step:
                os.truncate(path, path.stat().st_size // 2)
                die()

        return half

    replace = os.replace

    def replaced(source: Any, target: Any) -> None:
        replace(source, target)
        if place == "after a state" and at["step"] >= step and Path(target).name == "last.ckpt":
            die()

    PertSetsModule.training_step = taken  # type: ignore[method-assign]
    os.replace = replaced
    if place == "in a checkpoint":
        checkpoints.write_weights = halved(checkpoints.write_weights)
    if place == "in a state":
        trainer.DirectIO.save_checkpoint = halved(state)  # type: ignore[method-assign]


def on_gpu_or_none(arguments: dict[str, Any], *trap: Any) -> int:
    """Train in a fork; return its exit code, negative for a signal."""
    if (child := os.fork()) == 0:
        try:
            if trap:
                lie_in_wait(*trap)
            fit(**arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def warm(arguments: dict[str, Any]) -> None:
    """Load compiled loops here, once: a second in every fork otherwise."""
    task = _task(
        open_store(arguments["store_dir"]), Path(arguments["plan_path"]), small(), 0, (True,)
    )
    loader = stream.make_loader(task, task.plan, "train", 0)
    condition, window = loader.table.epoch(0)
    loader.batch(condition[:2], window[:2], 0)
    importlib.import_module("torch._dynamo")


def main(store: str, plan: str, out: str) -> None:
    """Train both."""
    torch.set_num_threads(1)
    # Other points in every run of the tests would be failures that nobody can repeat.
    chance = random.Random(7)
    steps = sorted(chance.sample(range(1, STEPS - EVERY), KILLS))
    places = chance.sample([*PLACES, *PLACES, *PLACES], KILLS)
    traps = list(zip(places, steps, strict=True))

    def arguments(name: str) -> dict[str, Any]:
        home = Path(out) / name
        return {
            **{"store_dir": store, "plan_path": plan, "model": small(**SETTINGS), "seed": 0},
            **{"out": home / "model", "state_dir": home / "state"},
            **{"checkpoints_dir": home / "checkpoints", "keep": KEEP},
        }

    warm(arguments("whole"))
    ends = [on_gpu_or_none(arguments("whole"))]
    ends += [on_gpu_or_none(arguments("part"), *trap) for trap in traps]
    ends.append(on_gpu_or_none(arguments("part")))
    left = [path.name for path in Path(tempfile.gettempdir()).iterdir()]
    print(json.dumps({"ends": ends, "traps": traps, "temporary": left}))


if __name__ == "__main__":
    main(*sys.argv[1:])
