"""The recipes: complete, buildable, and true about what they cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cost import Cost, cost, words

from statetx.config import load
from statetx.config.models import PertSets as Settings
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape
from statetx.models.network.decoder import DecoderShape
from statetx.models.network.set_transformer import PertSets

HOME = Path(__file__).parents[2] / "config" / "recipes"
RECIPES = sorted(path.stem for path in HOME.glob("*.yaml"))
LABELS = {"tahoe_hvg": 1138, "tahoe_mosaicfm": 1138, "small_gpu": 500, "cpu": 100}
"""Perturbations, control included, for which the costs are told."""
WIDTHS = {"mosaicfm-70m-merged": 512}


def network(name: str) -> tuple[Settings, Architecture]:
    """Return settings and architecture of a recipe's network, as training would build it."""
    model = load(HOME / f"{name}.yaml").models["pertsets"]
    assert isinstance(model, Settings)
    assert model.genes is not None
    genes, decoder = model.genes.n_hvg, None
    width = genes
    if model.gene_decoder is not None:
        width = WIDTHS[str(model.embed_key)]
        wanted = model.gene_decoder
        decoder = DecoderShape(wanted.kind, width, genes, tuple(wanted.hidden_dims), wanted.dropout)
    return model, Architecture(
        input_dim=width,
        output_dim=width,
        pert_dim=LABELS[name],
        backbone=Shape(hidden_size=model.hidden_dim, **model.backbone.model_dump()),
        n_encoder_layers=model.n_encoder_layers,
        n_decoder_layers=model.n_decoder_layers,
        dropout=model.dropout,
        decoder=decoder,
    )


def told(name: str) -> Cost:
    model, architecture = network(name)
    training = model.training
    return cost(
        architecture,
        training.batch_size,
        model.cell_set_len,
        training.max_steps,
        bool(training.ema_decay),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_costs(name: str) -> None:
    model, _ = network(name)
    assert words(told(name), model.training.max_steps) in (HOME / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_and_its_weights_are_counted_right(name: str) -> None:
    _, architecture = network(name)
    with torch.device("meta"):
        built = PertSets(architecture)
    assert sum(p.numel() for p in built.parameters()) == told(name).parameters


def test_the_tahoe_recipe_has_the_published_backbone() -> None:
    model, architecture = network("tahoe_hvg")
    with torch.device("meta"):
        backbone = PertSets(architecture).transformer_backbone
    assert sum(p.numel() for p in backbone.parameters()) == 212_577_168
    assert (model.training.max_steps, model.training.batch_size, model.cell_set_len) == (
        300_000,
        64,
        256,
    )
    config = load(HOME / "tahoe_hvg.yaml")
    assert config.tracking.project == "state_tx_tahoe"
    assert config.datasets["tahoe"].control_pert == ["DMSO_TF_00", "DMSO_TF"]


def test_flop_agree_with_a_count_by_torch() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from statetx.models.network.losses import energy

    shape = Shape(48, 2, 4, 12, 96)
    architecture = Architecture(
        60, 60, 9, shape, n_encoder_layers=3, n_decoder_layers=2, dropout=0.0
    )
    network = PertSets(architecture)
    control, target = torch.rand(4, 16, 60), torch.rand(4, 16, 60)
    with FlopCounterMode(display=False) as counter:
        cells = network(control, torch.tensor([0, 3, 8, 3])).cells
        energy(cells, target).mean().backward()
    counted = counter.get_total_flops()
    # The gradient of the first layers' input and of the self-distances of the target is not needed.
    assert 0.85 < counted / cost(architecture, 4, 16, 1).flop_per_step < 1.02
