"""PertSets, the State-Transition model: cells of a set attend to each other and become perturbed.

    p = pert_encoder(perturbation)            [B, H]     once per set
    c = basal_encoder(control)                [B, S, H]
    h = transformer_backbone(p + c)           [B, S, H]
    cells = relu(project_out(h + c))          [B, S, D]  (without residual: project_out(h))

The residual is added in hidden space and ReLU keeps predicted log1p expression non-negative.
Parameter names and indices are those of the released State checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from statetx.errors import ModelError, did_you_mean
from statetx.models.backbone import Backbone, Shape
from statetx.models.predictor import Predicted, expect_tensors


class Prediction(NamedTuple):
    """What a forward pass gives.

    Attributes
    ----------
    cells
        [B, S, D_out]
    genes
        [B, S, G] from a gene decoder, or None.
    confidence
        [B] from a confidence head, or None.
    """

    cells: Tensor
    genes: Tensor | None = None
    confidence: Tensor | None = None


@dataclass(frozen=True)
class Architecture:
    """Everything that decides what the weights compute.

    Attributes
    ----------
    input_dim, output_dim
        Columns of basal and of predicted cells.
    pert_dim
        Size of the vocabulary, or width of the perturbation vectors.
    n_encoder_layers, n_decoder_layers
        Linear layers of the encoders and of ``project_out``.
    dropout
        After each hidden layer of those.
    use_basal_projection
        Basal encoder: an MLP (True) or one linear layer.
    predict_residual
        Add the encoded control before ``project_out``.
    relu
        The output is expression, hence non-negative.
    backbone
        Shape of the transformer; its ``hidden_size`` is H everywhere.
    """

    input_dim: int
    output_dim: int
    pert_dim: int
    backbone: Shape
    n_encoder_layers: int = 4
    n_decoder_layers: int = 4
    dropout: float = 0.1
    use_basal_projection: bool = True
    predict_residual: bool = True
    relu: bool = True

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Architecture:
        """Rebuild from `to_json`; unknown or missing keys raise TypeError or KeyError."""
        rest = {key: value for key, value in values.items() if key != "backbone"}
        return cls(backbone=Shape(**values["backbone"]), **rest)


def mlp(layers: int, inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Linear, then (exact GELU, dropout, linear) for each further layer: linears at 0, 3, 6, 9 …"""
    widths = [inputs, *[hidden] * (layers - 1), outputs]
    modules: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for i in range(1, layers):
        modules += [nn.GELU(), nn.Dropout(dropout), nn.Linear(widths[i], widths[i + 1])]
    return nn.Sequential(*modules)


