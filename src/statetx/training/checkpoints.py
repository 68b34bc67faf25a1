"""Step checkpoints and the resume state: whose they are, and that none of them is mixed up.

The directory of the step checkpoints belongs to the run, that of the state to one training (its
settings, seed, data, code). Trainings of a run may alternate, so every file says which training
wrote it: a step checkpoint of another one must never end up in a model directory.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from statetx.errors import ModelError
from statetx.models.weights_file import write_weights
from statetx.provenance import whole
from statetx.training.callbacks import Validation, stepped
from statetx.training.module import PertSetsModule

log = logging.getLogger("statetx.training")


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

    @property
    def last(self) -> Path:
        """The resume state."""
        return self.state / "last.ckpt"

    def _best(self, step: int) -> Path:
        return self.state / f"best-{step}.safetensors"

    def _step(self, name: str) -> Path:
        return self.checkpoints / f"{name}.safetensors"

    def prepare(self, keep: list[str]) -> Path | None:
        """Return the state to resume from, or None; remove step checkpoints of other trainings.

        Where a wanted step checkpoint from before the state is gone, because another training of
        the run was started in between, the state is dropped: only training again can give it. What
        killed attempts had half written is removed too.

        Parameters
        ----------
        keep
            Checkpoints that are wanted in the end.

        Raises
        ------
        ModelError
            The state is unreadable or that of another training; nothing is removed then.
        """
        done = self._steps_done()
        own = {
            path.stem
            for path in self.checkpoints.glob("step=*.safetensors")
            if done and _writer(path) == self.identity
        }
        wanted = {name: int(name[5:]) for name in keep if name.startswith("step=")}
        lost = [name for name, step in wanted.items() if step <= done and name not in own]
        if lost:
            log.warning("%s of this training is gone: training again from the start", lost[0])
            done, own = 0, set()
        if not done:
            shutil.rmtree(self.state, ignore_errors=True)
        for path in self.checkpoints.glob("step=*.safetensors"):
            if path.stem not in own:
                path.unlink()
        for path in (*self.state.glob(".*"), *self.checkpoints.glob(".step=*")):
            shutil.rmtree(path, ignore_errors=True)
        return self.last if done else None

    def _steps_done(self) -> int:
        """Return how many steps the state has behind it; 0 when there is no state."""
        if not self.last.exists():
            return 0
        try:
            # Mapped, so that the tensors are not read here: the trainer will.
            state = torch.load(self.last, map_location="cpu", weights_only=True, mmap=True)
            writer, step = state["statetx"]["training"], int(state["global_step"])
        except Exception as error:  # torch.load raises whatever the broken bytes lead to
            raise ModelError(
                f"cannot read the resume state: {error}",
                where=self.last,
                fix="remove the state directory and train again",
            ) from error
        if writer != self.identity:
            raise ModelError(
                "the resume state belongs to a training with other settings, seed or plan",
                where=self.last,
                fix="remove the state directory and train again",
            )
        return step

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Note what is already saved."""
        self.read_best()
        self._saved_step = trainer.global_step

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

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        if _writer(path) != self.identity:
            raise ModelError(
                f"{path.name} is missing, damaged, or was written by another training",
                where=path,
                fix=f"remove {self.state} and train again; two trainings of one run must not run "
                "at the same time",
            )
        return load_file(path)

    def _write(self, arrays: dict[str, np.ndarray], path: Path) -> None:
        with whole(path) as part:
            # One entry only: safetensors writes several in an order that changes between runs.
            write_weights(arrays, part, {"training": self.identity})

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
        if step % self.every or not stepped(trainer, batch_idx):
            return
        assert isinstance(pl_module, PertSetsModule)
        pl_module.settle()
        if trainer.is_global_zero:
            self._write(pl_module.evaluated.arrays(), self._step(f"step={step}"))
        self._save_state(trainer)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Write down whose state this is."""
        checkpoint["statetx"] = {"training": self.identity}
        assert isinstance(pl_module, PertSetsModule)
        if pl_module.within_step:  # the step starts anew, so its batches do not count yet
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            done = trainer.global_step * trainer.accumulate_grad_batches
            for part in ("total", "current"):
                progress[part] = dict.fromkeys(progress[part], done)

    def _save_state(self, trainer: lightning.Trainer) -> None:
        """Write the state; all processes of a training come here, the first one writes."""
        self._saved_step = trainer.global_step
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.last)
            return
        step = self.validation.best_step
        if step is not None and not self._best(step).exists():
            assert self.validation.best_weights is not None
            self._write(self.validation.best_weights, self._best(step))
        with whole(self.last) as part:
            trainer.save_checkpoint(part)
        # Only now: until the new state was in place, the old one needed its own best weights.
        for path in self.state.glob("best-*.safetensors"):
            if step is None or path != self._best(step):
                path.unlink()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Save where a scheduler's SIGTERM stopped us: it comes between two steps."""
        if isinstance(exception, SIGTERMException) and trainer.global_step > self._saved_step:
            self._save_state(trainer)


def _writer(path: Path) -> str | None:
    """Return which training wrote a file of weights; None when it does not say or is unreadable."""
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("training")
    except (OSError, SafetensorError):
        return None
