"""Trainings of one run that alternate: none may get the weights of another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_model import small

from statetx.core.errors import ModelError
from statetx.training.loop import callbacks, checkpoints
from statetx.training.loop.callbacks import Curves, Validation
from statetx.training.loop.checkpoints import Checkpoints
from statetx.training.loop.lightning_module import PertSetsModule

KEEP = ["best", "last", "step=2", "step=4"]
A, B = 1e-3, 2e-3
"""Learning rates: what makes two trainings of one run different."""


@pytest.fixture
def alternate(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[int]]:
    """Train one run with a learning rate, each with a state of its own as in the workflow.

    With `stop` the machine dies before that step. Returns the steps that were taken.
    """
    step = PertSetsModule.training_step

    def run(lr: float, stop: int | None = None, state: str | None = None) -> list[int]:
        taken: list[int] = []

        def watched(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
            if self.global_step == stop:
                raise RuntimeError("the machine died")
            taken.append(self.global_step)
            return step(self, batch, batch_idx)

        monkeypatch.setattr(PertSetsModule, "training_step", watched)
        arguments: dict[str, Any] = {"keep": KEEP, "state_dir": tmp_path / (state or f"{lr}.state")}
        if stop is None:
            train(small(lr=lr), **arguments)
        else:
            with pytest.raises(RuntimeError, match="the machine died"):
                train(small(lr=lr), **arguments)
        return taken

    return run


def same_model(one: Path, two: Path) -> bool:
    for name in KEEP:
        first, second = (load_file(out / "model" / f"{name}.safetensors") for out in (one, two))
        if first.keys() != second.keys() or any((first[k] != second[k]).any() for k in first):
            return False
    return True


@pytest.fixture
def expected(train: Callable[..., Path], tmp_path: Path) -> Path:
    """The run of an uninterrupted training with A."""
    train(small(lr=A), "expected", keep=KEEP)
    return tmp_path / "expected"


@pytest.mark.parametrize("stop_of_other", [1, 3, 5])
def test_back_to_an_interrupted_training_after_another(
    alternate: Callable[..., list[int]],
    expected: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    stop_of_other: int,
) -> None:
    alternate(A, stop=5)
    alternate(B, stop=stop_of_other)
    with caplog.at_level(logging.WARNING, "statetx.training"):
        taken = alternate(A)
    # The other training removed step=2, which only training again can give.
    assert taken == list(range(6))
    assert "step=2 of this training is gone" in caplog.text
    assert same_model(expected, tmp_path / "run")


def test_the_same_settings_with_other_code_or_cells_are_another_training(
    alternate: Callable[..., list[int]], tmp_path: Path
) -> None:
    """What the settings do not say stands in the name of the state directory only."""
    alternate(A, stop=5, state="code1")
    alternate(A, stop=5, state="code2")
    assert alternate(A, state="code1") == list(range(6))


def test_foreign_files_that_are_not_wanted_cost_nothing(
    alternate: Callable[..., list[int]], expected: Path, tmp_path: Path
) -> None:
    alternate(A, stop=5)
    home = tmp_path / "run" / "checkpoints"
    save_file({"w": np.zeros(1, np.float32)}, home / "step=6.safetensors", {"training": "other"})
    (home / "step=8.safetensors").write_bytes(b"half a file")
    assert alternate(A) == [4, 5]
    assert same_model(expected, tmp_path / "run")
    assert {path.name for path in home.iterdir()} == {f"step={n}.safetensors" for n in (2, 4, 6)}
    assert "w" not in load_file(home / "step=6.safetensors")


def test_step_checkpoints_are_equal_bytes(
    alternate: Callable[..., list[int]], tmp_path: Path
) -> None:
    found = []
    for _ in range(2):
        alternate(A)
        found.append({p.name: p.read_bytes() for p in (tmp_path / "run/checkpoints").iterdir()})
    assert found[0] == found[1]


@pytest.mark.parametrize("content", [None, b"half a file", "other"])
def test_weights_that_are_gone_damaged_or_foreign_are_refused(
    tmp_path: Path, content: bytes | str | None
) -> None:
    validation = Validation([], 1, 9)
    kept = Checkpoints(validation, tmp_path, tmp_path, 2, "this")
    for name in ("step=2", "best-3"):
        path = tmp_path / f"{name}.safetensors"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            save_file({"w": np.zeros(1, np.float32)}, path, {"training": content})
    with pytest.raises(ModelError, match=r"step=2.* written by another training") as caught:
        kept.read_step("step=2")
    assert "train again" in str(caught.value)
    validation.best_step = 3
    with pytest.raises(ModelError, match=r"best-3.* is missing, damaged"):
        kept.read_best()


def _spoil(path: Path, how: str) -> None:
    """Truncate a file, change a byte in the middle of its largest stretch of numbers, or remove it."""
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) * 2 // 3] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["half", "flipped", "gone"])
@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["last.ckpt"], [2, 3, 4, 5]),
        (["last.ckpt", "before.ckpt"], list(range(6))),
        (["best-*.safetensors"], list(range(6))),
        (["step=2.safetensors"], list(range(6))),
    ],
)
def test_what_is_damaged_is_left_aside(
    alternate: Callable[..., list[int]],
    expected: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    names: list[str],
    taken: list[int],
    how: str,
) -> None:
    alternate(A, stop=5)
    state = tmp_path / f"{A}.state"
    for name in names:
        for path in [*state.glob(name), *(tmp_path / "run" / "checkpoints").glob(name)]:
            _spoil(path, how)
    with caplog.at_level(logging.WARNING, "statetx.training"):
        assert alternate(A) == taken
    assert how == "gone" or "damaged" in caplog.text or "gone" in caplog.text
    assert same_model(expected, tmp_path / "run")


def test_checkpoints_behind_a_link_belong_to_another_run(
    alternate: Callable[..., list[int]], tmp_path: Path
) -> None:
    alternate(B)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "other")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "other")
    with pytest.raises(ModelError, match="is a link to"):
        alternate(A)
    assert {path.stem for path in (tmp_path / "other").iterdir()} == {"step=2", "step=4", "step=6"}


def test_the_state_is_saved_by_time_too_and_resumes_to_the_same_weights(
    alternate: Callable[..., list[int]],
    expected: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "STATE_EVERY_S", 0.0)
    alternate(A, stop=3)
    assert alternate(A) == [3, 4, 5]
    assert same_model(expected, tmp_path / "run")


def test_the_first_rate_after_a_resume_counts_the_cells_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])

    def curves() -> Curves:
        return Curves(Validation([], 10, 10), 10, 10)

    class Trainer:
        global_step = 0
        accumulate_grad_batches = world_size = 1
        logger = None
        optimizers = (SimpleNamespace(param_groups=[{"lr": 0.1}]),)

    trainer: Any = Trainer()
    module = PertSetsModule.__new__(PertSetsModule)
    module.__dict__.update(gradient_norm=1.0, lr=0.1, _running=[])

    def steps(of: Curves, n: int) -> None:
        for _ in range(n):
            trainer.global_step += 1
            module.finished = [*module.__dict__.get("finished", []), (1.0, 1.0)]
            clock[0] += 2.0  # seconds per step, of 3 sets of 4 cells
            batch: Any = SimpleNamespace(target=np.zeros((3, 4, 1)))
            of.on_train_batch_end(trainer, module, None, batch, 0)

    first = curves()
    first.on_train_start(trainer, module)
    steps(first, 7)
    saved = first.state_dict()
    clock[0] += 1000.0  # waiting for another machine
    second = curves()
    second.load_state_dict(saved)
    second.on_train_start(trainer, module)
    steps(second, 3)
    (row,) = second.rows
    assert row["cells_per_second"] == pytest.approx(10 * 12 / 20.0)
    assert row["seconds"] == pytest.approx(20.0)
