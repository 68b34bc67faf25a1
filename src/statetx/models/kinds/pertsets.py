"""Predictions of a PertSets network from labels, batch names and numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statetx.core.errors import ModelError, did_you_mean
from statetx.models.network.architecture import Architecture
from statetx.models.network.set_transformer import PertSets
from statetx.models.predictor import Predicted, expect_tensors

FEATURES = "perturbation_features"
"""Name of a tensor that is stored with the weights, [labels, P]: the features of each label."""


class PertSetsPredictor:
    """A PertSets network with its vocabulary, in evaluation mode.

    Parameters
    ----------
    model
        The network.
    vocabulary
        Labels in the order of their ids, the control first.
    features
        Features of each label, float32 [labels, P]; None: the model knows labels by their id.
    batches
        Names of the batches in the order of their ids, for a model with a batch encoder.
    """

    def __init__(
        self,
        model: PertSets,
        vocabulary: list[str],
        features: Tensor | None = None,
        batches: list[str] | None = None,
    ) -> None:
        self.model = model.eval()
        self._ids = {label: i for i, label in enumerate(vocabulary)}
        self._features = features
        self._batches = {name: i for i, name in enumerate(batches or [])}
        self._device = torch.device("cpu")

    @property
    def needs_batches(self) -> bool:
        """Whether the batch of every cell must be given."""
        return self.model.architecture.batch_encoder

    @property
    def knows_features(self) -> bool:
        """Whether the model knows perturbations by features, so that it can predict unseen ones."""
        return self._features is not None

    def predict(
        self,
        control: np.ndarray,
        line: str,
        perturbation: str,
        batches: np.ndarray | None = None,
    ) -> Predicted:
        """Predict one set; the line has an effect through its control cells only.

        Parameters
        ----------
        control
            Basal cells, float32 [S, D].
        line
            Not used.
        perturbation
            Label as in the vocabulary.
        batches
            Name of the batch of every cell [S], for a model with a batch encoder.

        Raises
        ------
        ModelError
            The label or a batch is not in the vocabulary; no other label or batch replaces it.
        """
        if perturbation not in self._ids:
            if self.knows_features:
                what = f"this model has no features of perturbation {perturbation!r}"
                fix = "Add a row to the table of features and train again"
            else:
                what = f"this model was not trained on perturbation {perturbation!r}"
                fix = "A model of perturbation ids cannot predict a label without training on it"
            raise ModelError(what, fix=f"{did_you_mean(perturbation, self._ids)} {fix}")
        number = self._ids[perturbation]
        given = torch.tensor([number]) if self._features is None else self._features[None, number]
        batch = self._batch_ids(batches) if self.needs_batches else None
        with torch.inference_mode():
            cells = torch.from_numpy(np.array(control, dtype=np.float32))[None].to(self._device)
            predicted = self.model(cells, given.to(self._device), batch)
            expression = predicted.cells if predicted.genes is None else predicted.genes
            embedding = None if predicted.genes is None else predicted.cells[0].cpu().numpy()
        return Predicted(expression[0].cpu().numpy(), False, embedding)

    def _batch_ids(self, batches: np.ndarray | None) -> Tensor:
        if batches is None:
            raise ModelError(
                "this model was trained with batches",
                fix="name the batch of every cell (batch_col)",
            )
        unknown = sorted({str(name) for name in batches} - self._batches.keys())
        if unknown:
            raise ModelError(
                f"this model was not trained on batch {unknown[0]!r}",
                fix=did_you_mean(unknown[0], self._batches),
            )
        ids = [self._batches[str(name)] for name in batches]
        return torch.tensor([ids], device=self._device)

    def to(self, device: str) -> PertSetsPredictor:
        """Move to ``cpu``, ``cuda`` or ``auto`` (a GPU if there is one).

        Raises
        ------
        ModelError
            The device does not exist or cannot be used.
        """
        chosen = device
        if device == "auto":
            chosen = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.model.to(chosen)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"cannot use the device {device!r}: {error}") from error
        self._device = torch.device(chosen)
        return self


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> PertSetsPredictor:
    """Build the model from the content of its model directory.

    Parameters
    ----------
    meta
        Content of ``model.json``.
    arrays
        Tensors of the checkpoint.

    Raises
    ------
    ModelError
        The weights or the vocabulary do not fit the architecture.
    """
    architecture = Architecture.from_json(meta["architecture"])
    vocabulary = [str(label) for label in meta["perturbations"]]
    arrays = dict(arrays)
    features = arrays.pop(FEATURES, None)
    expected = architecture.pert_dim if features is None else len(features)
    if len(set(vocabulary)) != len(vocabulary) or len(vocabulary) != expected:
        raise ModelError(
            f"the vocabulary has {len(set(vocabulary))} different labels, "
            f"but the architecture has {expected}",
            fix="train or copy the model again: model.json was edited",
        )
    batches = [str(name) for name in meta.get("batches") or []]
    if architecture.batch_encoder and len(batches) != architecture.batch_dim:
        raise ModelError(
            f"model.json names {len(batches)} batches, but the architecture has "
            f"{architecture.batch_dim}",
            fix="train, copy or import the model again: model.json was edited",
        )
    # The weights are read from the file, so a random initialisation would be discarded. The meta
    # device skips it (seconds for the 200 M parameters of the Tahoe recipe).
    with torch.device("meta"):
        model = PertSets(architecture)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expect_tensors(arrays, shapes, "pertsets")
    weights = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    model.load_state_dict(weights, strict=True, assign=True)
    vectors = None if features is None else torch.from_numpy(np.array(features))
    return PertSetsPredictor(model, vocabulary, vectors, batches)
