"""Baseline: a perturbation does to every line what it did to the training lines on average.

Prediction = control cells moved by the unweighted mean delta of that label over training lines. A
label never trained is predicted as by `context_mean`, flagged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statetx.models.baselines.deltas import Statistics
from statetx.models.kinds import context_mean
from statetx.models.predictor import expect_tensors


def fit(statistics: Statistics) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture (names of the rows) and tensors (control means, mean deltas)."""
    architecture, arrays = context_mean.fit(statistics)
    labels, deltas = statistics.mean_deltas_by(1)
    architecture["delta_perturbations"] = labels
    arrays["perturbation_deltas"] = deltas.astype(np.float32)
    return architecture, arrays


class PerturbationMean(context_mean.ContextMean):
    """Moves control cells by the mean delta of the label.

    Parameters
    ----------
    architecture
        ``control_lines``, ``delta_lines`` and ``delta_perturbations``: names of the tensors' rows.
    arrays
        Those of `context_mean.ContextMean` and ``perturbation_deltas`` [labels, G].
    control
        Control label: predicted as no change.
    """

    def __init__(
        self, architecture: Mapping[str, Any], arrays: Mapping[str, np.ndarray], control: str
    ) -> None:
        super().__init__(architecture, arrays, control)
        labels = architecture["delta_perturbations"]
        self._labels = dict(zip(labels, arrays["perturbation_deltas"], strict=True))

    def delta(self, line: str, perturbation: str) -> tuple[np.ndarray, bool]:
        """Return the mean delta [G] of the label; a fallback when it was never trained."""
        known = self._labels.get(perturbation)
        return (super().delta(line, perturbation)[0], True) if known is None else (known, False)


def shapes(architecture: Mapping[str, Any], genes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor."""
    return {
        "control_means": (len(architecture["control_lines"]), genes),
        "line_deltas": (len(architecture["delta_lines"]), genes),
        "mean_delta": (genes,),
        "perturbation_deltas": (len(architecture["delta_perturbations"]), genes),
    }


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> PerturbationMean:
    """Build the baseline from its directory's content.

    Raises
    ------
    ModelError
        The tensors are not those of this kind.
    """
    architecture = meta["architecture"]
    expect_tensors(arrays, shapes(architecture, meta["n_genes"]), "perturbation_mean")
    return PerturbationMean(architecture, arrays, meta["control"])
