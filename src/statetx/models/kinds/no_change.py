"""Baseline without any effect: the predicted cells are the control cells of the line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statetx.models.baselines.deltas import Statistics
from statetx.models.predictor import Predicted, expect_tensors


def fit(statistics: Statistics) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture and tensors: the control pseudobulks, which serve as a record only.

    Parameters
    ----------
    statistics
        Pseudobulks of the training data.
    """
    architecture = {"control_lines": statistics.lines}
    return architecture, {"control_means": statistics.control_means.astype(np.float32)}


class NoChange:
    """A model that predicts the basal cells themselves."""

    def predict(self, control: np.ndarray, line: str, perturbation: str) -> Predicted:
        """Return a copy of the basal cells, float32 [S, G]."""
        return Predicted(np.array(control, dtype=np.float32), False)

    def to(self, device: str) -> NoChange:
        """Return the model itself, which has no tensors on a device."""
        return self


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> NoChange:
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
    shape = (len(meta["architecture"]["control_lines"]), meta["n_genes"])
    expect_tensors(arrays, {"control_means": shape}, "no_change")
    return NoChange()
