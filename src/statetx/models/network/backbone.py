"""Set transformer in the layout of Llama, with its parameter names and without its library.

The blocks do not come from the library `transformers`, because its versions silently changed the
attention mode: the same checkpoint was bidirectional in one version and causal in the next. In this
module, the mode is a setting that is stored with the model. In float32 the blocks agree with
`transformers.LlamaModel` up to rounding (a test compares them).

Layer (RMS in float32, no biases):
    a = x + O(Attention(RMS(x)))
    y = a + Down(silu(Gate(RMS(a))) * Up(RMS(a)))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from statetx.core.errors import ModelError, did_you_mean

EPSILON = 1e-6
INITIAL_STD = 0.02
THETA = 1e4


class Mode(NamedTuple):
    """An attention mode.

    Attributes
    ----------
    causal
        Whether a cell attends only to itself and to cells before it: the order of a set then
        matters.
    rotary
        Whether queries and keys are rotated by their position (RoPE, theta 1e4, half-split).
    alone
        Whether a cell attends only to itself.
    """

    causal: bool = False
    rotary: bool = False
    alone: bool = False


ATTENTION: dict[str, Mode] = {
    "bidirectional": Mode(),
    "causal": Mode(causal=True),
    "causal_rope": Mode(causal=True, rotary=True),
    "bidirectional_rope": Mode(rotary=True),
    "alone": Mode(alone=True),
}
"""Modes by name.

``bidirectional`` is the set model. Some checkpoints were trained or served with other modes.
"""


@dataclass(frozen=True)
class Shape:
    """Shape of the backbone.

    Attributes
    ----------
    hidden_size
        Width H of the residual stream.
    num_hidden_layers, num_attention_heads, head_dim, intermediate_size
        As in Llama; heads x head_dim need not equal H (released models have 12 x 64 on 328).
    attention
        Name in `ATTENTION`.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    intermediate_size: int
    attention: str = "bidirectional"


class RMSNorm(nn.Module):
    """w * x / sqrt(mean(x^2) + 1e-6) over the last axis, the quotient computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        if x.device.type == "cpu":
            normed: Tensor = _Norm.apply(x, self.weight)  # type: ignore[no-untyped-call]
            return normed
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)
        # The weight is float32 under autocast too: without the cast, later layers would be float32.
        return (self.weight * (wide * scale)).to(x.dtype)


class _Norm(torch.autograd.Function):
    """RMSNorm with few passes over memory, for CPUs; on a GPU, a compiler finds them.

    Measured with `_Gate` on two CPU cores: 17 % of a training step of hidden size 328.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_wide(x.dtype))
        scale = length.square_().div_(x.shape[-1]).add_(EPSILON).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        return (unit * weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        unit, scale, weight = ctx.saved_tensors
        of_weight = slope * unit
        along = (of_weight @ weight.to(of_weight.dtype))[..., None].div_(unit.shape[-1])
        to_x = (slope * weight).addcmul_(unit, along, value=-1).mul_(scale)
        return to_x.to(slope.dtype), of_weight.flatten(0, -2).sum(0).to(weight.dtype)


def _wide(kind: torch.dtype) -> torch.dtype:
    return torch.float32 if kind in (torch.float16, torch.bfloat16) else kind


class _Gate(torch.autograd.Function):
    """silu(gate) * up, which stores only the two factors for the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        to_gate = torch.ops.aten.silu_backward(slope * up, gate)
        return to_gate, functional.silu(gate).mul_(slope)


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute softmax attention as plain products, all [B, heads, S, head_dim], on a CPU.

    torch's kernel multiplies in blocks. With products in bfloat16, its backward pass took 18 times
    as long as the backward pass of these products; with products in float32, it took equally long.
    """
    weights = torch.softmax((query * query.shape[-1] ** -0.5) @ key.mT, dim=-1)
    return weights @ value


class Attention(nn.Module):
    """Multi-head attention among the cells of a set.

    Parameters
    ----------
    shape
        Widths and attention mode.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.num_attention_heads * shape.head_dim
        self.head_dim = shape.head_dim
        self.mode = ATTENTION[shape.attention]
        self.q_proj = nn.Linear(shape.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, shape.hidden_size, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        sets, cells, _ = x.shape
        return x.view(sets, cells, -1, self.head_dim).transpose(1, 2)  # [B, heads, S, head_dim]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return attended cells, [B, S, H] -> [B, S, H]; no cell attends to cells outside `mask`.

        Parameters
        ----------
        x
            Cells, [B, S, H].
        mask
            Which rows are cells, bool [B, S]; None: all.
        """
        value = self.v_proj(x)
        if self.mode.alone:  # softmax over one cell is 1
            return self.o_proj(value)
        query, key = self._heads(self.q_proj(x)), self._heads(self.k_proj(x))
        if self.mode.rotary:
            query, key = rotated(query), rotated(key)
        seen, causal = None, self.mode.causal
        if mask is not None:
            seen = mask[:, None, None, :]  # [B, 1, 1, S]: keys
            if causal:
                cells = x.shape[1]
                before = torch.ones(cells, cells, dtype=torch.bool, device=x.device).tril()
                # A row that attends to nothing would be NaN. Values of masked rows are not used.
                itself = torch.eye(cells, dtype=torch.bool, device=x.device)
                seen, causal = (seen & before) | itself, False
        # attended: [B, heads, S, head_dim]
        if x.device.type == "cpu" and seen is None and not causal:
            attended = _attended(query, key, self._heads(value))
        else:
            attended = functional.scaled_dot_product_attention(
                query, key, self._heads(value), attn_mask=seen, is_causal=causal
            )
        return self.o_proj(attended.transpose(1, 2).flatten(2))


def rotated(x: Tensor) -> Tensor:
    """Rotate [B, heads, S, head_dim] by position: pairs are (i, i + head_dim / 2), theta 1e4.

    This is RoPE (Su et al. 2021, RoFormer) in the half-split form of Llama.
    """
    cells, width = x.shape[-2:]
    places = torch.arange(cells, device=x.device, dtype=torch.float32)
    powers = torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width
    angles = places[:, None] * THETA**-powers  # [S, head_dim / 2]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class GatedMLP(nn.Module):
    """The gated MLP of a block: Down(silu(Gate(x)) * Up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to every cell, [B, S, H] -> [B, S, H]."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        if x.device.type == "cpu":
            return self.down_proj(_Gate.apply(gate, up))  # type: ignore[no-untyped-call]
        return self.down_proj(functional.silu(gate) * up)


class Layer(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = GatedMLP(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the block, [B, S, H] -> [B, S, H]; for `mask`, see `Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Transformer blocks and a final norm; matrices are initialised from N(0, 0.02), norms as 1.

    Parameters
    ----------
    shape
        Widths, number of layers, attention mode.

    Raises
    ------
    ModelError
        The attention mode is unknown, or the mode has positions and head_dim is odd.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if shape.attention not in ATTENTION:
            raise ModelError(
                f"unknown attention mode {shape.attention!r}",
                fix=did_you_mean(shape.attention, ATTENTION),
            )
        if ATTENTION[shape.attention].rotary and shape.head_dim % 2:
            raise ModelError(
                f"attention {shape.attention!r} rotates pairs of features, but head_dim is "
                f"{shape.head_dim}",
                fix="use an even head_dim, or a mode without positions",
            )
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_STD)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply blocks and final norm, [B, S, H] -> [B, S, H]; for `mask`, see `Attention`."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)