class PertSets(nn.Module):
    """The set transformer.

    Parameters
    ----------
    architecture
        Shapes and switches.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        hidden, depth = a.backbone.hidden_size, a.n_encoder_layers
        self.pert_encoder = mlp(depth, a.pert_dim, hidden, hidden, a.dropout)
        self.basal_encoder: nn.Module = (
            mlp(depth, a.input_dim, hidden, hidden, a.dropout)
            if a.use_basal_projection
            else nn.Linear(a.input_dim, hidden)
        )
        self.transformer_backbone = Backbone(a.backbone)
        self.project_out = mlp(a.n_decoder_layers, hidden, hidden, a.output_dim, a.dropout)

    def encode_perturbation(self, perturbation: Tensor) -> Tensor:
        """Encode ids [B], vectors [B, P] or per-cell vectors [B, S, P] to [B, H] or [B, S, H].

        An id stands for its one-hot vector: the first layer then is a gather of one of its columns,
        which spares 4 P bytes per cell. Dropout acts once per set.

        Raises
        ------
        ModelError
            An id outside the vocabulary, or vectors of another width.
        """
        size = self.architecture.pert_dim
        if perturbation.is_floating_point():
            if perturbation.shape[-1] != size:
                raise ModelError(
                    f"perturbation vectors have {perturbation.shape[-1]} columns, "
                    f"the model takes {size}"
                )
            return self.pert_encoder(perturbation)
        if perturbation.ndim != 1:
            raise ModelError(
                f"perturbation ids have shape {tuple(perturbation.shape)}",
                fix="give one id per set, [B]; one-hot or feature vectors must be floating point",
            )
        # On a GPU this check would wait for the device at every step; gathering there checks itself.
        if perturbation.device.type == "cpu" and bool(
            ((perturbation < 0) | (perturbation >= size)).any()
        ):
            raise ModelError(
                f"perturbation id {int(perturbation.abs().max())} is outside the vocabulary "
                f"of {size} labels"
            )
        first: nn.Linear = self.pert_encoder[0]  # type: ignore[assignment]
        encoded = functional.embedding(perturbation, first.weight.mT) + first.bias  # [B, H]
        return self.pert_encoder[1:](encoded)

    def forward(
        self,
        control: Tensor,
        perturbation: Tensor,
        batch: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Prediction:
        """Predict the perturbed cells of each set.

        Parameters
        ----------
        control
            Basal cells [B, S, D].
        perturbation
            Ids [B] (integers), vectors [B, P], or per-cell vectors [B, S, P].
        batch
            This architecture has no batch encoder: must be None.
        mask
            Which rows are cells, bool [B, S]; the others are seen by none, and what is predicted for
            them means nothing. None: all.

        Raises
        ------
        ModelError
            Wrong shapes, unknown id, or a batch given.
        """
        if batch is not None:
            raise ModelError("this model has no batch encoder", fix="call it without `batch`")
        if control.ndim != 3 or control.shape[-1] != self.architecture.input_dim:
            raise ModelError(
                f"basal cells have shape {tuple(control.shape)}, "
                f"the model takes [sets, cells, {self.architecture.input_dim}]"
            )
        encoded = self.encode_perturbation(perturbation)
        if encoded.shape[0] != control.shape[0]:
            raise ModelError(f"{encoded.shape[0]} perturbations for {control.shape[0]} sets")
        if encoded.ndim == 2:
            encoded = encoded[:, None, :]  # [B, 1, H]
        basal = self.basal_encoder(control)  # [B, S, H]
        hidden = self.transformer_backbone(encoded + basal, mask)  # [B, S, H]
        if self.architecture.predict_residual:
            hidden = hidden + basal
        cells = self.project_out(hidden)  # [B, S, D_out]
        return Prediction(functional.relu(cells) if self.architecture.relu else cells)

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights as float32 numpy arrays, copied to the host."""
        return {
            name: np.array(value.detach().float().cpu().numpy())
            for name, value in self.state_dict().items()
        }


class PertSetsPredictor:
    """A PertSets with its vocabulary, in evaluation mode.

    Parameters
    ----------
    model
        The network.
    vocabulary
        Labels in the order of their ids, the control first.
    """

    def __init__(self, model: PertSets, vocabulary: list[str]) -> None:
        self.model = model.eval()
        self._ids = {label: i for i, label in enumerate(vocabulary)}
        self._device = torch.device("cpu")

    def predict(self, control: np.ndarray, line: str, perturbation: str) -> Predicted:
        """Predict one set; the line speaks through its control cells only.

        Raises
        ------
        ModelError
            The label is not in the vocabulary; nothing else is ever put in its place.
        """
        if perturbation not in self._ids:
            raise ModelError(
                f"this model was not trained on perturbation {perturbation!r}",
                fix=f"{did_you_mean(perturbation, self._ids)} A model of perturbation ids "
                "cannot predict a label it never saw",
            )
        with torch.inference_mode():
            cells = torch.from_numpy(np.array(control, dtype=np.float32))[None].to(self._device)
            ids = torch.tensor([self._ids[perturbation]], device=self._device)
            predicted = self.model(cells, ids).cells[0]  # [S, G]
        return Predicted(predicted.cpu().numpy(), False)

    def to(self, device: str) -> PertSetsPredictor:
        """Move to ``cpu``, ``cuda`` or ``auto`` (a GPU if there is one).

        Raises
        ------
        ModelError
            There is no such device.
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
    """Build the model of a model directory.

    Raises
    ------
    ModelError
        The weights or the vocabulary are not those of the architecture.
    """
    architecture = Architecture.from_json(meta["architecture"])
    vocabulary = [str(label) for label in meta["perturbations"]]
    if len(set(vocabulary)) != len(vocabulary) or len(vocabulary) != architecture.pert_dim:
        raise ModelError(
            f"the vocabulary has {len(set(vocabulary))} different labels, "
            f"the architecture has {architecture.pert_dim}",
            fix="model.json was edited: train or copy the model again",
        )
    # Weights are read anyway: building on the meta device skips a random initialisation that is
    # thrown away (seconds for the 200 M parameters of the Tahoe recipe).
    with torch.device("meta"):
        model = PertSets(architecture)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expect_tensors(arrays, shapes, "pertsets")
    weights = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    model.load_state_dict(weights, strict=True, assign=True)
    return PertSetsPredictor(model, vocabulary)
