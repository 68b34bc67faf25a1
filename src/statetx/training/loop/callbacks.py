"""What happens between the steps: validation, curves, progress.

The order of the callbacks matters: `Validation` measures, `Curves` writes the row down, and
`checkpoints.Checkpoints` saves a state that holds both.
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
"""Measurements in a row that are too low before a training is given up."""
ROWS = 200
"""About so many rows stand in a training curve, whatever its length."""


class Validation(lightning.Callback):
    """Measures the model on fixed sets every `every` steps and after the last; keeps the best.

    Parameters
    ----------
    batches
        The validation sets, the same at every measurement; empty: there is nothing to choose by.
    every
        Steps between measurements.
    last_step
        Number of the last step.
    monitor
        Which of `MONITORS` chooses the best; ``val_loss`` is better when smaller, the others when
        larger.
    patience
        Stop after so many measurements without a better one; None: never.
    collapse_below
        Stop with an error when the collapse ratio stays below this for `COLLAPSED` measurements after
        the first tenth of the steps; None: never.
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
        """Measure when it is time."""
        step = trainer.global_step
        self.latest = {}
        if not stepped(trainer, batch_idx) or not self.batches:
            return
        if step % self.every and step != self.last_step:
            return
        assert isinstance(pl_module, PertSetsModule)
        pl_module.settle()
        # One of several processes decides for all: a last digit must not stop one of them only.
        found = trainer.strategy.broadcast(measure(trainer, pl_module, self.batches))
        if not math.isfinite(found["val_loss"]):
            raise ModelError(
                f"the validation loss is {found['val_loss']} after step {step}",
                where="training",
                fix="lower lr, and check that the validation cells are finite log1p values",
            )
        self.latest = found
        self.measured += 1
        log.info(
            "step %d: validation loss %.5g, pearson of deltas %.3f, discrimination %.3f, spread %.2f",
            step,
            *(found[name] for name in MONITORS),
        )
        self._keep_best(found[self.monitor], step, pl_module)
        self._watch(found["val_collapse_ratio"], step, trainer)

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
                fix="predictions hardly depend on the perturbation: lower lr, warm up, or check that "
                "perturbations have an effect in these cells; null goes on regardless",
            )
        if self.patience is not None and self._without >= self.patience:
            log.info(
                "stopped at step %d: no better %s since %s", step, self.monitor, self.best_step
            )
            self.stopped_at = step
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Which step was best; the weights themselves lie in a file of their own."""
        return {
            "best_step": self.best_step,
            "best_value": self.best_value,
            "without": self._without,
            "collapsed": self._collapsed,
            "stopped_at": self.stopped_at,
            "measured": self.measured,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up an interrupted training."""
        self.best_step, self.best_value = state_dict["best_step"], state_dict["best_value"]
        self._without, self._collapsed = state_dict["without"], state_dict["collapsed"]
        self.stopped_at, self.measured = state_dict["stopped_at"], state_dict["measured"]

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Do not go on with a training that patience has ended."""
        if self.stopped_at is not None:
            trainer.should_stop = True


def stepped(trainer: lightning.Trainer, batch_idx: int) -> bool:
    """Whether the optimiser moved after this batch, or gradients are still being accumulated."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Curves(lightning.Callback):
    """Collects the rows of ``metrics.csv`` and hands them to the trainer's logger.

    Parameters
    ----------
    validation
        Asked for its latest measurement.
    every
        Steps between rows; a validation and the last step always have a row.
    last_step
        Number of the last step.
    waited
        Gives the seconds that the training has waited for cells so far.
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
        self._whole = (0, 0)  # losses and cells of whole steps: what a resumed training starts from
        self._cells = 0
        self._seconds = 0.0
        self._elapsed = 0.0
        self._since = time.perf_counter()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the clock, with what an interrupted training had spent on the row."""
        self._since = time.perf_counter() - self._elapsed

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count; write a row when it is time."""
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
        """``metrics.csv``: one row per step written down, empty where nothing was measured."""
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({key: _short(value) for key, value in row.items()})
        return out.getvalue()

    def state_dict(self) -> dict[str, Any]:
        """Rows so far, and losses, cells and time of the row that is being collected."""
        return {
            "rows": self.rows,
            "losses": [list(pair) for pair in self._losses[: self._whole[0]]],
            "cells": self._whole[1],
            "seconds": self._seconds,
            "elapsed": time.perf_counter() - self._since,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up an interrupted training."""
        self.rows = list(state_dict["rows"])
        self._losses = [(float(main), float(decoder)) for main, decoder in state_dict["losses"]]
        self._cells = state_dict["cells"]
        self._whole = len(self._losses), self._cells
        self._seconds = state_dict["seconds"]
        self._elapsed = state_dict["elapsed"]


def _over_ranks(trainer: lightning.Trainer, values: np.ndarray) -> list[float]:
    """Mean of each value over the processes that train together."""
    if trainer.world_size == 1:
        return [float(value) for value in values]
    here = torch.as_tensor(values, dtype=torch.float32, device=trainer.strategy.root_device)
    mean = trainer.strategy.reduce(here, reduce_op="mean")
    assert isinstance(mean, torch.Tensor)
    return mean.tolist()


def _short(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.7g}"
