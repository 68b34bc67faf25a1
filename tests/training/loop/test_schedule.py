"""Learning rate, average of weights, and trainings that are interrupted between two steps."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_model
import torch
from safetensors.numpy import load_file
from small_model import small

from statetx.config.models import Training
from statetx.core.errors import Stopped
from statetx.data.store.store import open_store
from statetx.models import model_dir
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape
from statetx.models.network.losses import energy
from statetx.models.network.set_transformer import PertSets
from statetx.training.fit import _task, fit
from statetx.training.inputs import stream
from statetx.training.loop.lightning_module import PertSetsModule

EVERYTHING = {
    "max_steps": 8,
    "val_freq": 3,
    "ema_decay": 0.4,
    "warmup_steps": 3,
    "schedule": "cosine",
    "weight_decay": 0.1,
}
"""Whatever a resumed training has to take up again."""
KEEP = ["best", "last", "step=2"]


def _weights(out: Path, name: str = "last") -> dict[str, np.ndarray]:
    return load_file(out / f"{name}.safetensors")


def _same(one: Path, two: Path, names: Sequence[str] = KEEP) -> bool:
    for name in names:
        first, second = _weights(one, name), _weights(two, name)
        if first.keys() != second.keys():
            return False
        if not all(np.array_equal(first[key], second[key]) for key in first):
            return False
    return True


def _curve(out: Path) -> list[dict[str, str]]:
    """Rows of the curve, without what depends on the clock."""
    rows = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if "second" not in k and k != "waiting"} for row in rows]


def _module(**training: Any) -> PertSetsModule:
    network = PertSets(Architecture(4, 4, 3, Shape(8, 1, 2, 4, 8)))
    return PertSetsModule(network, Training(**training), 0)


def test_warm_up_and_half_a_cosine() -> None:
    rate = _module(warmup_steps=4, schedule="cosine", max_steps=12).rate
    assert [rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    for step in range(4, 12):
        assert rate(step) == pytest.approx(0.5 + 0.5 * math.cos(math.pi * (step - 4) / 8))
    assert rate(8) == pytest.approx(0.5)
    assert rate(12) == pytest.approx(0.0)
    falling = [rate(step) for step in range(4, 13)]
    assert falling == sorted(falling, reverse=True)
    constant = _module(warmup_steps=2, max_steps=12).rate
    assert [constant(step) for step in (0, 1, 2, 11)] == [0.5, 1.0, 1.0, 1.0]
    cosine = _module(schedule="cosine", max_steps=4).rate
    assert [cosine(step) for step in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])
    long = _module(schedule="cosine", warmup_steps=9, max_steps=4).rate
    assert [long(step) for step in (0, 3)] == pytest.approx([1 / 9, 4 / 9])


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Learning rate of every optimiser step that is taken."""
    found: list[float] = []
    step = PertSetsModule.optimizer_step

    def watched(self: PertSetsModule, *args: Any, **kwargs: Any) -> None:
        groups = self.optimizers().param_groups  # type: ignore[union-attr]
        assert len({group["lr"] for group in groups}) == 1
        found.append(groups[0]["lr"])
        step(self, *args, **kwargs)

    monkeypatch.setattr(PertSetsModule, "optimizer_step", watched)
    return found


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_step_is_taken_at_the_rate_of_the_schedule(
    train: Callable[..., Path], rates: list[float], accumulate: int
) -> None:
    train(small(**EVERYTHING, accumulate=accumulate))
    expected = [1e-3 * _module(**EVERYTHING).rate(step) for step in range(8)]
    assert rates == pytest.approx(expected)


def test_the_curve_tells_the_rate_that_a_step_was_taken_at(
    train: Callable[..., Path], rates: list[float]
) -> None:
    rows = _curve(train(small(**EVERYTHING)))
    assert [float(row["lr"]) for row in rows] == pytest.approx(rates)


def test_the_average_of_weights_is_what_is_measured_and_saved(
    train: Callable[..., Path],
    tiny_store: Path,
    tiny_plan: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history: list[dict[str, torch.Tensor]] = []
    step = PertSetsModule.optimizer_step

    def weights(module: PertSetsModule) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in module.model.named_parameters()}

    def watched(self: PertSetsModule, *args: Any, **kwargs: Any) -> None:
        if not history:
            history.append(weights(self))
        step(self, *args, **kwargs)
        history.append(weights(self))

    monkeypatch.setattr(PertSetsModule, "optimizer_step", watched)
    settings = small(ema_decay=0.3, lr=1e-2, accumulate=2)
    out = train(settings, keep=["best", "last", "step=2", "step=4"])
    assert len(history) == 7
    average, averages = history[0], []
    for n, now in enumerate(history[1:], start=1):
        # The decay grows to its value: 0.1, 0.18, 0.25, then 0.3.
        decay = min(0.3, n / (9 + n))
        average = {key: decay * average[key] + (1 - decay) * now[key] for key in now}
        averages.append(average)
    task = _task(open_store(tiny_store), tiny_plan, settings, 0, (True, False))
    batches, _ = stream.validation_batches(task)
    rows = {int(row["step"]): row for row in _curve(out)}
    best = json.loads((out / "model.json").read_text())["checkpoints"]["best"]["step"]
    for name, number in (("step=2", 2), ("step=4", 4), ("last", 6), ("best", best)):
        saved = _weights(out, name)
        for key, value in averages[number - 1].items():
            np.testing.assert_allclose(saved[key], value.numpy(), rtol=1e-5, atol=1e-7)
        assert any((saved[key] != history[number][key].numpy()).any() for key in saved)
        network = model_dir.load(out, name).predictor.model  # type: ignore[attr-defined]
        with torch.no_grad():
            losses = [energy(network(b.control, b.perturbation).cells, b.target) for b in batches]
        measured = float(rows[number]["val_loss"])
        assert torch.cat(losses).mean().item() == pytest.approx(measured, rel=1e-4)


