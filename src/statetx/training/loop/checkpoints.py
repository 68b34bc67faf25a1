"""Step checkpoints and the resume state: whose they are, and that none of them is mixed up.

The directory of the step checkpoints belongs to the run, that of the state to one training (its
settings, seed, data, code). Trainings of a run may alternate, so every file says which training
wrote it: a step checkpoint of another one must never end up in a model directory.
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
"""A state is saved when so much time has passed since the last one, whatever the number of steps."""


class Checkpoints(lightning.Callback):
    """Writes step checkpoints and the state from which an interrupted training resumes.

    Parameters
    ----------
    validation
        Holds the best weights.
    state, checkpoints
        Directories of the resume state and of ``step=N.safetensors``.
    every
        Steps between both.
    identity
        Digest of what this training depends on; stands in everything that is written.
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
        """The resume state."""
        return self.state / "last.ckpt"

    @property
    def before(self) -> Path:
        """The state before it, should it turn out to be damaged."""
        return self.state / "before.ckpt"

    def _best(self, step: int) -> Path:
        return self.state / f"best-{step}.safetensors"

    def _step(self, name: str) -> Path:
        return self.checkpoints / f"{name}.safetensors"

    def prepare(self, keep: Sequence[str]) -> Path | None:
        """Return the state to resume from, or None; remove step checkpoints of other trainings.

        A state that is damaged is left aside for the one before it. Where a wanted step checkpoint
        from before the state is gone, because another training of the run was started in between, or
        is damaged, the state is dropped: only training again can give it. What killed attempts had
        half written is removed too.

        Parameters
        ----------
        keep
            Checkpoints that are wanted in the end.

        Raises
        ------
        ModelError
            The state is that of another training, or step checkpoints lie behind a link; nothing is
            removed then.
        """
        if self.checkpoints.is_symlink():
            raise ModelError(
                f"the directory of step checkpoints is a link to {str(self.checkpoints.readlink())!r}",
                where=self.checkpoints,
                fix="remove the link: step checkpoints of another training there would be removed",
            )
        state, done = self._newest()
        own = {
            path.stem
            for path in self.checkpoints.glob("step=*.safetensors")
            if done and self._is_own(path, whole=path.stem in keep)
        }
        wanted = {name: int(name[5:]) for name in keep if name.startswith("step=")}
        lost = [name for name, step in wanted.items() if step <= done and name not in own]
        if lost:
            log.warning("%s of this training is gone: training again from the start", lost[0])
            state, own = None, set()
        if state is None:
            shutil.rmtree(self.state, ignore_errors=True)
        for path in self.checkpoints.glob("step=*.safetensors"):
            if path.stem not in own:
                path.unlink()
        for path in (*self.state.glob(".*"), *self.checkpoints.glob(".step=*")):
            shutil.rmtree(path, ignore_errors=True)
        return state

    def _newest(self) -> tuple[Path | None, int]:
        """Return the newest whole state and how many steps it has behind it; (None, 0): there is none."""
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
        """Return how many steps a state has behind it, once it and its best weights prove whole."""
        try:
            with zipfile.ZipFile(path) as file:
                wrong = file.testzip()  # torch does not look at the checksums that it writes
            if wrong is not None:
                raise _DamagedError(f"the checksum of {wrong} is wrong")
            # Mapped, so that the tensors are not read here: the trainer will.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            ours, step = state["statetx"], int(state["global_step"])
            writer, best = ours["training"], ours["best"]
        except _DamagedError:
            raise
        except Exception as error:  # torch.load raises whatever the broken bytes lead to
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
        """Note what is already saved."""
        self.read_best()
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        self._say_where()

    def read_best(self) -> None:
        """Read back the best weights of an interrupted training.

        Also to be called after the training: hooks do not run when no step was left to do.

        Raises
        ------
        ModelError
            The file is missing or damaged.
        """
        step = self.validation.best_step
        if step is not None and self.validation.best_weights is None:
            self.validation.best_weights = self._read(self._best(step))

    def read_step(self, name: str) -> dict[str, np.ndarray]:
        """Return the weights of ``step=N``.

        Raises
        ------
        ModelError
            The file is missing, damaged, or of another training.
        """
        return self._read(self._step(name))

    def _is_own(self, path: Path, whole: bool = True) -> bool:
        """Whether a file of weights is of this training, and what it was written as."""
        try:
            with safe_open(path, framework="numpy") as file:
                said = (file.metadata() or {}).get("training", "")
            if not whole:
                return str(said).startswith(f"{self.identity} ")
            return said == self._seal(load_file(path))
        except (OSError, SafetensorError, ValueError):
            return False

    def _seal(self, arrays: dict[str, np.ndarray]) -> str:
        """What stands in a file of weights: whose they are, and a digest of them."""
        found = hashlib.blake2b(digest_size=16)
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(array.reshape(-1).view(np.uint8).data)
        return f"{self.identity} {found.hexdigest()}"

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        if not self._is_own(path):
            raise ModelError(
                f"{path.name} is missing, damaged, or was written by another training",
                where=path,
                fix="run the same command to train again what is gone",
            )
        return load_file(path)

    def _write(self, arrays: dict[str, np.ndarray], path: Path) -> None:
        with whole(path) as part:
            # One entry only: safetensors writes several in an order that changes between runs.
            write_weights(arrays, part, {"training": self._seal(arrays)})

    def due(self) -> bool:
        """Whether it is time to save the state."""
        return time.monotonic() - self._saved_at >= STATE_EVERY_S

    def ask(self) -> None:
        """Have the state saved after this step."""
        self._asked = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write both when it is time."""
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
        """Write down whose state this is."""
        checkpoint["statetx"] = {"training": self.identity, "best": self.validation.best_step}
        assert isinstance(pl_module, PertSetsModule)
        if pl_module.within_step:  # the step starts anew, so its batches do not count yet
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            done = trainer.global_step * trainer.accumulate_grad_batches
            for part in ("total", "current"):
                progress[part] = dict.fromkeys(progress[part], done)

    def _save_state(self, trainer: lightning.Trainer) -> None:
        """Write the state; all processes of a training come here, the first one writes."""
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
        # Only now: until the new state was in place, older ones needed their own best weights.
        self._kept = [*self._kept[-1:], self._best(step or 0)]
        if len(self._kept) == 2:
            for path in self.state.glob("best-*.safetensors"):
                if path not in self._kept:
                    path.unlink()

    def _say_where(self) -> None:
        step = self._saved_step
        where = f"it goes on from step {step}" if step else "no step was saved yet"
        stopping.go_on(f"run the same command again; {where}")

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Save where a signal stopped us: it is heard between two steps."""
        if isinstance(exception, SIGTERMException) and trainer.global_step > self._saved_step:
            self._save_state(trainer)


class _DamagedError(Exception):
    """A state cannot be resumed from."""
