"""Baseline: a perturbation has its mean effect over the training lines in every line.

Prediction = control cells moved by the unweighted mean delta of the label over training lines. For
an untrained label, `context_mean` predicts, as a fallback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statetx.models.baselines.deltas import Statistics
from statetx.models.kinds import context_mean
from statetx.models.predictor import expect_tensors


def fit(statistics: Statistics) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture (names of the rows) and tensors (control means, mean deltas).

    Parameters
    ----------
    statistics
        Pseudobulks of the training data.
    """
    architecture, arrays = context_mean.fit(statistics)
    labels, deltas = statistics.mean_deltas_by(1)
    architecture["delta_perturbations"] = labels
    arrays["perturbation_deltas"] = deltas.astype(np.float32)
    return architecture, arrays


class PerturbationMean(context_mean.ContextMean):
    """A model that moves control cells by the mean delta of the label.

    Parameters
    ----------
    architecture
        ``control_lines``, ``delta_lines`` and ``delta_perturbations``: names of the tensors' rows.
    arrays
        Tensors of `context_mean.ContextMean`, with ``perturbation_deltas`` [labels, G].
    control
        Control label, which is predicted as no change.
    """

    def __init__(
        self, architecture: Mapping[str, Any], arrays: Mapping[str, np.ndarray], control: str
    ) -> None:
        super().__init__(architecture, arrays, control)
        labels = architecture["delta_perturbations"]
        self._labels = dict(zip(labels, arrays["perturbation_deltas"], strict=True))

    def delta(self, line: str, perturbation: str) -> tuple[np.ndarray, bool]:
        """Return the mean delta [G] of the label; a fallback if the label was not trained."""
        known = self._labels.get(perturbation)
        return (super().delta(line, perturbation)[0], True) if known is None else (known, False)


def shapes(architecture: Mapping[str, Any], genes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor.

    Parameters
    ----------
    architecture
        Names of the tensors' rows.
    genes
        Number of genes, G.
    """
    return {
        "control_means": (len(architecture["control_lines"]), genes),
        "line_deltas": (len(architecture["delta_lines"]), genes),
        "mean_delta": (genes,),
        "perturbation_deltas": (len(architecture["delta_perturbations"]), genes),
    }


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> PerturbationMean:
    """Build the baseline from the content of its model directory.

    Parameters
    ----------
    meta
        Content of ``model.json``.
    arrays
        Tensors of the checkpoint.

    Raises
    ------
    ModelError
        The tensors do not fit this kind.
    """
    architecture = meta["architecture"]
    expect_tensors(arrays, shapes(architecture, meta["n_genes"]), "perturbation_mean")
    return PerturbationMean(architecture, arrays, meta["control"])
