"""The training of PertSets as a LightningModule."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional

from statetx.config import Training
from statetx.core.errors import ModelError
from statetx.models.network.losses import LOSSES, chunked, energy, to_control
from statetx.models.network.set_transformer import PertSets, Prediction

CONFIDENCE_SCALE, CONFIDENCE_WEIGHT = 10.0, 0.01
"""A confidence token learns 10 times the loss of its set; its error has weight 0.01 in the loss."""
BATCH_WEIGHT = 0.1
"""Weight of the cross-entropy of the batch that a batch token predicts, as in State."""


class Batch(NamedTuple):
    """The sets of a batch as tensors.

    Attributes
    ----------
    control, target
        Basal and real cells, float32 [B, S, D].
    perturbation, line
        Ids, int64 [B].
    mask
        Which rows are cells, bool [B, S]; None: all.
    expression
        Expression of the real cells, [B, S, G], for a gene decoder.
    batches
        Ids of the batches of the real cells, int64 [B, S], for a network that uses batches.
    """

    control: Tensor
    target: Tensor
    perturbation: Tensor
    line: Tensor
    mask: Tensor | None = None
    expression: Tensor | None = None
    batches: Tensor | None = None


class Objective(NamedTuple):
    """The objective loss(cells) + decoder_weight loss(genes) + regularization |cells - control|.

    Attributes
    ----------
    loss
        Name in `statetx.models.network.losses.LOSSES`.
    chunks
        Number of chunks of the features; the loss is the mean over chunks.
    decoder_weight
        Weight of the same loss between decoded and real expression.
    regularization
        Weight of the mean absolute difference to the control.
    """

    loss: str = "energy"
    chunks: int = 1
    decoder_weight: float = 1.0
    regularization: float = 0.0

    def distance(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of each set, [B].

        Parameters
        ----------
        pred, target
            Predicted and real cells, [B, S, D].
        mask
            Which rows are cells, bool [B, S]; None: all.
        """
        if mask is not None:
            masked: Callable[..., Tensor] = LOSSES[self.loss]
            return masked(pred, target, mask)
        if self.chunks > 1:
            return chunked(LOSSES[self.loss], pred, target, self.chunks)
        return LOSSES[self.loss](pred, target)

    def total(self, predicted: Prediction, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the objective, the main loss and the loss of the decoder, each a mean over sets.

        Parameters
        ----------
        predicted
            Prediction for the batch.
        batch
            The sets.
        """
        main = self.distance(predicted.cells, batch.target, batch.mask)
        total, decoder = main.mean(), None
        if predicted.genes is not None and batch.expression is not None:
            decoder = self.distance(predicted.genes, batch.expression, batch.mask).mean()
            total = total + self.decoder_weight * decoder
        if self.regularization:
            total = (
                total
                + self.regularization
                * to_control(predicted.cells, batch.control, batch.mask).mean()
            )
        if predicted.confidence is not None:
            error = predicted.confidence - CONFIDENCE_SCALE * main.detach()
            total = total + CONFIDENCE_WEIGHT * error.square().mean()
        if predicted.batch_logits is not None and batch.batches is not None:
            of_set = batch.batches[:, 0]  # all cells of a set with a token are of the same batch
            wrong = functional.cross_entropy(predicted.batch_logits.float(), of_set)
            total = total + BATCH_WEIGHT * wrong
        return total, main.mean(), decoder


class _Running(NamedTuple):
    """Numbers of a step, which a GPU may still be computing."""

    step: int
    total: Tensor
    main: Tensor
    decoder: Tensor | None
    norm: Tensor | None
    batch: Batch


class PertSetsModule(lightning.LightningModule):
    """Training of a network: loss, AdamW, schedule, average of weights, clipping, NaN checks.

    On a GPU the numbers of a step are read one step later. Otherwise the device would wait at every
    step. `settle` checks all numbers before anything is measured or saved.

    Parameters
    ----------
    model
        The network.
    settings
        Section ``training`` of the model.
    seed
        Seed of dropout, which depends on (seed, step, rank) only: a resumed training drops the same
        units.
    objective
        The objective.
    features
        Features of each perturbation, float32 [labels, P], which the network gets instead of ids.
    """

    features: Tensor | None

    def __init__(
        self,
        model: PertSets,
        settings: Training,
        seed: int,
        objective: Objective = Objective(),  # noqa: B008 (immutable)
        features: Tensor | None = None,
    ) -> None:
        super().__init__()
        # Features are not saved: a resumed training reads the table again, and checks its digest.
        self.register_buffer("features", features, persistent=False)
        self.model = model
        self.settings = settings
        self.seed = seed
        self.objective = objective
        self.train_loss = math.nan
        self.decoder_loss = math.nan
        self.gradient_norm = math.nan
        self.lr = settings.lr
        """Learning rate of the last step: the schedule advances before the curves are written."""
        self.finished: list[tuple[float, float]] = []
        """Main and decoder loss of every checked batch; the reader of the list empties it."""
        self.bad_batch: Batch | None = None
        self.ema: PertSets | None = None
        if settings.ema_decay:
            self.ema = copy.deepcopy(model).requires_grad_(False)
        self._running: list[_Running] = []
        self._micro = 0

    @property
    def within_step(self) -> bool:
        """Whether only a part of the batches of a step was processed."""
        return self._micro != 0

    @property
    def evaluated(self) -> PertSets:
        """The network to measure and to save: the average of the weights, if it is computed."""
        return self.model if self.ema is None else self.ema

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective of a batch.

        Parameters
        ----------
        batch
            The sets.
        batch_idx
            Not used.

        Raises
        ------
        ModelError
            The loss, or the gradient of an earlier step, is NaN or infinite.
        """
        micro = self.global_step * self.settings.accumulate + self._micro
        torch.manual_seed(_mix(self.seed, micro * self.trainer.world_size + self.global_rank))
        self._micro = (self._micro + 1) % self.settings.accumulate
        given = self._given(batch)
        predicted = self.model(batch.control, given, batch.batches, batch.mask)
        total, main, decoder = self.objective.total(predicted, batch)
        kept = None if decoder is None else decoder.detach()
        step = self.global_step + 1
        self._running.append(_Running(step, total.detach(), main.detach(), kept, None, batch))
        self.settle(keep=0 if self.device.type == "cpu" else 1)
        return total

    def _given(self, batch: Batch) -> Tensor:
        """Return the ids [B], or the features [B, P], of the perturbations of a batch."""
        ids = batch.perturbation
        return ids if self.features is None else self.features[ids]

    def settle(self, keep: int = 0) -> None:
        """Check the numbers of all finished batches except the last `keep`.

        Parameters
        ----------
        keep
            Number of batches that are not checked yet.

        Raises
        ------
        ModelError
            A number is NaN or infinite.
        """
        while len(self._running) > keep:
            done = self._running.pop(0)
            self.train_loss = done.main.item()
            self.decoder_loss = math.nan if done.decoder is None else done.decoder.item()
            self._check(done.total.item(), "training loss", done)
            self.finished.append((self.train_loss, self.decoder_loss))
            if done.norm is not None:
                self.gradient_norm = done.norm.item()
                self._check(self.gradient_norm, "gradient norm", done)

    def _check(self, value: float, what: str, done: _Running) -> None:
        if math.isfinite(value):
            return
        self.bad_batch = done.batch
        raise ModelError(
            f"the {what} is {value} at step {done.step}",
            where="training",
            fix="lower lr or gradient_clip_val, and check that the cells are finite log1p values; "
            "no model was written, and the sets of this step are in bad_batch.pt in the state "
            "directory",
        )

    def measure(self, batch: Batch) -> tuple[Tensor, Prediction]:
        """Return the energy loss per set [B], for any objective, and the prediction.

        Parameters
        ----------
        batch
            The sets.
        """
        predicted = self.evaluated(batch.control, self._given(batch), batch.batches)
        return energy(predicted.cells, batch.target), predicted

    def configure_optimizers(self) -> Any:
        """Return AdamW with a schedule; weight decay acts on matrices of linear layers only.

        Biases, norm weights, embeddings and tokens do not decay: decay would pull an embedding that
        few sets train towards 0, and a token is not a weight.
        """
        decayed = [m.weight for m in self.model.modules() if isinstance(m, nn.Linear)]
        decayed_ids = {id(weight) for weight in decayed}
        others = [p for p in self.model.parameters() if id(p) not in decayed_ids]
        groups = [
            {"params": decayed, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.lr, fused=True)
        if not self.settings.warmup_steps and self.settings.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def rate(self, step: int) -> float:
        """Return the factor of lr at a step: linear warm-up, then constant or half a cosine to 0.

        Parameters
        ----------
        step
            Number of finished steps.
        """
        warm, last = self.settings.warmup_steps, self.settings.max_steps
        if step < warm:
            return (step + 1) / warm
        if self.settings.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, last - warm)))

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global norm of the gradient, and store the norm for the curves.

        Parameters
        ----------
        optimizer, gradient_clip_val, gradient_clip_algorithm
            Not used: the limit comes from the settings.

        Raises
        ------
        ModelError
            The norm is NaN or infinite. On a GPU, a later call of `settle` checks the norm.
        """
        limit = self.settings.gradient_clip_val or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if self.device.type == "cpu":
            self.gradient_norm = norm.item()
            done = _Running(self.global_step + 1, norm, norm, None, None, self._seen)
            self._check(self.gradient_norm, "gradient norm", done)
        elif self._running:
            self._running[-1] = self._running[-1]._replace(norm=norm.detach())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Store the sets of the step, in case its gradient is not finite."""
        self._seen = batch

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, then move the average of the weights towards the weights.

        The decay grows to its value over the first steps. Otherwise the average would contain the
        random initial weights for thousands of steps.
        """
        self.lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        super().optimizer_step(*args, **kwargs)
        if self.ema is None:
            return
        step = self.global_step + 1
        decay = min(self.settings.ema_decay, step / (9 + step))
        with torch.no_grad():
            averages: list[Tensor] = list(self.ema.parameters())
            weights: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(averages, weights, 1 - decay)


def _mix(seed: int, step: int) -> int:
    """Hash (seed, step) to 63 bits, so that neighbouring steps have independent streams."""
    raw = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") >> 1
