"""Validation and training curves, as callbacks between the steps of a training.

The order of the callbacks matters. `Validation` measures, then `Curves` adds a row, then
`statetx.training.loop.checkpoints.Checkpoints` saves a state with both.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch

from statetx.core.errors import ModelError
from statetx.training.loop.lightning_module import Batch, PertSetsModule
from statetx.training.loop.monitors import MONITORS, measure

log = logging.getLogger("statetx.training")

COLUMNS = (
    *("step", "train_loss", "train_decoder_loss", *MONITORS, "val_decoder_loss"),
    *("gradient_norm", "lr", "cells_per_second", "waiting", "seconds"),
)
COLLAPSED = 3
"""Number of consecutive low measurements after which a training is stopped."""
ROWS = 200
"""Approximate number of rows of a training curve, for any number of steps."""


class Validation(lightning.Callback):
    """A callback that measures the model on fixed sets during training, and keeps the best weights.

    Parameters
    ----------
    batches
        The validation sets, the same at every measurement; empty: nothing is measured.
    every
        Steps between measurements. The last step is always measured.
    last_step
        Number of the last step.
    monitor
        Name in `MONITORS` that chooses the best weights. ``val_loss`` is better when smaller, the
        others when larger.
    patience
        Number of measurements without a better value after which training stops; None: never.
    collapse_below
        Training fails if the collapse ratio stays below this for `COLLAPSED` measurements after the
        first tenth of the steps; None: never.
    """

    def __init__(
        self,
        batches: list[Batch],
        every: int,
        last_step: int,
        monitor: str = "val_loss",
        patience: int | None = None,
        collapse_below: float | None = None,
    ) -> None:
        self.batches = batches
        self.every = every
        self.last_step = last_step
        self.monitor = monitor
        self.patience, self.collapse_below = patience, collapse_below
        self.latest: dict[str, float] = {}
        self.best_step: int | None = None
        self.best_value = math.nan
        self.best_weights: dict[str, np.ndarray] | None = None
        self.stopped_at: int | None = None
        self.measured = 0
        self._without = self._collapsed = 0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure after every `every` steps and after the last step.

        Raises
        ------
        ModelError
            The validation loss is not finite, or the model collapsed.
        """
        step = trainer.global_step
        self.latest = {}
        if not stepped(trainer, batch_idx) or not self.batches:
            return
        if step % self.every and step != self.last_step:
            return
        assert isinstance(pl_module, PertSetsModule)
        pl_module.settle()
        # The first process decides for all: rounding differences must not stop only some of them.
        values = trainer.strategy.broadcast(measure(trainer, pl_module, self.batches))
        if not math.isfinite(values["val_loss"]):
            raise ModelError(
                f"the validation loss is {values['val_loss']} after step {step}",
                where="training",
                fix="lower lr, and check that the validation cells are finite log1p values",
            )
        self.latest = values
        self.measured += 1
        log.info(
            "step %d: validation loss %.5g, pearson of deltas %.3f, discrimination %.3f, spread "
            "%.2f",
            step,
            *(values[name] for name in MONITORS),
        )
        self._keep_best(values[self.monitor], step, pl_module)
        self._watch(values["val_collapse_ratio"], step, trainer)

    def _keep_best(self, value: float, step: int, module: PertSetsModule) -> None:
        sign = 1.0 if self.monitor == "val_loss" else -1.0
        if math.isnan(value):
            if self.measured == 1:
                log.warning(
                    "step %d: %s is not defined (NaN), so it chooses nothing", step, self.monitor
                )
            return
        if math.isnan(self.best_value) or sign * value < sign * self.best_value:
            self.best_value, self.best_step = value, step
            self.best_weights = module.evaluated.arrays()
            self._without = 0
        else:
            self._without += 1

    def _watch(self, ratio: float, step: int, trainer: lightning.Trainer) -> None:
        low = self.collapse_below is not None and ratio < self.collapse_below
        self._collapsed = self._collapsed + 1 if low and 10 * step > self.last_step else 0
        if self._collapsed >= COLLAPSED:
            raise ModelError(
                f"the model collapsed: at step {step} the variance between predicted deltas is "
                f"{ratio:.3g} of the real one, for {COLLAPSED} measurements",
                where="training.collapse_below",
                fix="lower lr, add warm-up steps, or check that perturbations have an effect in "
                "these cells: predictions hardly depend on the perturbation. null turns this check "
                "off",
            )
        if self.patience is not None and self._without >= self.patience:
            log.info(
                "stopped at step %d: no better %s since %s", step, self.monitor, self.best_step
            )
            self.stopped_at = step
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the best step and counters; `Checkpoints` writes the best weights to a file."""
        return {
            "best_step": self.best_step,
            "best_value": self.best_value,
            "without": self._without,
            "collapsed": self._collapsed,
            "stopped_at": self.stopped_at,
            "measured": self.measured,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the values of an interrupted training."""
        self.best_step, self.best_value = state_dict["best_step"], state_dict["best_value"]
        self._without, self._collapsed = state_dict["without"], state_dict["collapsed"]
        self.stopped_at, self.measured = state_dict["stopped_at"], state_dict["measured"]

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stop at once if patience had already ended the training."""
        if self.stopped_at is not None:
            trainer.should_stop = True


def stepped(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Return whether this batch completes a step, after the accumulation of gradients.

    Parameters
    ----------
    trainer
        Lightning's trainer.
    batch_idx
        Number of the batch.
    """
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Curves(lightning.Callback):
    """A callback that collects the rows of ``metrics.csv`` and passes them to the trainer's logger.

    Parameters
    ----------
    validation
        Callback with the latest measurement.
    every
        Steps between rows. Validations and the last step always have a row.
    last_step
        Number of the last step.
    waited
        Function that returns the seconds for which training has waited for cells so far.
    """

    def __init__(
        self,
        validation: Validation,
        every: int,
        last_step: int,
        waited: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.validation = validation
        self._waited, self._waited_before = waited, 0.0
        self.every = every
        self.last_step = last_step
        self.rows: list[dict[str, float]] = []
        self._losses: list[tuple[float, float]] = []
        self._whole = (0, 0)  # losses and cells of complete steps, from which training can resume
        self._cells = 0
        self._seconds = 0.0
        self._elapsed = 0.0
        self._since = time.perf_counter()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the clock, with the time that an interrupted training spent on the row."""
        self._since = time.perf_counter() - self._elapsed

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count cells, and add a row if one is due."""
        assert isinstance(pl_module, PertSetsModule)
        step, latest = trainer.global_step, self.validation.latest
        self._cells += batch.target.shape[0] * batch.target.shape[1]
        self._collect(pl_module)
        if not stepped(trainer, batch_idx):
            return
        self._whole = len(self._losses), self._cells
        stopped = self.validation.stopped_at == step
        if step % self.every and step != self.last_step and not latest and not stopped:
            return
        pl_module.settle()
        self._collect(pl_module)
        elapsed = time.perf_counter() - self._since
        self._seconds += elapsed
        waited = self._waited()
        main, decoder = _over_ranks(trainer, np.array(self._losses).mean(0))
        row = {
            "step": step,
            "train_loss": main,
            "train_decoder_loss": decoder,
            **latest,
            "gradient_norm": pl_module.gradient_norm,
            "lr": pl_module.lr,
            "cells_per_second": trainer.world_size * self._cells / max(elapsed, 1e-9),
            "waiting": (waited - self._waited_before) / max(elapsed, 1e-9),
            "seconds": self._seconds,
        }
        self._waited_before = waited
        self.rows.append(row)
        if trainer.logger is not None:
            named = {key: value for key, value in row.items() if key != "step"}
            trainer.logger.log_metrics(named, step=step)
        self._losses, self._cells, self._since = [], 0, time.perf_counter()
        self._whole = 0, 0

    def _collect(self, module: PertSetsModule) -> None:
        self._losses += module.finished
        module.finished = []

    def text(self) -> str:
        """Return the text of ``metrics.csv``; fields without a measurement are empty."""
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({key: _short(value) for key, value in row.items()})
        return out.getvalue()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, and losses, cells and time of the current row."""
        return {
            "rows": self.rows,
            "losses": [list(pair) for pair in self._losses[: self._whole[0]]],
            "cells": self._whole[1],
            "seconds": self._seconds,
            "elapsed": time.perf_counter() - self._since,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the values of an interrupted training."""
        self.rows = list(state_dict["rows"])
        self._losses = [(float(main), float(decoder)) for main, decoder in state_dict["losses"]]
        self._cells = state_dict["cells"]
        self._whole = len(self._losses), self._cells
        self._seconds = state_dict["seconds"]
        self._elapsed = state_dict["elapsed"]


def _over_ranks(trainer: lightning.Trainer, values: np.ndarray) -> list[float]:
    """Return the mean of each value over the processes that train together."""
    if trainer.world_size == 1:
        return [float(value) for value in values]
    local = torch.as_tensor(values, dtype=torch.float32, device=trainer.strategy.root_device)
    mean = trainer.strategy.reduce(local, reduce_op="mean")
    assert isinstance(mean, torch.Tensor)
    return mean.tolist()


def _short(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.7g}"
