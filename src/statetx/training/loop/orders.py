"""What a training is told between two steps: to stop, or to save its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from statetx.core import stopping


class Orders(lightning.Callback):
    """Between two steps: stop when a signal asked for it, save the state when it is time.

    Several processes do either before the same batch: the first one decides. Lightning's own handler
    of SIGTERM talks to the others in the middle of a step, where they wait for something else, and its
    flag ends the process that has heard before the others are told.

    Parameters
    ----------
    due
        Whether so much time has passed that the state is to be saved.
    save
        Told that it is to be saved after this step.
    """

    def __init__(self, due: Callable[[], bool], save: Callable[[], None]) -> None:
        self._due = due
        self._save = save

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Replace Lightning's handler, which it takes back after the training."""
        stopping.obey()

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ask the first process."""
        stop, save = stopping.heard() is not None, self._due()
        if trainer.world_size > 1:
            orders = torch.tensor([int(stop), int(save)], device=trainer.strategy.root_device)
            torch.distributed.broadcast(orders, src=0)
            stop, save = map(bool, orders.tolist())
        if stop:
            raise SIGTERMException
        if save:
            self._save()
