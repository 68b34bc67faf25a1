"""Sets with rows that are no cells: the same as without those rows."""

from __future__ import annotations

import numpy as np
import torch

from statetx.models.network.backbone import Shape
from statetx.models.network.losses import energy
from statetx.models.network.set_transformer import Architecture, PertSets


def network() -> PertSets:
    torch.manual_seed(0)
    shape = Shape(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=8,
        intermediate_size=24,
        attention="bidirectional",
    )
    architecture = Architecture(
        input_dim=7,
        output_dim=7,
        pert_dim=3,
        backbone=shape,
        n_encoder_layers=2,
        n_decoder_layers=2,
        dropout=0.0,
        use_basal_projection=True,
        predict_residual=True,
        relu=True,
    )
    return PertSets(architecture).eval()


def padded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    control = torch.rand(2, 6, 7, generator=generator)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    return control, torch.tensor([1, 2]), mask


def test_predictions_of_cells_do_not_see_what_is_masked() -> None:
    model = network()
    control, ids, mask = padded()
    short = model(control[:1, :4], ids[:1]).cells
    found = model(control, ids, mask=mask).cells
    torch.testing.assert_close(found[:1, :4], short)
    other = control.clone()
    other[0, 4:] = 50.0
    torch.testing.assert_close(model(other, ids, mask=mask).cells[mask], found[mask])
    torch.testing.assert_close(found[1:], model(control[1:], ids[1:]).cells)
    assert not torch.allclose(model(other, ids).cells[0, :4], short[0])


def test_the_loss_counts_cells_only_in_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(2, 6, 5, generator=generator, requires_grad=True)
    y = torch.rand(2, 6, 5, generator=generator)
    mask = padded()[2]
    masked = energy(x, y, mask)
    parts = [energy(x[:1, :4], y[:1, :4])[0], energy(x[1:], y[1:])[0]]
    np.testing.assert_allclose(masked.detach(), [p.item() for p in parts], rtol=1e-5)
    (gradient,) = torch.autograd.grad(masked.sum(), x, retain_graph=True)
    (expected,) = torch.autograd.grad(sum(parts), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert (gradient[0, 4:] == 0).all()
    assert energy(x, y, torch.ones_like(mask)).allclose(energy(x, y))
