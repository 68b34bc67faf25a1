"""Our blocks against those of the transformers library, block for block, and who attends to whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from statetx.core.errors import ModelError
from statetx.models.imported import arc
from statetx.models.network import backbone
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import ATTENTION, Backbone, Shape
from statetx.models.network.gpt2 import Gpt2Backbone, Gpt2Shape
from statetx.models.network.set_transformer import PertSets

SHAPE = Shape(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    head_dim=6,
    intermediate_size=40,
)


class NoPositions(torch.nn.Module):
    """Rotation by nothing."""

    def forward(self, x: torch.Tensor, **_: object) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (1, x.shape[1], 6)
        return torch.ones(shape), torch.zeros(shape)


def _strong(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights large enough that attention is far from uniform and norms are not 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.2 * noise if "norm" in name else 0.4 * noise)


def test_equals_llama() -> None:
    """In float64 to rounding; in float32 no further from that than theirs, on any processor."""
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

    llama.rotary_emb = NoPositions()
    x = torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(1))
    everybody = torch.zeros(3, 1, 9, 9)  # additive mask: nobody is hidden

    def both(kind: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        with torch.no_grad():
            states = llama.to(kind)(
                inputs_embeds=x.to(kind),
                attention_mask=everybody.to(kind),
                output_hidden_states=True,
            )
            mine = [x.to(kind)]
            for layer in ours.to(kind).layers:
                mine.append(layer(mine[-1]))
            final = ours(x.to(kind))
        # Their last entry is already normalised.
        theirs = [*states.hidden_states[: SHAPE.num_hidden_layers], states.last_hidden_state]
        return [*mine[: SHAPE.num_hidden_layers], final], theirs

    single = both(torch.float32)
    exact, theirs = both(torch.float64)
    for mine, their in zip(exact, theirs, strict=True):
        # Their norms are taken in float32, whatever the weights are.
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)
    for mine, their, truth in zip(*single, exact, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)
        off, allowed = ((side - truth).abs().max() for side in (mine, their))
        assert off <= 2 * allowed


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


@pytest.mark.parametrize("mode", ["causal_rope", "bidirectional_rope", "causal"])
def test_positions_and_mask_equal_llama_block_for_block(mode: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=6,
        intermediate_size=40,
        vocab_size=3,
        attn_implementation="eager",
    )
    llama = transformers.LlamaModel(config).eval()
    if mode == "causal":
        llama.rotary_emb = NoPositions()
    ours = Backbone(replace(SHAPE, attention=mode)).eval()
    _strong(ours)
    llama.load_state_dict(ours.state_dict(), strict=False)
    x = torch.randn(2, 50, 24, generator=torch.Generator().manual_seed(1))
    everybody = torch.zeros(2, 1, 50, 50) if mode.startswith("bidirectional") else None
    with torch.no_grad():
        theirs = llama(inputs_embeds=x, attention_mask=everybody).last_hidden_state
        torch.testing.assert_close(ours(x), theirs, rtol=1e-4, atol=1e-5)
        others = [name for name in ATTENTION if name != mode]
        for other in others:  # the modes are told apart by these numbers
            model = Backbone(replace(SHAPE, attention=other)).eval()
            model.load_state_dict(ours.state_dict())
            assert (model(x) - theirs).abs().max() > 1e-2


def test_gpt2_equals_the_library() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=24, n_layer=3, n_head=4, vocab_size=3, n_positions=16)
    theirs = transformers.GPT2Model(config).eval()
    ours = Gpt2Backbone(Gpt2Shape(24, 3, 4)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in ours.named_parameters():
        centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        value.data = centre + 0.4 * torch.randn(value.shape, generator=generator)
    left, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert (sorted(left), unexpected) == (["wpe.weight", "wte.weight"], [])
    theirs.wpe.weight.data.zero_()
    x = torch.randn(2, 9, 24, generator=generator)
    with torch.no_grad():
        expected = theirs(inputs_embeds=x).last_hidden_state
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
        later = x.clone()
        later[:, -1] += 1.0
        assert torch.equal(ours(later)[:, :-1], ours(x)[:, :-1])


@pytest.mark.parametrize("mode", ["bidirectional", "causal", "causal_rope", "alone"])
def test_half_precision_stays_near_float32(mode: str) -> None:
    model = Backbone(replace(SHAPE, attention=mode)).eval()
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(x)
    torch.testing.assert_close(half.float(), model(x).detach(), rtol=0.05, atol=0.05)


SETTINGS = {"transformer_backbone_kwargs": {"num_attention_heads": 4}}


def _weights(backbone: Shape | Gpt2Shape = SHAPE) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return PertSets(Architecture(7, 7, 4, backbone)).state_dict()


def _refused(weights: dict, attention: str | None, **kwargs: object) -> ModelError:
    settings = {"transformer_backbone_kwargs": kwargs or {"num_attention_heads": 4}}
    with pytest.raises(ModelError) as caught:
        arc.load(weights, settings, attention)
    assert caught.value.fix
    return caught.value


def test_the_attention_of_a_checkpoint_is_never_guessed() -> None:
    weights = _weights()
    said = str(_refused(weights, None))
    for word in ("bidirectional", "causal", "causal_rope", "--attention auto", "transformers"):
        assert word in said
    assert "did you mean 'bidirectional'?" in str(_refused(weights, "bidirectonal"))
    for flag, mode in ((True, "bidirectional"), (False, "causal_rope")):
        given = {"num_attention_heads": 4, "bidirectional_attention": flag}
        settings = {"transformer_backbone_kwargs": given}
        assert arc.load(weights, settings).architecture.backbone.attention == mode
        # What is asked for wins over what the settings say.
        asked = arc.load(weights, settings, "causal").architecture.backbone
        assert asked.attention == "causal"
    masked = arc.load(weights, {**SETTINGS, "mask_attn": True})
    assert masked.architecture.backbone.attention == "alone"


def test_heads_of_a_checkpoint_must_fit_its_queries() -> None:
    weights = _weights()
    assert "(5)" in _refused(weights, "causal", num_attention_heads=5).what
    assert "(None)" in _refused(weights, "causal", hidden_size=24).what
    by_width = arc.load(weights, {"transformer_backbone_kwargs": {"head_dim": 6}}, "causal")
    assert by_width.architecture.backbone.num_attention_heads == 4
    for mode in ("causal_rope", "bidirectional_rope"):
        assert "head_dim is 3" in _refused(weights, mode, num_attention_heads=8).what
    arc.load(weights, {"transformer_backbone_kwargs": {"num_attention_heads": 8}}, "causal")


def test_a_gpt2_checkpoint_is_causal_and_without_positions() -> None:
    weights = _weights(Gpt2Shape(24, 2, 4))
    assert "causal" in str(_refused(weights, "bidirectional", n_head=4))
    assert "5 heads do not divide" in str(_refused(weights, None, n_head=5))
    weights["transformer_backbone.wpe.weight"] = torch.zeros(8, 24)
    arc.load(weights, {"transformer_backbone_kwargs": {"n_head": 4}})
    weights["transformer_backbone.wpe.weight"][2, 1] = 0.1
    assert "wpe.weight is not zero" in _refused(weights, None, n_head=4).what


@pytest.mark.parametrize(
    "setting", [{"rms_norm_eps": 1e-2}, {"hidden_act": "gelu"}, {"rope_theta": 100.0}]
)
def test_a_setting_that_changes_what_is_computed_is_not_passed_over(setting: dict) -> None:
    given = {"num_attention_heads": 4, "bidirectional_attention": False}
    # As the library has them when nothing is said.
    plain = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 1e4}
    arc.load(_weights(), {"transformer_backbone_kwargs": given | plain})
    with pytest.raises(ModelError, match=next(iter(setting))):
        arc.load(_weights(), {"transformer_backbone_kwargs": given | setting})


def test_the_short_forms_have_the_right_gradients() -> None:
    """Norm, gate and attention of the CPU against finite differences, and torch's own operations."""
    torch.manual_seed(0)
    x, up = (torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(backbone._Norm.apply, (x, weight))
    assert torch.autograd.gradcheck(backbone._Gate.apply, (x, up))
    heads = [torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(backbone._attended, heads)
    torch.testing.assert_close(
        backbone._Norm.apply(x, weight), functional.rms_norm(x, (6,), weight, backbone.EPSILON)
    )
    torch.testing.assert_close(backbone._Gate.apply(x, up), functional.silu(x) * up)
    torch.testing.assert_close(
        backbone._attended(*heads), functional.scaled_dot_product_attention(*heads)
    )


def test_half_precision_norms_are_computed_in_float32() -> None:
    torch.manual_seed(1)
    x = (100 * torch.randn(4, 300)).to(torch.bfloat16).requires_grad_()
    weight = torch.randn(300, requires_grad=True)
    got = backbone._Norm.apply(x, weight)
    wide = x.detach().float()
    expected = functional.rms_norm(wide, (300,), weight.detach(), backbone.EPSILON)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=8e-3, atol=1e-6)
    got.float().sum().backward()
    assert (x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
