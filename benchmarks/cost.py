"""What a network costs: weights, FLOP, memory, hours, disk; counted from its shapes."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch

from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import ATTENTION, Shape
from statetx.models.network.set_transformer import PertSets

BYTES_PER_WEIGHT = 16
"""Training in float32 with Adam: weight, gradient, two moments."""
RATE = 790e12
"""FLOP/s of bfloat16 products on an H200, measured."""
SHARE = 0.53
"""Of that rate, reached in training with a compiled network: 303,000 pairs per second with the Tahoe recipe."""


ENERGY_PRODUCTS = 5
"""Products [S, D] x [D, S] or [S, S] x [S, D] that the energy loss takes of each set, value and gradient."""


class Cost(NamedTuple):
    """What a training costs.

    Attributes
    ----------
    parameters
        Number of weights.
    flop_per_step
        Floating-point operations of a step, see `flop_per_step`.
    memory_bytes
        Weights, gradients, moments and activations of a step in bfloat16.
    hours
        On one H200 at `SHARE` of its measured bfloat16 rate.
    checkpoint_bytes, state_bytes
        Of one checkpoint, and of the resume state.
    """

    parameters: int
    flop_per_step: int
    memory_bytes: int
    hours: float
    checkpoint_bytes: int
    state_bytes: int


def parameters(architecture: Architecture) -> int:
    """Return the number of weights, without making them."""
    with torch.device("meta"):
        return sum(p.numel() for p in PertSets(architecture).parameters())


def flop_per_step(a: Architecture, sets: int, cells: int) -> int:
    """Return the floating-point operations of a training step.

    Products only, two operations per multiply-add: linear layers for every cell (the perturbation
    encoder once per set), attention scores and sums, forward once, backward twice; and the energy loss,
    five products of a set with a set (x with y, x with x, y with y; two in its backward).

    Parameters
    ----------
    a
        The network; a Llama backbone.
    sets, cells
        Sets per step, and cells of each.
    """
    assert isinstance(a.backbone, Shape)
    b, hidden = a.backbone, a.backbone.hidden_size
    width = b.num_attention_heads * b.head_dim

    def mlp(layers: int, inputs: int, outputs: int) -> int:
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        return sum(x * y for x, y in pairwise(widths))

    alone = ATTENTION[b.attention].alone  # then queries and keys play no part
    layer = (2 if alone else 4) * hidden * width + 3 * hidden * b.intermediate_size
    attention = 0 if alone else 2 * cells * width
    basal = (
        mlp(a.n_encoder_layers, a.input_dim, hidden)
        if a.use_basal_projection
        else (a.input_dim * hidden)
    )
    per_cell = b.num_hidden_layers * (layer + attention) + basal
    per_cell += mlp(a.n_decoder_layers, hidden, a.output_dim)
    loss_width = a.output_dim
    if a.decoder is not None:
        widths = [a.decoder.latent, *a.decoder.hidden, a.decoder.genes]
        per_cell += sum(x * y for x, y in pairwise(widths))
        loss_width += a.decoder.genes
    # An id picks a column of the first layer: no product.
    per_set = mlp(a.n_encoder_layers, 0, hidden)
    loss = ENERGY_PRODUCTS * cells * cells * loss_width
    return 2 * sets * (3 * (cells * per_cell + per_set) + loss)


def cost(a: Architecture, sets: int, cells: int, steps: int, ema: bool = False) -> Cost:
    """Return what a training of so many steps costs.

    Activations: what backward needs of every layer in bfloat16 (residual stream, norms, queries, keys,
    values, attended cells, and the three inner matrices of the gated MLP), measured to be within a fifth
    of the peak on a GPU.
    """
    n, flop = parameters(a), flop_per_step(a, sets, cells)
    assert isinstance(a.backbone, Shape)
    b = a.backbone
    per_layer = 6 * b.hidden_size + 4 * b.num_attention_heads * b.head_dim + 4 * b.intermediate_size
    per_cell = b.num_hidden_layers * per_layer
    per_cell += 3 * b.hidden_size * (a.n_encoder_layers + a.n_decoder_layers)
    per_cell += 4 * (a.input_dim + 2 * a.output_dim)
    if a.decoder is not None:
        per_cell += 4 * sum(a.decoder.hidden) + 6 * a.decoder.genes
    activations = 2 * sets * cells * per_cell + 3 * 3 * 4 * sets * cells * cells
    weights = BYTES_PER_WEIGHT + 4 * ema
    return Cost(
        parameters=n,
        flop_per_step=flop,
        memory_bytes=weights * n + activations,
        hours=steps * flop / (RATE * SHARE) / 3600,
        checkpoint_bytes=4 * n,
        state_bytes=(12 + 4 * ema) * n,
    )


def words(found: Cost, steps: int) -> str:
    """Return a cost in one sentence, as recipes say it."""
    hours = found.hours
    minutes = f"{60 * hours:,.2g} minutes" if hours > 1 / 60 else "under a minute"
    time = f"{hours:,.2g} hours" if hours > 0.1 else minutes
    return (
        f"{found.parameters / 1e6:,.1f} M weights, {found.flop_per_step / 1e12:,.2g} TFLOP per step, "
        f"{steps:,} steps in {time} at the rate of an H200, {found.memory_bytes / 1e9:,.2g} GB, "
        f"{found.checkpoint_bytes / 1e9:,.2g} GB per checkpoint"
    )
