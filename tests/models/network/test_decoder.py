"""Gene decoders against the specification, whether they are used, and which files are refused."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from torch import Tensor, nn
from torch.nn import functional

from statetx.core.errors import ModelError
from statetx.models.imported import arc
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape
from statetx.models.network.decoder import DECODERS, DecoderShape, NbDecoder
from statetx.models.network.gpt2 import Gpt2Shape
from statetx.models.network.set_transformer import PertSets

D, G, P, BATCHES = 6, 11, 4, 3
SHAPE = Shape(16, 1, 2, 8, 24)


def _hidden(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU(), nn.Dropout(0.1)]


class Plain(nn.Module):
    """Hidden layers in one sequence, then linear and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(
            *_hidden(D, 10), *_hidden(10, 8), *_hidden(8, 5), nn.Linear(5, G), nn.ReLU()
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(z)


class Residual(nn.Module):
    """Odd blocks add the output of the block before them."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(D, 10), (10, 10), (10, 10), (10, 10), (10, 10)]
        self.blocks = nn.ModuleList(nn.Sequential(*_hidden(*pair)) for pair in widths)
        self.final_layer = nn.Sequential(nn.Linear(10, G), nn.ReLU())

    def forward(self, z: Tensor) -> Tensor:
        first = self.blocks[0](z)
        second = self.blocks[1](first) + first
        third = self.blocks[2](second)
        fourth = self.blocks[3](third) + third
        return self.final_layer(self.blocks[4](fourth))


class Counts(nn.Module):
    """Means of a negative binomial; latent + one-hot batch in."""

    def __init__(self, latent: int = D, last: int = 9) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_hidden(latent, 9), *_hidden(9, 8), *_hidden(8, last))
        self.skip = nn.Identity() if latent == last else nn.Linear(latent, last, bias=False)
        self.post_norm = nn.LayerNorm(last)
        self.px_scale = nn.Linear(last, G)
        self.l_encoder = nn.Linear(last, 1)
        self.log_theta = nn.Parameter(torch.randn(G))

    def forward(self, z: Tensor) -> Tensor:
        h = self.post_norm(self.encoder(z) + self.skip(z))
        return torch.exp(self.l_encoder(h)) * functional.softplus(self.px_scale(h))


def _base(**changes: Any) -> dict[str, Tensor]:
    """Tensors of a network without decoder."""
    torch.manual_seed(0)
    values = {"n_encoder_layers": 1, "n_decoder_layers": 2, **changes}
    return PertSets(Architecture(D, D, P, SHAPE, **values)).state_dict()


def _with(decoder: nn.Module | None, **changes: Any) -> dict[str, Tensor]:
    found = {} if decoder is None else decoder.state_dict()
    return _base(**changes) | {f"gene_decoder.{name}": value for name, value in found.items()}


def _settings(**more: Any) -> dict[str, Any]:
    kwargs = {"num_attention_heads": 2, "bidirectional_attention": True}
    return {"embed_key": "an_embedding", "transformer_backbone_kwargs": kwargs, **more}


def _cells(n: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, D, generator=generator), torch.tensor([3, 1])


@pytest.mark.parametrize("make", [Plain, Residual, Counts, lambda: Counts(last=D)])
def test_a_decoder_computes_what_the_specification_says(make: Any) -> None:
    torch.manual_seed(0)
    decoder = make().eval()
    model = arc.load(_with(decoder), _settings())
    with torch.no_grad():
        found = model(*_cells())
        expected = decoder(found.cells)
    assert found.genes.shape == (2, 7, G)
    assert expected.std() > 0.01
    torch.testing.assert_close(found.genes, expected, rtol=1e-5, atol=1e-6)
    assert (found.cells < 0).any()  # an embedding is not cut off at zero
    assert (found.genes >= 0).all()


def test_a_decoder_of_counts_takes_the_batch_too() -> None:
    torch.manual_seed(0)
    decoder = Counts(latent=D + BATCHES).eval()
    tensors = _with(decoder, batch_encoder=True, batch_dim=BATCHES)
    model = arc.load(tensors, _settings())
    control, ids = _cells()
    batch = torch.arange(14).view(2, 7) % BATCHES
    with torch.no_grad():
        found = model(control, ids, batch)
        one_hot = functional.one_hot(batch, BATCHES).float()
        expected = decoder(torch.cat([found.cells, one_hot], -1))
    torch.testing.assert_close(found.genes, expected, rtol=1e-5, atol=1e-6)


def test_the_likelihood_of_counts_is_that_of_scipy() -> None:
    torch.manual_seed(0)
    decoder = NbDecoder(DecoderShape("nb", D, G, (8,)))
    decoder.log_theta.data.normal_()
    counts = torch.poisson(torch.full((2, 7, G), 3.0))
    mean = decoder(_cells()[0]) + 0.5
    theta = functional.softplus(decoder.log_theta).detach().double().numpy()
    mu = mean.detach().double().numpy()
    expected = -nbinom.logpmf(counts.numpy(), theta, theta / (theta + mu)).mean()
    loss = decoder.loss(mean, counts)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert decoder.log_theta.grad is not None
    assert decoder.log_theta.grad.abs().sum() > 0


def test_names_are_those_of_released_checkpoints() -> None:
    shape = DecoderShape("plain", 2000, 2000, (1024, 1024, 512))
    with torch.device("meta"):
        plain = DECODERS["plain"](shape)
    assert sum(p.numel() for p in plain.parameters()) == 4_654_544
    numbers = (0, 1, 4, 5, 8, 9, 12)
    assert set(plain.state_dict()) == {
        f"decoder.{n}.{w}" for n in numbers for w in ("weight", "bias")
    }


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(D, D, P, SHAPE, decoder=DecoderShape("residual", D, G, (8, 8))),
        Architecture(D, D, P, Gpt2Shape(16, 1, 2), activation="elu", batch_token=True, batch_dim=2),
        Architecture(D, D, P, SHAPE, down_then_up=True, confidence_token=True, relu=False),
    ],
)
def test_an_architecture_survives_json(architecture: Architecture) -> None:
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


def _checkpoint(
    path: Path, tensors: dict[str, Tensor], moved: Any = None, **settings: Any
) -> tuple[Path, dict[str, Tensor]]:
    """Write a Lightning checkpoint whose optimiser moved the tensors for which `moved` says so."""
    state = {i: {"step": torch.tensor(2.0)} for i, name in enumerate(tensors) if moved(name)}
    content = {
        "state_dict": tensors,
        "hyper_parameters": _settings(**settings),
        "optimizer_states": [{"state": state, "param_groups": []}],
    }
    torch.save(content, path)
    return path, tensors


@pytest.mark.parametrize("first", [True, False], ids=["decoder first", "decoder last"])
def test_a_decoder_without_moments_is_ignored_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: bool
) -> None:
    tensors = _with(Plain())
    tensors["transformer_backbone.embed_tokens.weight"] = torch.zeros(3, 16)
    order = sorted(tensors, key=lambda name: name.startswith("gene_decoder.") != first)
    tensors = {name: tensors[name] for name in order}

    def moved(name: str) -> bool:
        return not name.startswith(("gene_decoder.", "transformer_backbone.embed"))

    path, _ = _checkpoint(tmp_path / "a.ckpt", tensors, moved, embed_key="X_hvg")
    with caplog.at_level(logging.WARNING, "statetx.models"):
        model = arc.load(path)
    assert "the gene decoder is ignored, because it was never trained" in caplog.text
    assert str(path) in caplog.text
    assert model.architecture.decoder is None
    assert model(*_cells()).genes is None


def test_a_decoder_with_moments_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decoder = Plain().eval()
    path, _ = _checkpoint(tmp_path / "a.ckpt", _with(decoder), lambda name: True)
    model = arc.load(path)
    assert caplog.text == ""
    found = model(*_cells())
    torch.testing.assert_close(found.genes, decoder(found.cells), rtol=1e-5, atol=1e-6)


RELU = [
    # embed_key, output_space, decoder tensors, further settings; is the output cut off at zero?
    ("X_hvg", "gene", False, {}, True),
    (None, "gene", False, {}, True),
    ("an_embedding", "embedding", False, {}, True),
    ("an_embedding", "gene", True, {"decoder_cfg": {"dropout": 0.1}}, False),
    ("an_embedding", "gene", True, {}, False),
    # The original builds no decoder then, whatever its configuration says.
    ("an_embedding", "gene", False, {"decoder_cfg": {}, "gene_decoder_bool": False}, True),
    (
        *("an_embedding", "gene", False),
        {"decoder_cfg": {"latent_dim": D, "gene_dim": G}, "gene_decoder_bool": False},
        True,
    ),
]


@pytest.mark.parametrize(("key", "space", "decoder", "more", "cut"), RELU)
def test_the_output_is_cut_off_at_zero_where_the_original_does_it(
    key: str | None, space: str, decoder: bool, more: dict[str, Any], cut: bool
) -> None:
    tensors = _with(Plain() if decoder else None)
    model = arc.load(tensors, _settings(embed_key=key, output_space=space, **more))
    assert bool((model(*_cells()).cells < 0).any()) is not cut


@pytest.mark.parametrize("more", [{}, {"decoder_cfg": {"latent_dim": D, "gene_dim": G}}])
def test_an_ignored_decoder_does_not_change_the_cells(tmp_path: Path, more: dict[str, Any]) -> None:
    tensors = _with(Plain())
    path, _ = _checkpoint(
        tmp_path / "a.ckpt", tensors, lambda name: not name.startswith("gene_decoder."), **more
    )
    whole = arc.load(tensors, _settings(**more))
    np.testing.assert_array_equal(
        arc.load(path)(*_cells()).cells.detach(), whole(*_cells()).cells.detach()
    )


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({str(self.path)!r}, 'w')",))


def _refused(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        arc.load(path)
    assert caught.value.where == str(path)
    assert caught.value.fix


@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "elsewhere", "bare pickle"])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, place: str) -> None:
    path, trace = tmp_path / "a.ckpt", tmp_path / "it ran"
    content: dict[str, Any] = {"state_dict": _base(), "hyper_parameters": _settings()}
    content.setdefault(place, {})["loss_fn"] = Evil(trace)
    if place == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    _refused(path, "cannot read" if place == "bare pickle" else r"could run code: .*eval")
    assert not trace.exists()


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.MSELoss(reduction="sum"), "mse"])
def test_the_loss_object_that_some_checkpoints_hold_is_allowed(tmp_path: Path, loss: Any) -> None:
    path, tensors = _checkpoint(tmp_path / "a.ckpt", _base(), lambda _: True, loss_fn=loss)
    expected = arc.load(tensors, _settings())(*_cells()).cells
    torch.testing.assert_close(arc.load(path)(*_cells()).cells, expected)


def test_a_checkpoint_with_another_object_is_refused_by_name(tmp_path: Path) -> None:
    path, _ = _checkpoint(tmp_path / "a.ckpt", _base(), lambda _: True, loss_fn=nn.L1Loss())
    _refused(path, r"could run code: torch\.nn\.modules\.loss\.L1Loss")


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path, _ = _checkpoint(tmp_path / "a.ckpt", _base(), lambda _: True)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-30], whole[:100], b"", b"some text\n" * 50):
        path.write_bytes(part)
        _refused(path, "cannot read the checkpoint")
    _refused(tmp_path / "absent.ckpt", "cannot read the checkpoint")
    _refused(tmp_path, "cannot read the checkpoint")


FOREIGN: list[tuple[Any, str]] = [
    ({"weights": {}}, "not a Lightning checkpoint"),
    ([1, 2], "not a Lightning checkpoint"),
    ({"state_dict": [1]}, "not a Lightning checkpoint"),
    ({"state_dict": _base()}, "no hyper_parameters"),
    (
        {"state_dict": {}, "hyper_parameters": _settings()},
        "does not contain the tensors of pert_encoder",
    ),
    ({"state_dict": _base(), "hyper_parameters": [1]}, "hyper_parameters"),
]


@pytest.mark.parametrize(("content", "message"), FOREIGN, ids=[*"123456"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    _refused(tmp_path / "a.ckpt", message)


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    half = {name: value.bfloat16() for name, value in _base().items()}
    path, _ = _checkpoint(tmp_path / "a.ckpt", half, lambda _: True)
    model = arc.load(path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(*_cells()).cells.dtype == torch.float32


@pytest.mark.parametrize("identity", [4, -1, 1000])
def test_an_unknown_perturbation_id_is_refused(identity: int) -> None:
    model = arc.load(_base(), _settings())
    with pytest.raises(ModelError, match=f"id {identity} is outside the vocabulary of 4 labels"):
        model(_cells()[0], torch.tensor([0, identity]))
