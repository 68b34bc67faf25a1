"""What decides what the weights of a PertSets compute, and the small parts that it is built of."""

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
    activation
        Of the encoders and of ``project_out``: name in `ACTIVATIONS`.
    batch_dim
        Number of batches of the batch encoder or token; None: neither.
    batch_encoder
        Add an embedding of the cell's batch to every cell.
    batch_token
        Prepend a token from which the batch of the set is told.
    confidence_token
        Append a token from which the loss of the set is told.
    down_then_up
        Residual in the space of the input: y = up(gelu(down(project_out(h) + control))).
    decoder
        Gene decoder behind the cells, or None.
    dropout_per_cell
        In training, encode the perturbation for every cell, so that each has dropout of its own, as
        the original does; no difference in what is predicted.
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
        """As a dictionary of JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Architecture:
        """Rebuild from `to_json`; unknown or missing keys raise TypeError or KeyError."""
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
"""Of the encoders, by name; ``gelu`` is the exact one."""


def mlp(
    layers: int, inputs: int, hidden: int, outputs: int, dropout: float, activation: str = "gelu"
) -> nn.Sequential:
    """Linear, then (activation, dropout, linear) for each further layer: linears at 0, 3, 6, 9 …"""
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
    """A learned token, and the MLP that reads the expected loss off it."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.confidence_token = nn.Parameter(torch.randn(1, 1, hidden))
        half, quarter = hidden // 2, hidden // 4
        self.confidence_projection = nn.Sequential(
            *(nn.Linear(hidden, half), nn.LayerNorm(half), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(half, quarter), nn.LayerNorm(quarter), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(quarter, 1), nn.ReLU()),
        )
