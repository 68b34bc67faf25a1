"""The energy loss against geomloss, against float64 by definition, and at its singular points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from statetx.models.losses import energy


def _sets(seed: int, sets: int = 3, cells: int = 20, genes: int = 60) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.relu(torch.randn(sets, cells, genes, generator=generator)) + 2.0
    y = torch.relu(torch.randn(sets, cells, genes, generator=generator) + 0.3) + 2.0
    return x, y


def _by_definition(x: np.ndarray, y: np.ndarray) -> float:
    return cdist(x, y).mean() - 0.5 * cdist(x, x).mean() - 0.5 * cdist(y, y).mean()


def test_equals_the_definition_in_float64() -> None:
    x, y = _sets(0)
    expected = [
        _by_definition(a, b) for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(energy(x, y).numpy(), expected, rtol=2e-5)
    np.testing.assert_allclose(energy(x.double(), y.double()).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("genes", [1, 60])
def test_agrees_with_geomloss_in_value_and_gradient(genes: int) -> None:
    geomloss = pytest.importorskip("geomloss")
    x, y = _sets(1, genes=genes)
    # In float64, where geomloss is exact but for its 1e-4 on the diagonals (1e-4 / S in value); in
    # float32 it is itself 5e-4 off on these cells.
    exact = x.double().requires_grad_()
    theirs = geomloss.SamplesLoss("energy", blur=0.05)(exact, y.double())
    (their_gradient,) = torch.autograd.grad(theirs.sum(), exact)
    x.requires_grad_()
    ours = energy(x, y)
    (our_gradient,) = torch.autograd.grad(ours.sum(), x)
    atol = 1e-5 if genes == 1 else 0  # one gene: E itself is small
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=atol)
    torch.testing.assert_close(our_gradient.double(), their_gradient, rtol=1e-3, atol=1e-6)


def test_gradient_is_right_in_float64() -> None:
    x, y = (part[:, :5, :4].double() for part in _sets(2))
    assert torch.autograd.gradcheck(lambda a: energy(a, y), (x.clone().requires_grad_(),))


def test_offset_far_from_the_origin_costs_no_digits() -> None:
    x, y = _sets(3)
    plain, moved = energy(x, y), energy(x + 300.0, y + 300.0)
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=0)


def test_a_narrow_prediction_far_from_the_target_keeps_its_own_distances() -> None:
    # A collapsed set far away: centring both on the target alone would lose |x_i - x_j|.
    generator = torch.Generator().manual_seed(4)
    y = torch.randn(1, 12, 30, generator=generator, dtype=torch.float64)
    x = 50.0 + 1e-3 * torch.randn(1, 12, 30, generator=generator, dtype=torch.float64)

    def own(pred: torch.Tensor) -> torch.Tensor:
        pred = pred.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(pred, y.to(pred.dtype)).sum(), pred)
        return (gradient - gradient.mean(dim=1, keepdim=True)).double()  # the spreading part

    single, exact = own(x.float()), own(x)
    assert torch.linalg.norm(single - exact) < 0.05 * torch.linalg.norm(exact)


def test_equal_points_have_value_zero_and_no_gradient() -> None:
    x, _ = _sets(5)
    pred = x.clone().requires_grad_()
    value = energy(pred, x)
    value.sum().backward()
    assert value.abs().max() < 1e-4
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all()
    collapsed = torch.ones(2, 6, 4, requires_grad=True)
    energy(collapsed, torch.ones(2, 6, 4)).sum().backward()
    assert collapsed.grad is not None
    assert (collapsed.grad == 0).all()


def test_bfloat16_autocast_does_not_touch_it() -> None:
    x, y = _sets(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = energy(x, y)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, energy(x, y))


def test_sets_of_different_size() -> None:
    x, y = _sets(7)
    expected = _by_definition(x[0].double().numpy(), y[0, :7].double().numpy())
    assert energy(x[:1], y[:1, :7]).item() == pytest.approx(expected, rel=2e-5)
