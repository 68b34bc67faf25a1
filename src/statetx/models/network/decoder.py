"""Three gene decoders, which convert a predicted embedding to the expression of genes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class DecoderShape:
    """Shape of a gene decoder.

    Attributes
    ----------
    kind
        ``plain``, ``residual`` or ``nb``.
    latent
        Number of input columns; for ``nb`` with a batch encoder, with the columns of the batches.
    genes
        Number of output columns, G.
    hidden
        Widths of the hidden layers.
    dropout
        Dropout rate after each hidden layer.
    """

    kind: str
    latent: int
    genes: int
    hidden: tuple[int, ...]
    dropout: float = 0.1


def _hidden(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU(), nn.Dropout(dropout)]


class PlainDecoder(nn.Module):
    """Hidden layers (linear, layer norm, GELU, dropout), then a linear layer and ReLU.

    Parameters
    ----------
    shape
        Widths and dropout rate.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        width = shape.latent
        for hidden in shape.hidden:
            modules += _hidden(width, hidden, shape.dropout)
            width = hidden
        self.decoder = nn.Sequential(*modules, nn.Linear(width, shape.genes), nn.ReLU())

    def forward(self, latent: Tensor) -> Tensor:
        """Return non-negative expression [B, S, G] of embeddings [B, S, D]."""
        return self.decoder(latent)


class ResidualDecoder(nn.Module):
    """Blocks of one hidden layer; every second block (1, 3, …) adds its input to its output.

    Parameters
    ----------
    shape
        Widths and dropout rate.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        widths = [shape.latent, *shape.hidden]
        self.blocks = nn.ModuleList(
            nn.Sequential(*_hidden(inputs, outputs, shape.dropout))
            for inputs, outputs in pairwise(widths)
        )
        self.final_layer = nn.Sequential(nn.Linear(widths[-1], shape.genes), nn.ReLU())

    def forward(self, latent: Tensor) -> Tensor:
        """Return non-negative expression [B, S, G] of embeddings [B, S, D]."""
        x = latent
        for i, block in enumerate(self.blocks):
            x = block(x) + x if i % 2 else block(x)
        return self.final_layer(x)


class NbDecoder(nn.Module):
    """Mean and dispersion of a negative binomial, for counts.

    h = norm(encoder(z) + skip(z)); mu = exp(l_encoder(h)) softplus(px_scale(h));
    theta = softplus(log_theta), a value per gene.

    Parameters
    ----------
    shape
        Widths and dropout rate.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        widths = [shape.latent, *shape.hidden]
        modules: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            modules += _hidden(inputs, outputs, shape.dropout)
        self.encoder = nn.Sequential(*modules)
        same = widths[0] == widths[-1]
        self.skip = nn.Identity() if same else nn.Linear(widths[0], widths[-1], bias=False)
        self.post_norm = nn.LayerNorm(widths[-1])
        self.px_scale = nn.Linear(widths[-1], shape.genes)
        self.l_encoder = nn.Linear(widths[-1], 1)
        self.log_theta = nn.Parameter(torch.zeros(shape.genes))

    def forward(self, latent: Tensor) -> Tensor:
        """Return mean counts [B, S, G] of embeddings [B, S, D]."""
        hidden = self.post_norm(self.encoder(latent) + self.skip(latent))
        return self.l_encoder(hidden).exp() * functional.softplus(self.px_scale(hidden))

    def loss(self, mean: Tensor, counts: Tensor) -> Tensor:
        """Return the mean negative log likelihood of integer counts.

        Parameters
        ----------
        mean
            Mean counts, [B, S, G].
        counts
            Integer counts, [B, S, G].
        """
        theta = functional.softplus(self.log_theta)
        logits = (mean + 1e-6).log() - (theta + 1e-6).log()
        distribution = torch.distributions.NegativeBinomial(theta, logits=logits)
        likelihood: Tensor = distribution.log_prob(counts)  # type: ignore[no-untyped-call]
        return -likelihood.mean()


DECODERS: dict[str, type[nn.Module]] = {
    "plain": PlainDecoder,
    "residual": ResidualDecoder,
    "nb": NbDecoder,
}
"""Modules by `DecoderShape.kind`."""