def test_an_average_does_not_change_the_training(train: Callable[..., Path]) -> None:
    plain, averaged = train(small(), "plain"), train(small(ema_decay=0.9), "averaged")
    losses = [[row["train_loss"] for row in _curve(out)] for out in (plain, averaged)]
    assert losses[0] == losses[1]
    assert not _same(plain, averaged, ("last",))


@pytest.fixture(scope="module")
def whole(tiny_store: Path, tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directory of a training that nothing interrupts."""
    home = tmp_path_factory.mktemp("whole")
    places = (home / "model", home / "state", home / "checkpoints")
    fit(tiny_store, tiny_plan, small(**EVERYTHING, accumulate=2), 0, *places, keep=KEEP)
    return home / "model"


@pytest.mark.parametrize("stop", [3, 6])
def test_average_schedule_and_accumulation_survive_a_resume_bit_for_bit(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, whole: Path, stop: int
) -> None:
    settings = small(**EVERYTHING, accumulate=2)
    step = PertSetsModule.training_step

    def fail(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == stop and batch_idx % 2:
            raise RuntimeError("the machine died")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PertSetsModule, "training_step", fail)
        with pytest.raises(RuntimeError, match="the machine died"):
            train(settings, keep=KEEP)
    part = train(settings, keep=KEEP)
    assert _same(whole, part)
    assert _curve(whole) == _curve(part)


@pytest.mark.parametrize(
    ("name", "at"),
    [("SIGUSR1", 7), ("SIGTERM", 6)],
    ids=["after a step", "between the parts of a step"],
)
def test_a_signal_saves_and_the_next_attempt_ends_as_if_there_had_been_none(
    train: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    whole: Path,
    name: str,
    at: int,
) -> None:
    # Nothing but the signal makes the state be saved.
    settings = small(**EVERYTHING, accumulate=2, ckpt_every_n_steps=8)
    step, before = PertSetsModule.training_step, signal.getsignal(signal.SIGUSR1)
    taken: list[int] = []

    def struck(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        taken.append(batch_idx)
        if len(taken) == at + 1:
            os.kill(os.getpid(), getattr(signal, name))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PertSetsModule, "training_step", struck)
    with pytest.raises(Stopped, match=rf"stopped by {name} after step [34]") as caught:
        train(settings, keep=["best", "last"])
    assert "run the same command again" in str(caught.value.fix)
    assert caught.value.exit_code == 128 + getattr(signal, name)
    assert signal.getsignal(signal.SIGUSR1) == before
    assert (tmp_path / "run.state" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "model").exists()
    part = train(settings, keep=["best", "last"])
    assert len(taken) <= 17  # no whole step is taken twice
    assert _same(whole, part, ("best", "last"))
    assert _curve(whole) == _curve(part)


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from small_model import small
from statetx.training.fit import fit
from statetx.training.loop.lightning_module import PertSetsModule
step = PertSetsModule.training_step
def struck(self, batch, batch_idx):
    if batch_idx == 12:
        os.kill(os.getpid(), signal.SIGUSR1)
    return step(self, batch, batch_idx)
PertSetsModule.training_step = struck
out = Path({out!r})
settings = small(max_steps=1000, ckpt_every_n_steps=1000, val_freq=10)
fit({store!r}, {plan!r}, settings, 0, out / "model", out / "state", out / "checkpoints")
"""


@pytest.mark.slow(reason="a process that imports torch and lightning: about 10 s")
def test_sigusr1_of_a_scheduler_saves_and_exits_non_zero(
    tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    script = SCRIPT.format(
        here=str(Path(small_model.__file__).parent),
        out=str(tmp_path / "run"),
        store=str(tiny_store),
        plan=str(tiny_plan),
    )
    # SLURM_* as inside srun: Lightning must not take the signal for its own.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode > 0
    assert "stopped by SIGUSR1 after step 13" in done.stderr
    assert (tmp_path / "run" / "state" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "model").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
