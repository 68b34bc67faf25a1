"""Baseline: every perturbation has the mean effect of the training perturbations of the line.

Prediction = the line's control cells moved by the unweighted mean delta of its training conditions.
A line without training conditions gets the mean delta of all training conditions, as a fallback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statetx.models.baselines.deltas import MovedControls, Statistics
from statetx.models.predictor import expect_tensors


def fit(statistics: Statistics) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture (names of the rows) and tensors (control means, mean deltas).

    Parameters
    ----------
    statistics
        Pseudobulks of the training data.
    """
    lines, line_deltas = statistics.mean_deltas_by(0)
    return (
        {"control_lines": statistics.lines, "delta_lines": lines},
        {
            "control_means": statistics.control_means.astype(np.float32),
            "line_deltas": line_deltas.astype(np.float32),
            "mean_delta": statistics.mean_delta().astype(np.float32),
        },
    )


class ContextMean(MovedControls):
    """A model that moves control cells by the mean delta of their line.

    Parameters
    ----------
    architecture
        ``control_lines`` and ``delta_lines``: names of the rows of the tensors.
    arrays
        ``control_means`` [lines, G], ``line_deltas`` [training lines, G], ``mean_delta`` [G].
    control
        Control label, which is predicted as no change.
    """

    def __init__(
        self, architecture: Mapping[str, Any], arrays: Mapping[str, np.ndarray], control: str
    ) -> None:
        super().__init__(architecture, arrays, control)
        self._deltas = dict(zip(architecture["delta_lines"], arrays["line_deltas"], strict=True))
        self._overall = arrays["mean_delta"]

    def delta(self, line: str, perturbation: str) -> tuple[np.ndarray, bool]:
        """Return the mean delta [G] of `line`; a fallback if `line` was not trained."""
        return self._deltas.get(line, self._overall), line not in self._deltas


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> ContextMean:
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
    architecture, genes = meta["architecture"], meta["n_genes"]
    shapes = {
        "control_means": (len(architecture["control_lines"]), genes),
        "line_deltas": (len(architecture["delta_lines"]), genes),
        "mean_delta": (genes,),
    }
    expect_tensors(arrays, shapes, "context_mean")
    return ContextMean(architecture, arrays, meta["control"])
