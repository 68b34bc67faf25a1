"""What happens between the steps: validation, curves, progress.

The order of the callbacks matters: `Validation` measures, `Curves` writes the row down, and
`checkpoints.Checkpoints` saves a state that holds both.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import sys
import time
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from tqdm import tqdm

from statetx.errors import ModelError
from statetx.training.module import Batch, PertSetsModule

log = logging.getLogger("statetx.training")

COLUMNS = (
    *("step", "train_loss", "val_loss", "val_pearson_delta"),
    *("gradient_norm", "lr", "cells_per_second", "seconds"),
)
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
    """

    def __init__(self, batches: list[Batch], every: int, last_step: int) -> None:
        self.batches = batches
        self.every = every
        self.last_step = last_step
        self.latest: dict[str, float] = {}
        self.best_step: int | None = None
        self.best_loss = math.inf
        self.best_weights: dict[str, np.ndarray] | None = None

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
        if not self.batches or (step % self.every and step != self.last_step):
            return
        assert isinstance(pl_module, PertSetsModule)
        loss, pearson = measure(trainer, pl_module, self.batches)
        if not math.isfinite(loss):
            raise ModelError(
                f"the validation loss is {loss} after step {step}",
                where="training",
                fix="lower lr, and check that the validation cells are finite log1p values",
            )
        self.latest = {"val_loss": loss, "val_pearson_delta": pearson}
        log.info("step %d: validation loss %.5g, pearson of deltas %.3f", step, loss, pearson)
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, step
            self.best_weights = pl_module.model.arrays()

    def state_dict(self) -> dict[str, Any]:
        """Which step was best; the weights themselves lie in a file of their own."""
        return {"best_step": self.best_step, "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up an interrupted training."""
        self.best_step, self.best_loss = state_dict["best_step"], state_dict["best_loss"]


def measure(
    trainer: lightning.Trainer, module: PertSetsModule, batches: list[Batch]
) -> tuple[float, float]:
    """Return the mean energy loss over sets, and the mean over conditions of pearson(deltas).

    A condition's delta is the mean of its cells minus the mean of its basal cells, over all of its
    validation sets. Conditions whose real or predicted delta is constant do not count.
    """
    losses: list[torch.Tensor] = []
    sums: dict[tuple[int, int], np.ndarray] = {}
    module.eval()
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        for batch in batches:
            here = Batch(*(None if t is None else t.to(module.device) for t in batch))  # type: ignore[arg-type]
            loss, predicted = module.measure(here)
            losses.append(loss.float().cpu())
            parts = (predicted, here.target, here.control)
            means = [part.float().mean(dim=1).cpu().double().numpy() for part in parts]  # [B, G]
            for i, key in enumerate(
                zip(batch.line.tolist(), batch.perturbation.tolist(), strict=True)
            ):
                found = np.stack([mean[i] for mean in means])
                sums[key] = sums.get(key, 0.0) + found
    module.train()
    pearson = [_pearson(cells - basal, real - basal) for cells, real, basal in sums.values()]
    defined = [value for value in pearson if not math.isnan(value)]
    return float(torch.cat(losses).mean()), float(np.mean(defined)) if defined else math.nan


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm > 0 else math.nan


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
    """

    def __init__(self, validation: Validation, every: int, last_step: int) -> None:
        self.validation = validation
        self.every = every
        self.last_step = last_step
        self.rows: list[dict[str, float]] = []
        self._losses: list[float] = []
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
        self._losses.append(pl_module.train_loss)
        self._cells += batch.target.shape[0] * batch.target.shape[1]
        if step % self.every and step != self.last_step and not latest:
            return
        elapsed = time.perf_counter() - self._since
        self._seconds += elapsed
        row = {
            "step": step,
            "train_loss": float(np.mean(self._losses)),
            **latest,
            "gradient_norm": pl_module.gradient_norm,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "cells_per_second": self._cells / max(elapsed, 1e-9),
            "seconds": self._seconds,
        }
        self.rows.append(row)
        if trainer.logger is not None:
            named = {key: value for key, value in row.items() if key != "step"}
            trainer.logger.log_metrics(named, step=step)
        self._losses, self._cells, self._since = [], 0, time.perf_counter()

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
            "losses": self._losses,
            "cells": self._cells,
            "seconds": self._seconds,
            "elapsed": time.perf_counter() - self._since,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up an interrupted training."""
        self.rows = list(state_dict["rows"])
        self._losses = list(state_dict["losses"])
        self._cells = state_dict["cells"]
        self._seconds = state_dict["seconds"]
        self._elapsed = state_dict["elapsed"]


def _short(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.7g}"


class Progress(lightning.Callback):
    """A bar on a terminal; nothing in a log file."""

    def __init__(self, last_step: int) -> None:
        self.last_step = last_step
        self._bar: Any = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Open the bar, at the step where a resumed training starts."""
        self._bar = tqdm(
            total=self.last_step,
            initial=trainer.global_step,
            unit="step",
            desc="train",
            mininterval=0.5,
            disable=not sys.stderr.isatty(),
        )

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar."""
        assert isinstance(pl_module, PertSetsModule)
        bar = self._bar
        if not bar.disable:
            bar.set_postfix(loss=f"{pl_module.train_loss:.4g}", refresh=False)
        bar.update(1)

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Close the bar, also after an error."""
        if self._bar is not None:
            self._bar.close()
