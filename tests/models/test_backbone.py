"""Our blocks against transformers.LlamaModel, block for block."""

from __future__ import annotations

import pytest
import torch

from statetx.errors import ModelError
from statetx.models.backbone import Backbone, Shape

SHAPE = Shape(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    head_dim=6,
    intermediate_size=40,
)


def _strong(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights large enough that attention is far from uniform and norms are not 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.2 * noise if "norm" in name else 0.4 * noise)


def test_equals_llama_in_float32() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=6,
        intermediate_size=40,
        vocab_size=3,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    llama = transformers.LlamaModel(config).eval()
    ours = Backbone(SHAPE).eval()
    _strong(ours)
    left, unexpected = llama.load_state_dict(ours.state_dict(), strict=False)
    assert left == ["embed_tokens.weight"]
    assert not unexpected

    class NoPositions(torch.nn.Module):
        def forward(self, x: torch.Tensor, **_: object) -> tuple[torch.Tensor, torch.Tensor]:
            shape = (1, x.shape[1], 6)
            return torch.ones(shape), torch.zeros(shape)

    llama.rotary_emb = NoPositions()
    x = torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(1))
    everybody = torch.zeros(3, 1, 9, 9)  # additive mask: nobody is hidden
    with torch.no_grad():
        states = llama(inputs_embeds=x, attention_mask=everybody, output_hidden_states=True)
        mine = [x]
        for layer in ours.layers:
            mine.append(layer(mine[-1]))
        final = ours(x)
    for step in range(SHAPE.num_hidden_layers):  # their last entry is already normalised
        torch.testing.assert_close(mine[step], states.hidden_states[step], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final, states.last_hidden_state, rtol=1e-5, atol=2e-6)


def test_every_cell_sees_every_cell_and_order_does_not_matter() -> None:
    model = Backbone(SHAPE).eval()
    _strong(model)
    x = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(2))
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    with torch.no_grad():
        torch.testing.assert_close(model(x[:, order]), model(x)[:, order], rtol=1e-5, atol=1e-5)
        changed = x.clone()
        changed[:, -1] += 1.0
        assert (model(changed)[0, 0] - model(x)[0, 0]).abs().max() > 1e-3


def test_heads_need_not_fill_the_width() -> None:
    shape = Shape(82, 1, 2, 41, 16)  # odd head width, and 2 x 41 = 82
    assert Backbone(shape)(torch.zeros(2, 3, 82)).shape == (2, 3, 82)
    assert Backbone(Shape(10, 1, 3, 8, 16))(torch.zeros(1, 2, 10)).shape == (1, 2, 10)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = Backbone(Shape(64, 2, 4, 16, 256))
    weights = torch.cat([p.flatten() for n, p in model.named_parameters() if "norm" not in n])
    assert abs(weights.std().item() - 0.02) < 5e-4
    assert abs(weights.mean().item()) < 5e-4
    assert all(not name.endswith("bias") for name, _ in model.named_parameters())


def test_unknown_attention_mode_is_refused() -> None:
    with pytest.raises(ModelError, match="attention mode 'bidirectonal'"):
        Backbone(Shape(8, 1, 2, 4, 8, attention="bidirectonal"))
