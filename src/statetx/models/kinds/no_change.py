"""Baseline: the perturbation does nothing; the predicted cells are the line's control cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statetx.models.baselines.deltas import Statistics
from statetx.models.predictor import Predicted, expect_tensors


def fit(statistics: Statistics) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture and tensors: the control pseudobulks, kept only as a record."""
    architecture = {"control_lines": statistics.lines}
    return architecture, {"control_means": statistics.control_means.astype(np.float32)}


class NoChange:
    """Predicts the basal cells themselves."""

    def predict(self, control: np.ndarray, line: str, perturbation: str) -> Predicted:
        """Return a copy of the basal cells, float32 [S, G]."""
        return Predicted(np.array(control, dtype=np.float32), False)

    def to(self, device: str) -> NoChange:
        """Return itself: there is nothing to move."""
        return self


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> NoChange:
    """Build the baseline from its directory's content.

    Raises
    ------
    ModelError
        The tensors are not those of this kind.
    """
    shape = (len(meta["architecture"]["control_lines"]), meta["n_genes"])
    expect_tensors(arrays, {"control_means": shape}, "no_change")
    return NoChange()
