"""Progress of a running training, on a terminal or in a log."""

from __future__ import annotations

import logging
import sys
from typing import Any

import lightning.pytorch as lightning
from tqdm import tqdm

from statetx.training.loop.callbacks import stepped
from statetx.training.loop.lightning_module import PertSetsModule

log = logging.getLogger(__name__)


class Progress(lightning.Callback):
    """A progress bar on a terminal, and a log message when the first step is done.

    Parameters
    ----------
    last_step
        Number of the last step.
    """

    def __init__(self, last_step: int) -> None:
        self.last_step = last_step
        self._bar: Any = None
        self._first = True

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Open the bar at the step from which training starts or resumes."""
        self._bar = tqdm(
            total=self.last_step,
            initial=trainer.global_step,
            unit="step",
            desc="train",
            mininterval=0.5,
            disable=trainer.global_rank > 0 or not sys.stderr.isatty(),
        )

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance the bar after a step."""
        assert isinstance(pl_module, PertSetsModule)
        if not stepped(trainer, batch_idx):
            return
        bar = self._bar
        if self._first:
            self._first = False
            log.info("first step taken")
        if not bar.disable:
            bar.set_postfix(loss=f"{pl_module.train_loss:.4g}", refresh=False)
        bar.update(1)

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Close the bar, even after an error."""
        if self._bar is not None:
            self._bar.close()
