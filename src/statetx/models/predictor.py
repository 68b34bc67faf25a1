"""What every kind of model gives: a predictor of one set, from tensors that fit exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from statetx.core.errors import ModelError


class Predicted(NamedTuple):
    """Predicted cells.

    Attributes
    ----------
    cells
        Float32 [S, G], log1p expression, one row per basal cell.
    fallback
        The model had nothing learned for this condition and used a coarser mean.
    embedding
        Float32 [S, D], where the model works in an embedding; None otherwise.
    """

    cells: np.ndarray
    fallback: bool
    embedding: np.ndarray | None = None


class Predictor(Protocol):
    """What ``restore`` of a kind returns."""

    def predict(self, control: np.ndarray, line: str, perturbation: str) -> Predicted:
        """Predict the cells of one set from its basal cells, float32 [S, D]."""
        ...

    def to(self, device: str) -> Predictor:
        """Move to ``cpu``, ``cuda`` or ``auto``; models without tensors return themselves."""
        ...


def expect_tensors(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], kind: str
) -> None:
    """Check that the tensors are exactly those of the architecture: no more, no fewer, same shapes.

    Parameters
    ----------
    arrays
        What the file holds.
    shapes
        What the architecture has.
    kind
        Kind of model, for the message.

    Raises
    ------
    ModelError
        Naming the first tensor that is missing, unknown, or of another shape.
    """
    missing = sorted(shapes.keys() - arrays.keys())
    unknown = sorted(arrays.keys() - shapes.keys())
    if missing or unknown:
        lists = [("lack", missing), ("hold unknown", unknown)]
        said = ", ".join(
            f"{verb} {len(names)} tensor(s), first {names[0]!r}" for verb, names in lists if names
        )
        raise ModelError(
            f"these weights do not fit a {kind} model: they {said}",
            fix="half-loaded weights would predict nonsense: use the file that belongs to model.json",
        )
    for name, shape in shapes.items():
        if tuple(arrays[name].shape) != tuple(shape):
            raise ModelError(
                f"tensor {name!r} has shape {tuple(arrays[name].shape)}, "
                f"the {kind} model of model.json has {tuple(shape)}",
                fix="weights and model.json belong to different models",
            )
