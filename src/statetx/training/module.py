"""The optimisation of PertSets as a LightningModule."""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import torch
from torch import Tensor

from statetx.config import Training
from statetx.errors import ModelError
from statetx.models.losses import energy
from statetx.models.pertsets import PertSets


class Batch(NamedTuple):
    """One step's sets as tensors.

    Attributes
    ----------
    control, target
        Basal and real cells, float32 [B, S, D].
    perturbation, line
        Ids, int64 [B].
    mask
        Which rows are cells, bool [B, S]; None: all.
    """

    control: Tensor
    target: Tensor
    perturbation: Tensor
    line: Tensor
    mask: Tensor | None = None


class PertSetsModule(lightning.LightningModule):
    """Energy loss, AdamW, clipping by norm, and a guard against non-finite numbers.

    Parameters
    ----------
    model
        The network.
    settings
        Section ``training`` of the model.
    seed
        Dropout is a pure function of (seed, step): a resumed training drops the same units.
    """

    def __init__(self, model: PertSets, settings: Training, seed: int) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.seed = seed
        self.train_loss = math.nan
        self.gradient_norm = math.nan

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean energy loss over the sets of a batch.

        Raises
        ------
        ModelError
            The loss is NaN or infinite.
        """
        torch.manual_seed(_mix(self.seed, self.global_step))
        predicted = self.model(batch.control, batch.perturbation, mask=batch.mask).cells
        loss = energy(predicted, batch.target, batch.mask).mean()
        self.train_loss = loss.item()
        if not math.isfinite(self.train_loss):
            raise ModelError(
                f"the training loss is {self.train_loss} at step {self.global_step + 1}",
                where="training",
                fix="lower lr or gradient_clip_val, and check that the cells are finite log1p "
                "values; no model was written",
            )
        return loss

    def measure(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Energy loss per set [B] and predicted cells [B, S, G]."""
        predicted = self.model(batch.control, batch.perturbation).cells
        return energy(predicted, batch.target), predicted

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; weight decay acts on matrices, not on biases and norm weights."""
        parameters = list(self.model.parameters())
        groups = [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": self.settings.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.settings.lr, fused=True)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global norm and keep it for the curves.

        Raises
        ------
        ModelError
            The norm is NaN or infinite: the step is not taken.
        """
        limit = self.settings.gradient_clip_val or math.inf
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters(), limit).item()
        if not math.isfinite(self.gradient_norm):
            raise ModelError(
                f"the gradient norm is {self.gradient_norm} at step {self.global_step + 1}",
                where="training",
                fix="lower lr, and check that the cells are finite log1p values; "
                "no model was written",
            )


def _mix(seed: int, step: int) -> int:
    """Hash (seed, step) to 63 bits, so that neighbouring steps get unrelated streams."""
    raw = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") >> 1
