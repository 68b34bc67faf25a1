"""What a network costs, against published numbers of weights and torch's own count of operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cost import (
    BYTES_PER_WEIGHT,
    ENERGY_PRODUCTS,
    SHARE,
    Cost,
    cost,
    flop_per_step,
    parameters,
    words,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape
from statetx.models.network.decoder import DecoderShape
from statetx.models.network.losses import energy
from statetx.models.network.set_transformer import PertSets

TAHOE = Shape(1488, 6, 12, 124, 5952)
RELEASED = Shape(768, 8, 12, 64, 3072)


def _decoder(latent: int) -> DecoderShape:
    return DecoderShape("plain", latent, 2000, (1024, 1024, 512))


def _tahoe(width: int, basal: bool) -> Architecture:
    return Architecture(
        width, width, 1138, TAHOE, use_basal_projection=basal, decoder=_decoder(width)
    )


PUBLISHED = [
    (_tahoe(2000, False), 238_175_824),
    (_tahoe(512, False), 232_222_336),
    # A released model, without its table of 32,000 unused token embeddings.
    (
        Architecture(
            *(2000, 2000, 1138, RELEASED),
            n_encoder_layers=1,
            n_decoder_layers=1,
            decoder=_decoder(2000),
        ),
        108_690_592 - 32_000 * 768,
    ),
]


@pytest.mark.parametrize(("architecture", "published"), PUBLISHED)
def test_weights_are_as_many_as_published(architecture: Architecture, published: int) -> None:
    assert parameters(architecture) == published
    found = cost(architecture, 1, 2, 1)
    assert found.parameters == published
    assert found.checkpoint_bytes == 4 * published
    assert found.state_bytes == 12 * published
    assert cost(architecture, 1, 2, 1, ema=True).state_bytes == 16 * published


def test_weights_are_counted_for_every_option() -> None:
    architecture = Architecture(
        *(16, 16, 5, Shape(24, 2, 3, 6, 40)),
        batch_dim=3,
        batch_encoder=True,
        confidence_token=True,
        down_then_up=True,
        decoder=DecoderShape("residual", 16, 11, (8, 8, 8)),
    )
    built = sum(p.numel() for p in PertSets(architecture).parameters())
    assert parameters(architecture) == built


OPTIONS: list[dict[str, Any]] = [
    {},
    {"n_encoder_layers": 1, "n_decoder_layers": 1},
    {"n_encoder_layers": 3, "use_basal_projection": False},
    {"decoder": DecoderShape("plain", 60, 33, (20, 10))},
    {"decoder": DecoderShape("residual", 60, 33, (20, 20, 20))},
    {"backbone": Shape(48, 3, 3, 20, 72, "causal")},
    {"backbone": Shape(32, 1, 8, 4, 128, "bidirectional_rope")},
    {"backbone": Shape(48, 2, 4, 12, 96, "alone")},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("sets", "cells"), [(4, 16), (1, 40), (6, 3)])
def test_operations_are_those_that_torch_counts(
    options: dict[str, Any], sets: int, cells: int
) -> None:
    values = {"backbone": Shape(48, 2, 4, 12, 96), "dropout": 0.0, **options}
    architecture = Architecture(60, 60, 9, **values)
    network = PertSets(architecture)
    control, target, genes = (torch.rand(sets, cells, n) for n in (60, 60, 33))
    # The fused attention of a CPU is not counted; that of single products is.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        predicted = network(control, torch.arange(sets))
        forward = counter.get_total_flops()
        loss = energy(predicted.cells, target).mean()
        if predicted.genes is not None:
            loss = loss + energy(predicted.genes, genes).mean()
        loss.backward()
    width = 60 if predicted.genes is None else 60 + 33
    told = flop_per_step(architecture, sets, cells)
    assert told == 3 * forward + 5 * 2 * sets * cells * cells * width
    # Backward spares the gradient of the network's input, and some of the loss.
    assert 0.8 < counter.get_total_flops() / told <= 1.0


def test_the_products_of_the_energy_loss_are_those_that_torch_counts() -> None:
    sets, cells, width = 3, 64, 256
    pred, target = (torch.rand(sets, cells, width) for _ in range(2))
    with FlopCounterMode(display=False) as counter:
        energy(pred.requires_grad_(), target).sum().backward()
    # Beside them stand centres and means: a row of weights with a set, or with its distances.
    products, rest = divmod(counter.get_total_flops(), 2 * sets * cells * cells * width)
    assert products == ENERGY_PRODUCTS
    assert rest < 2 * sets * cells * 4 * (cells + width)


def test_tokens_cost_less_than_a_cell_each() -> None:
    plain = Architecture(60, 60, 9, Shape(48, 2, 4, 12, 96), dropout=0.0)
    token = Architecture(60, 60, 9, Shape(48, 2, 4, 12, 96), dropout=0.0, confidence_token=True)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        PertSets(token)(torch.rand(2, 32, 60), torch.tensor([0, 1]))
    counted = 3 * counter.get_total_flops() + ENERGY_PRODUCTS * 2 * 2 * 32 * 32 * 60
    assert flop_per_step(plain, 2, 32) < counted < flop_per_step(plain, 2, 33)


def test_the_tahoe_recipe_costs_what_the_specification_says() -> None:
    architecture = Architecture(2000, 2000, 1138, TAHOE, use_basal_projection=False)
    found = cost(architecture, 64, 256, 100_000)
    # 22.7 TFLOP with the encoder of perturbations once per set, in the specification.
    assert found.flop_per_step == pytest.approx(22.7e12, rel=0.01)
    assert found.hours * SHARE == pytest.approx(0.8, rel=0.01)  # its floor, at the full rate
    assert 12 < found.memory_bytes / 2**30 < 18
    longer = cost(architecture, 64, 256, 200_000)
    assert longer.hours == pytest.approx(2 * found.hours)
    assert longer[:3] == found[:3]


def test_memory_grows_by_weights_and_by_cells() -> None:
    architecture = Architecture(60, 60, 9, Shape(48, 2, 4, 12, 96))
    n = parameters(architecture)
    sizes = [cost(architecture, sets, 16, 1).memory_bytes for sets in (1, 2, 3)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0
    assert 2 * sizes[0] - sizes[1] == BYTES_PER_WEIGHT * n
    average = cost(architecture, 1, 16, 1, ema=True).memory_bytes
    assert average - sizes[0] == 4 * n


@pytest.mark.parametrize(
    ("hours", "said"),
    [(26.0, "26 hours"), (0.5, "0.5 hours"), (0.05, "3 minutes"), (0.001, "under a minute")],
)
def test_a_cost_in_words(hours: float, said: str) -> None:
    found = Cost(28_900_000, int(1.5e12), int(3e9), hours, int(1.2e8), int(4e8))
    text = words(found, 40_000)
    assert f"40,000 steps in {said} at the rate of an H200" in text
    assert text.startswith("28.9 M weights, 1.5 TFLOP per step")
    assert text.endswith("3 GB, 0.12 GB per checkpoint")
