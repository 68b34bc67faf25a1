"""The settings of a PertSets network, and its small modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from statetx.models.network.backbone import Shape
from statetx.models.network.decoder import DecoderShape
from statetx.models.network.gpt2 import Gpt2Shape


@dataclass(frozen=True)
class Architecture:
    """All settings that decide what the weights compute.

    Attributes
    ----------
    input_dim, output_dim
        Numbers of columns of basal and of predicted cells.
    pert_dim
        Size of the vocabulary, or width of the perturbation vectors.
    n_encoder_layers, n_decoder_layers
        Numbers of linear layers of the encoders and of ``project_out``.
    dropout
        Dropout rate after each hidden layer of the encoders and of ``project_out``.
    use_basal_projection
        Whether the basal encoder is an MLP (True) or a linear layer.
    predict_residual
        Whether the encoded control is added before ``project_out``.
    relu
        Whether ReLU makes the output non-negative, for a model of expression.
    backbone
        Shape of the transformer; its ``hidden_size`` is H everywhere.
    activation
        Activation of the encoders and of ``project_out``, a name in `ACTIVATIONS`.
    batch_dim
        Number of batches of the batch encoder or token; None: neither.
    batch_encoder
        Whether an embedding of the batch of a cell is added to the cell.
    batch_token
        Whether a token is prepended from which the batch of the set is predicted.
    confidence_token
        Whether a token is appended from which the loss of the set is predicted.
    down_then_up
        Whether the residual is in the space of the input:
        y = up(gelu(down(project_out(h) + control))).
    decoder
        Gene decoder of the predicted cells, or None.
    dropout_per_cell
        Whether training encodes the perturbation for every cell, so that dropout differs between
        cells, as in State. Predictions do not depend on it.
    """

    input_dim: int
    output_dim: int
    pert_dim: int
    backbone: Shape | Gpt2Shape
    n_encoder_layers: int = 4
    n_decoder_layers: int = 4
    dropout: float = 0.1
    use_basal_projection: bool = True
    predict_residual: bool = True
    relu: bool = True
    activation: str = "gelu"
    batch_dim: int | None = None
    batch_encoder: bool = False
    batch_token: bool = False
    confidence_token: bool = False
    down_then_up: bool = False
    decoder: DecoderShape | None = None
    dropout_per_cell: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dictionary of JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Architecture:
        """Rebuild an architecture from `to_json`.

        Parameters
        ----------
        values
            Settings as JSON values.

        Raises
        ------
        TypeError, KeyError
            A key is unknown or missing.
        """
        rest = {key: value for key, value in values.items() if key not in ("backbone", "decoder")}
        shape = Gpt2Shape if "n_head" in values["backbone"] else Shape
        decoder = values.get("decoder")
        if decoder is not None:
            decoder = DecoderShape(**{**decoder, "hidden": tuple(decoder["hidden"])})
        return cls(backbone=shape(**values["backbone"]), decoder=decoder, **rest)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "leakyrelu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
}
"""Activations of the encoders by name; ``gelu`` is the exact GELU."""


def mlp(
    layers: int, inputs: int, hidden: int, outputs: int, dropout: float, activation: str = "gelu"
) -> nn.Sequential:
    """Build a linear layer, then (activation, dropout, linear) for each further layer.

    Linear layers have the positions 0, 3, 6, 9, … in the result.

    Parameters
    ----------
    layers
        Number of linear layers.
    inputs, hidden, outputs
        Widths.
    dropout
        Dropout rate.
    activation
        Name in `ACTIVATIONS`.
    """
    widths = [inputs, *[hidden] * (layers - 1), outputs]
    modules: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for i in range(1, layers):
        modules += [
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            nn.Linear(widths[i], widths[i + 1]),
        ]
    return nn.Sequential(*modules)


class ConfidenceToken(nn.Module):
    """A learned token, and the MLP that predicts the loss from it.

    Parameters
    ----------
    hidden
        Width H of the token.
    dropout
        Dropout rate of the MLP.
    """

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.confidence_token = nn.Parameter(torch.randn(1, 1, hidden))
        half, quarter = hidden // 2, hidden // 4
        self.confidence_projection = nn.Sequential(
            *(nn.Linear(hidden, half), nn.LayerNorm(half), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(half, quarter), nn.LayerNorm(quarter), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(quarter, 1), nn.ReLU()),
        )
