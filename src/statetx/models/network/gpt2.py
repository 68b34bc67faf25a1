"""Set transformer in the layout of GPT-2, to load old checkpoints; new models do not use it.

Layer (layer norms with epsilon 1e-5, tanh GELU, biases everywhere, matrices stored [in, out]):
    a = x + c_proj(Attention(ln_1(x)))
    y = a + c_proj(gelu(c_fc(ln_2(a))))
Attention is causal, as in the code that trained these models. Cells have no positions, because the
position tables of these checkpoints are zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5


@dataclass(frozen=True)
class Gpt2Shape:
    """Shape of the backbone.

    Attributes
    ----------
    hidden_size
        Width H of the residual stream.
    n_layer, n_head
        As in GPT-2.
    """

    hidden_size: int
    n_layer: int
    n_head: int


class Affine(nn.Module):
    """Affine map y = x W + b, with W [inputs, outputs].

    Parameters
    ----------
    inputs, outputs
        Widths.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map, [..., inputs] -> [..., outputs]."""
        return x @ self.weight + self.bias


class CausalAttention(nn.Module):
    """Multi-head attention of a cell to itself and to cells before it.

    Parameters
    ----------
    shape
        Widths and number of heads.
    """

    def __init__(self, shape: Gpt2Shape) -> None:
        super().__init__()
        self.n_head = shape.n_head
        self.c_attn = Affine(shape.hidden_size, 3 * shape.hidden_size)
        self.c_proj = Affine(shape.hidden_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return attended cells, [B, S, H] -> [B, S, H]."""
        sets, cells, width = x.shape
        query, key, value = (
            part.view(sets, cells, self.n_head, width // self.n_head).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(attended.transpose(1, 2).reshape(sets, cells, width))


class FeedForward(nn.Module):
    """The MLP of a block: c_proj(gelu(c_fc(x)))."""

    def __init__(self, shape: Gpt2Shape) -> None:
        super().__init__()
        self.c_fc = Affine(shape.hidden_size, 4 * shape.hidden_size)
        self.c_proj = Affine(4 * shape.hidden_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to every cell, [B, S, H] -> [B, S, H]."""
        return self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, shape: Gpt2Shape) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.hidden_size, eps=EPSILON)
        self.attn = CausalAttention(shape)
        self.ln_2 = nn.LayerNorm(shape.hidden_size, eps=EPSILON)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, [B, S, H] -> [B, S, H]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt2Backbone(nn.Module):
    """Transformer blocks and a final norm.

    Parameters
    ----------
    shape
        Widths and number of layers.
    """

    def __init__(self, shape: Gpt2Shape) -> None:
        super().__init__()
        self.h = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.ln_f = nn.LayerNorm(shape.hidden_size, eps=EPSILON)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply all blocks and the final norm, [B, S, H] -> [B, S, H].

        Parameters
        ----------
        x
            Cells, [B, S, H].
        mask
            Not used. Masked cells must come last, so that no other cell attends to them.
        """
        for block in self.h:
            x = block(x)
        return self.ln_f(x)
