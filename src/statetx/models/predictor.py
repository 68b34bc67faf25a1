"""Interface of every kind of model: a predictor of one set of cells."""

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
        Whether the model learned nothing for this condition and used a coarser mean.
    embedding
        Float32 [S, D], if the model works in an embedding; None otherwise.
    """

    cells: np.ndarray
    fallback: bool
    embedding: np.ndarray | None = None


class Predictor(Protocol):
    """Interface of a model, as ``restore`` of a kind returns it."""

    def predict(self, control: np.ndarray, line: str, perturbation: str) -> Predicted:
        """Predict the cells of one set from its basal cells, float32 [S, D]."""
        ...

    def to(self, device: str) -> Predictor:
        """Move to ``cpu``, ``cuda`` or ``auto``; models without tensors return themselves."""
        ...


def expect_tensors(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], kind: str
) -> None:
    """Check that tensors have exactly the names and shapes of the architecture.

    Parameters
    ----------
    arrays
        Tensors of the file.
    shapes
        Shapes of the architecture, by tensor name.
    kind
        Kind of model, for the message.

    Raises
    ------
    ModelError
        A tensor is missing, unknown, or has a different shape.
    """
    missing = sorted(shapes.keys() - arrays.keys())
    unknown = sorted(arrays.keys() - shapes.keys())
    if missing or unknown:
        lists = [("are missing", missing), ("are unknown", unknown)]
        text = ", ".join(
            f"{len(names)} tensor(s) {verb}, first {names[0]!r}" for verb, names in lists if names
        )
        raise ModelError(
            f"these weights do not fit a {kind} model: {text}",
            fix="use the file that belongs to model.json: incomplete weights would predict "
            "nonsense",
        )
    for name, shape in shapes.items():
        if tuple(arrays[name].shape) != tuple(shape):
            raise ModelError(
                f"tensor {name!r} has shape {tuple(arrays[name].shape)}, "
                f"but the {kind} model of model.json has {tuple(shape)}",
                fix="use the file that belongs to model.json",
            )
