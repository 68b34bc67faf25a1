"""Measurements on the validation sets: the loss, and whether predictions depend on perturbations.

A network that predicts the same for all perturbations (mode collapse) can have a low loss. The
ratio of the variances between perturbations detects this at once; the loss does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import lightning.pytorch as lightning
import numpy as np
import torch

from statetx.training.loop.lightning_module import Batch, PertSetsModule

MONITORS = ("val_loss", "val_pearson_delta", "val_discrimination", "val_collapse_ratio")
"""Measurements of every validation: the energy distance, and three that are better when larger."""
COMPARES = ("val_discrimination", "val_collapse_ratio")
"""Measurements that compare perturbations of a line: NaN if no line validates two of them."""


def measure(
    trainer: lightning.Trainer, module: PertSetsModule, batches: Sequence[Batch]
) -> dict[str, float]:
    """Measure the network on fixed sets.

    The delta of a condition is the mean of its cells minus the mean of its basal cells, over all
    its validation sets.

    Parameters
    ----------
    trainer
        Lightning's trainer, for its precision.
    module
        The network and its objective.
    batches
        The validation sets.

    Returns
    -------
    dict
        ``val_loss``: mean energy distance of sets. ``val_decoder_loss``: the objective's loss of
        decoded expression, NaN without a decoder.

        ``val_pearson_delta``: mean over conditions of the correlation of predicted and real delta.
        Constant deltas do not count.

        ``val_discrimination``: mean over conditions of the share of other perturbations of the line
        whose real delta is less similar to the predicted delta (cosine; ties count half). 0.5 is
        chance.

        ``val_collapse_ratio``: variance between the predicted deltas of a line, divided by the
        variance between real deltas. 0 is collapse. Real deltas contain the noise of their cells,
        so that a perfect model has slightly less than 1. Both are NaN if no line has two
        perturbations.
    """
    losses: list[torch.Tensor] = []
    decoded: list[torch.Tensor] = []
    sums: dict[tuple[int, int], np.ndarray] = {}
    training = module.training
    module.eval()
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        for batch in batches:
            moved = Batch(*(None if t is None else t.to(module.device) for t in batch))  # type: ignore[arg-type]
            loss, predicted = module.measure(moved)
            losses.append(loss.float().cpu())
            if predicted.genes is not None and moved.expression is not None:
                decoded.append(module.objective.distance(predicted.genes, moved.expression).cpu())
            parts = (predicted.cells, moved.target, moved.control)
            means = [part.float().mean(dim=1).cpu().double().numpy() for part in parts]  # [B, D]
            keys = zip(batch.line.tolist(), batch.perturbation.tolist(), strict=True)
            for i, key in enumerate(keys):
                of_set = np.stack([mean[i] for mean in means])
                sums[key] = sums.get(key, 0.0) + of_set
    module.train(training)
    lines: dict[int, list[np.ndarray]] = {}
    for (line, _), (cells, real, basal) in sums.items():
        lines.setdefault(line, []).append(np.stack([cells - basal, real - basal]))
    deltas = [np.stack(pairs, axis=1) for pairs in lines.values()]  # [2, conditions, D] each
    return {
        "val_loss": float(torch.cat(losses).mean()),
        "val_decoder_loss": float(torch.cat(decoded).mean()) if decoded else math.nan,
        "val_pearson_delta": _mean(
            [_pearson(*pair) for line in deltas for pair in zip(*line, strict=True)]
        ),
        "val_discrimination": _mean([rank for line in deltas for rank in discrimination(*line)]),
        "val_collapse_ratio": collapse_ratio(deltas),
    }


def discrimination(predicted: np.ndarray, real: np.ndarray) -> list[float]:
    """Return for each condition of a line the share of others less similar to its prediction.

    Parameters
    ----------
    predicted, real
        Predicted and real deltas, [conditions, D]. With fewer than two conditions, the result is
        empty.
    """
    n = len(real)
    if n < 2:
        return []
    unit = [
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (predicted, real)
    ]
    likeness = unit[0] @ unit[1].T  # [predicted, real]
    same = np.diagonal(likeness)[:, None]
    below = (likeness < same - 1e-12).sum(1)
    equal = (np.abs(likeness - same) <= 1e-12).sum(1) - 1
    return ((below + 0.5 * equal) / (n - 1)).tolist()


def collapse_ratio(deltas: Sequence[np.ndarray]) -> float:
    """Return the variance between predicted deltas over the variance between real deltas.

    Parameters
    ----------
    deltas
        Predicted and real deltas of each line, [2, conditions, D]. Variances are summed over lines.
    """
    spread = sum((d.var(axis=1).sum(axis=-1) for d in deltas if d.shape[1] > 1), np.zeros(2))
    return float(spread[0] / spread[1]) if spread[1] > 0 else math.nan


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm > 0 else math.nan
