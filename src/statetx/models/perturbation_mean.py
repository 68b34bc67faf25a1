"""Baseline: a perturbation does to every line what it did to the training lines on average.

Prediction = control cells moved by the unweighted mean delta of that label over training lines. A
label never trained is predicted as by `context_mean`, flagged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statetx.models import context_mean
from statetx.models.deltas import ControlMeans, Statistics, move
from statetx.models.predictor import Predicted, expect_tensors


def fit(statistics: Statistics) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture (names of the rows) and tensors (control means, mean deltas)."""
    architecture, arrays = context_mean.fit(statistics)
    labels, deltas = statistics.mean_deltas_by(1)
    architecture["delta_perturbations"] = labels
    arrays["perturbation_deltas"] = deltas.astype(np.float32)
    return architecture, arrays


class PerturbationMean:
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
        self._context = context_mean.ContextMean(architecture, arrays, control)
        self._controls = ControlMeans(architecture["control_lines"], arrays["control_means"])
        self._deltas = dict(
            zip(architecture["delta_perturbations"], arrays["perturbation_deltas"], strict=True)
        )

    def predict(self, control: np.ndarray, line: str, perturbation: str) -> Predicted:
        """Return the moved basal cells, float32 [S, G]; flagged when the label was never trained."""
        delta = self._deltas.get(perturbation)
        if delta is None:
            predicted = self._context.predict(control, line, perturbation)
            return Predicted(predicted.cells, perturbation != self._context.control)
        return Predicted(move(control, self._controls.of(line, control) + delta), False)

    def to(self, device: str) -> PerturbationMean:
        """Return itself: there is nothing to move."""
        return self


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> PerturbationMean:
    """Build the baseline from its directory's content.

    Raises
    ------
    ModelError
        The tensors are not those of this kind.
    """
    architecture, genes = meta["architecture"], meta["n_genes"]
    shapes = {
        "control_means": (len(architecture["control_lines"]), genes),
        "line_deltas": (len(architecture["delta_lines"]), genes),
        "mean_delta": (genes,),
        "perturbation_deltas": (len(architecture["delta_perturbations"]), genes),
    }
    expect_tensors(arrays, shapes, "perturbation_mean")
    return PerturbationMean(architecture, arrays, meta["control"])
