"""Step checkpoints and the resume state of a training.

The directory of the step checkpoints belongs to the run. The directory of the state belongs to a
training (settings, seed, data, code). Trainings of a run may alternate, so every file contains the
identity of its training. A step checkpoint of another training must never get into a model
directory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from statetx.core import stopping
from statetx.core.errors import ModelError
from statetx.core.writes import whole
from statetx.models.weights_file import write_weights
from statetx.training.loop.callbacks import Validation, stepped
from statetx.training.loop.lightning_module import PertSetsModule

log = logging.getLogger("statetx.training")

STATE_EVERY_S = 600.0
"""Seconds after the last save at which a state is saved, for any number of steps."""


class Checkpoints(lightning.Callback):
    """A callback that writes step checkpoints, and the state from which a training resumes.

    Parameters
    ----------
    validation
        Callback with the best weights.
    state, checkpoints
        Directories of the resume state and of ``step=N.safetensors``.
    every
        Steps between step checkpoints, and between states.
    identity
        Digest of everything that this training depends on; it is written to every file.
    """

    def __init__(
        self, validation: Validation, state: Path, checkpoints: Path, every: int, identity: str
    ) -> None:
        self.validation = validation
        self.state = state
        self.checkpoints = checkpoints
        self.every = every
        self.identity = identity
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._asked = False
        self._kept: list[Path] = []

    @property
    def last(self) -> Path:
        """Path of the resume state."""
        return self.state / "last.ckpt"

    @property
    def before(self) -> Path:
        """Path of the state before the last, which replaces a damaged last state."""
        return self.state / "before.ckpt"

    def _best(self, step: int) -> Path:
        return self.state / f"best-{step}.safetensors"

    def _step(self, name: str) -> Path:
        return self.checkpoints / f"{name}.safetensors"

    def prepare(self, keep: Sequence[str]) -> Path | None:
        """Return the state to resume from, or None; remove step checkpoints of other trainings.

        If the last state is damaged, it is removed and the state before it is used. A wanted step
        checkpoint from before the state can be damaged, or missing because another training of the
        run was started in between. The state is then removed, because only training from the start
        writes that checkpoint again. Partial files of killed attempts are removed too.

        Parameters
        ----------
        keep
            Names of the checkpoints that are wanted in the end.

        Raises
        ------
        ModelError
            The state is of another training, or the directory of step checkpoints is a link. No
            step checkpoint is removed then.
        """
        if self.checkpoints.is_symlink():
            raise ModelError(
                "the directory of step checkpoints is a link to "
                f"{str(self.checkpoints.readlink())!r}",
                where=self.checkpoints,
                fix="remove the link: training removes step checkpoints of other trainings behind "
                "it",
            )
        state, done = self._newest()
        usable = {
            path.stem
            for path in self.checkpoints.glob("step=*.safetensors")
            if done and self._is_own(path, whole=path.stem in keep)
        }
        wanted = {name: int(name[5:]) for name in keep if name.startswith("step=")}
        lost = [name for name, step in wanted.items() if step <= done and name not in usable]
        if lost:
            log.warning("%s of this training is gone: training again from the start", lost[0])
            state, usable = None, set()
        if state is None:
            shutil.rmtree(self.state, ignore_errors=True)
        for path in self.checkpoints.glob("step=*.safetensors"):
            if path.stem not in usable:
                path.unlink()
        for path in (*self.state.glob(".*"), *self.checkpoints.glob(".step=*")):
            shutil.rmtree(path, ignore_errors=True)
        return state

    def _newest(self) -> tuple[Path | None, int]:
        """Return the newest undamaged state and its number of steps; (None, 0): no state."""
        for path in (self.last, self.before):
            if not path.exists():
                continue
            try:
                return path, self._steps_of(path)
            except _DamagedError as error:
                log.warning("%s is damaged and not used: %s", path, error)
                path.unlink()
        return None, 0

    def _steps_of(self, path: Path) -> int:
        """Return the number of steps of a state, after checking it and its best weights."""
        try:
            with zipfile.ZipFile(path) as file:
                wrong = file.testzip()  # torch does not check the checksums that it writes
            if wrong is not None:
                raise _DamagedError(f"the checksum of {wrong} is wrong")
            # Mapped, so that tensors are not read: the trainer reads them later.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            ours, step = state["statetx"], int(state["global_step"])
            writer, best = ours["training"], ours["best"]
        except _DamagedError:
            raise
        except Exception as error:  # damaged bytes can make torch.load raise any error
            raise _DamagedError(f"{type(error).__name__}: {error}") from error
        if writer != self.identity:
            raise ModelError(
                "the resume state belongs to a training with other settings, seed or plan",
                where=path,
                fix="remove the state directory and train again",
            )
        if best is not None and not self._is_own(self._best(best)):
            raise _DamagedError(f"{self._best(best).name} is missing or damaged")
        return step

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Read the best weights, and note which step is already saved."""
        self.read_best()
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        self._say_where()

    def read_best(self) -> None:
        """Read the best weights of an interrupted training.

        Call this after the training too: hooks do not run if no step was left to do.

        Raises
        ------
        ModelError
            The file is missing or damaged.
        """
        step = self.validation.best_step
        if step is not None and self.validation.best_weights is None:
            self.validation.best_weights = self._read(self._best(step))

    def read_step(self, name: str) -> dict[str, np.ndarray]:
        """Return the weights of a step checkpoint.

        Parameters
        ----------
        name
            Name of the checkpoint, ``step=N``.

        Raises
        ------
        ModelError
            The file is missing, damaged, or of another training.
        """
        return self._read(self._step(name))

    def _is_own(self, path: Path, whole: bool = True) -> bool:
        """Return whether a file of weights is of this training and, if `whole`, undamaged."""
        try:
            with safe_open(path, framework="numpy") as file:
                seal = (file.metadata() or {}).get("training", "")
            if not whole:
                return str(seal).startswith(f"{self.identity} ")
            return seal == self._seal(load_file(path))
        except (OSError, SafetensorError, ValueError):
            return False

    def _seal(self, arrays: dict[str, np.ndarray]) -> str:
        """Return the seal of a file of weights: identity of the training, digest of the weights."""
        state = hashlib.blake2b(digest_size=16)
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            state.update(f"{name} {array.dtype} {array.shape}".encode())
            state.update(array.reshape(-1).view(np.uint8).data)
        return f"{self.identity} {state.hexdigest()}"

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        if not self._is_own(path):
            raise ModelError(
                f"{path.name} is missing, damaged, or was written by another training",
                where=path,
                fix="run the same command to train again",
            )
        return load_file(path)

    def _write(self, arrays: dict[str, np.ndarray], path: Path) -> None:
        with whole(path) as part:
            # A single entry: safetensors writes several in an order that changes between runs.
            write_weights(arrays, part, {"training": self._seal(arrays)})

    def due(self) -> bool:
        """Return whether it is time to save the state."""
        return time.monotonic() - self._saved_at >= STATE_EVERY_S

    def ask(self) -> None:
        """Request a save of the state after this step."""
        self._asked = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a step checkpoint and the state, if they are due or requested."""
        step = trainer.global_step
        regular = step % self.every == 0
        if not (regular or self._asked) or not stepped(trainer, batch_idx):
            return
        assert isinstance(pl_module, PertSetsModule)
        pl_module.settle()
        if regular and trainer.is_global_zero:
            self._write(pl_module.evaluated.arrays(), self._step(f"step={step}"))
        self._save_state(trainer)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Add the identity of the training and the best step to the state."""
        checkpoint["statetx"] = {"training": self.identity, "best": self.validation.best_step}
        assert isinstance(pl_module, PertSetsModule)
        if (
            pl_module.within_step
        ):  # a resumed training repeats the step, so its batches do not count
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            done = trainer.global_step * trainer.accumulate_grad_batches
            for part in ("total", "current"):
                progress[part] = dict.fromkeys(progress[part], done)

    def _save_state(self, trainer: lightning.Trainer) -> None:
        """Write the state; all processes of a training call this, and the first process writes."""
        with stopping.slowly():
            self._write_state(trainer)
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._asked = False
        self._say_where()

    def _write_state(self, trainer: lightning.Trainer) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.last)
            return
        step = self.validation.best_step
        if step is not None and not self._best(step).exists():
            assert self.validation.best_weights is not None
            self._write(self.validation.best_weights, self._best(step))
        with whole(self.last) as part:
            trainer.save_checkpoint(part)
            if self.last.exists():
                os.replace(self.last, self.before)
        # Only now: until the new state was in place, older states needed their best weights.
        self._kept = [*self._kept[-1:], self._best(step or 0)]
        if len(self._kept) == 2:
            for path in self.state.glob("best-*.safetensors"):
                if path not in self._kept:
                    path.unlink()

    def _say_where(self) -> None:
        step = self._saved_step
        where = f"training resumes from step {step}" if step else "no step was saved yet"
        stopping.go_on(f"run the same command again; {where}")

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Save the state after a signal, which stops training between two steps."""
        if isinstance(exception, SIGTERMException) and trainer.global_step > self._saved_step:
            self._save_state(trainer)


class _DamagedError(Exception):
    """An error for a state from which training cannot resume."""
