"""A disk that is full when a training saves: one error, the state before survives, and it goes on."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from small_model import small

from statetx.core.errors import ResultsError
from statetx.models import weights_file
from statetx.training.loop import trainer
from statetx.training.loop.lightning_module import PertSetsModule

KEEP = ["best", "last", "step=2", "step=4"]
SETTINGS = {"max_steps": 8, "val_freq": 2, "ema_decay": 0.4}


def _same(one: Path, two: Path) -> bool:
    for name in KEEP:
        first, second = (load_file(out / f"{name}.safetensors") for out in (one, two))
        if first.keys() != second.keys() or any((first[k] != second[k]).any() for k in first):
            return False
    return True


def _files(*homes: Path) -> dict[str, bytes]:
    """Every file of these directories, hidden ones too, with its content."""
    found = [path for home in homes for path in home.rglob("*") if path.is_file()]
    return {path.name: path.read_bytes() for path in found}


def _weights_are_full(after: int) -> Callable[..., None]:
    """Behave like safetensors when the disk is full, from the so-manieth file on."""
    done: list[Path] = []
    write = weights_file.save_file

    def save(arrays: Any, path: Path, **more: Any) -> None:
        done.append(path)
        if len(done) <= after:
            write(arrays, path, **more)
            return
        path.write_bytes(b"half")
        said = "Error while serializing: I/O error: No space left on device (os error 28)"
        raise SafetensorError(said)

    return save


def _state_is_full(how: str) -> Callable[..., None]:
    """Behave like torch when the disk is full: it raises either, depending on where the write fails."""

    def save(_: Any, file: Any) -> None:
        file.write(b"half")
        full = OSError(errno.ENOSPC, "No space left on device")
        if how == "state":
            raise full
        try:
            raise full
        except OSError:
            raise RuntimeError(
                "[enforce fail at inline_container.cc:672] . unexpected pos"
            ) from None

    return save


@pytest.mark.parametrize(
    ("what", "written"),
    [
        ("checkpoint", "step=4.safetensors"),
        ("best", "best-4.safetensors"),
        ("state", "last.ckpt"),
        ("state in torch's words", "last.ckpt"),
    ],
)
def test_the_state_before_survives_and_training_goes_on(
    train: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    written: str,
) -> None:
    settings = small(**SETTINGS)
    whole = train(settings, "whole", keep=KEEP)
    state, home = tmp_path / "part.state", tmp_path / "part" / "checkpoints"
    step, kept = PertSetsModule.training_step, {}

    def watched(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 2 and not kept:  # the first state has been saved
            kept.update(_files(state, home))
            if what.startswith("state"):
                monkeypatch.setattr(trainer.torch, "save", _state_is_full(what))
            else:
                full = _weights_are_full(0 if what == "checkpoint" else 1)
                monkeypatch.setattr(weights_file, "save_file", full)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PertSetsModule, "training_step", watched)
        with pytest.raises(ResultsError, match="the disk is full") as caught:
            train(settings, "part", keep=KEEP)
        monkeypatch.undo()
    assert written in str(caught.value.where)
    assert "free disk space and run the same command again" in str(caught.value.fix)
    assert len(str(caught.value).splitlines()) == 3
    assert not (tmp_path / "part" / "model").exists()
    assert {"last.ckpt", "step=2.safetensors", "best-2.safetensors"} <= kept.keys()
    left = _files(state, home)
    assert {name: left.get(name) for name in kept} == kept
    whole_files = {"step=4.safetensors", "best-4.safetensors"}
    assert left.keys() - kept.keys() <= whole_files - {written}
    taken: list[int] = []

    def counted(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        taken.append(self.global_step)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PertSetsModule, "training_step", counted)
    part = train(settings, "part", keep=KEEP)
    assert taken == [2, 3, 4, 5, 6, 7]
    assert _same(whole, part)


def test_other_errors_of_a_write_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="another"):
        trainer.DirectIO().save_checkpoint({"x": _Broken()}, tmp_path / "x")
    with pytest.raises(SafetensorError, match=r"dtype|type"):
        weights_file.write_weights({"x": np.zeros(1, dtype="datetime64[s]")}, tmp_path / "x")


class _Broken:
    def __reduce__(self) -> str:
        raise RuntimeError("another")


def test_a_model_directory_that_does_not_fit_is_one_error_too(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = _weights_are_full(6)  # three steps and the best of each: the next is in the model
    monkeypatch.setattr(weights_file, "save_file", full)
    with pytest.raises(ResultsError, match="the disk is full") as caught:
        train(small())
    assert str(caught.value.where) == str(tmp_path / "run" / "model")
    monkeypatch.undo()
    assert train(small()).is_dir()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    home = tmp_path / "disk"
    home.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no `mount`")
    made = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(home)]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield home
    subprocess.run(["umount", "--lazy", str(home)], check=True)


@pytest.mark.parametrize("room", [0.5, 1.5, 3.5], ids=["no checkpoint", "no best", "half a state"])
def test_a_disk_that_is_really_full(
    train: Callable[..., Path],
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: float,
) -> None:
    """`room`: how many checkpoints fit on it beside the first state."""
    settings = small(**SETTINGS)
    whole = train(settings, "whole", keep=KEEP)
    places = {"state_dir": small_disk / "state", "checkpoints_dir": small_disk / "checkpoints"}
    step, kept = PertSetsModule.training_step, {}

    def watched(self: PertSetsModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 2 and not kept:
            kept.update(_files(small_disk))
            leave = int(room * len(kept["step=2.safetensors"]))
            ballast = shutil.disk_usage(small_disk).free - leave
            (small_disk / "ballast").write_bytes(b"x" * ballast)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PertSetsModule, "training_step", watched)
        with pytest.raises(ResultsError) as caught:
            train(settings, "part", keep=KEEP, **places)
    assert str(small_disk) in str(caught.value.where)
    assert "disk is full" in caught.value.what or "No space left" in caught.value.what
    assert "space" in str(caught.value.fix)
    left = _files(small_disk)
    assert {name: left.get(name) for name in kept} == kept
    (small_disk / "ballast").unlink()
    assert torch.load(small_disk / "state" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert _same(whole, train(settings, "part", keep=KEEP, **places))
