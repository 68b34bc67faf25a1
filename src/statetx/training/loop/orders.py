"""Requests to a training between two steps: to stop, or to save its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from statetx.core import stopping


class Orders(lightning.Callback):
    """A callback that stops training after a signal, or requests a save of the state.

    Several processes stop or save before the same batch: the first process decides. Lightning's
    handler of SIGTERM contacts the others in the middle of a step, where they wait for something
    else. Its flag ends the process with the signal before the others know.

    Parameters
    ----------
    due
        Function that returns whether it is time to save the state.
    save
        Function that requests a save after this step.
    """

    def __init__(self, due: Callable[[], bool], save: Callable[[], None]) -> None:
        self._due = due
        self._save = save

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Replace Lightning's signal handlers, which Lightning removes after the training."""
        stopping.obey()

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop, or request a save, as the first process decides.

        Raises
        ------
        SIGTERMException
            A signal asked the first process to stop.
        """
        stop, save = stopping.heard() is not None, self._due()
        if trainer.world_size > 1:
            orders = torch.tensor([int(stop), int(save)], device=trainer.strategy.root_device)
            torch.distributed.broadcast(orders, src=0)
            stop, save = map(bool, orders.tolist())
        if stop:
            raise SIGTERMException
        if save:
            self._save()
