"""Losses against geomloss, against float64 by definition, and at their singular points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from statetx.models.network.losses import (
    LOSSES,
    chunked,
    combined,
    energy,
    mse,
    sinkhorn,
    to_control,
)


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


@pytest.mark.parametrize(("sets", "cells", "genes"), [(1, 2, 1), (2, 33, 7), (4, 5, 300)])
def test_energy_of_any_shape_equals_scipy(sets: int, cells: int, genes: int) -> None:
    x, y = _sets(8, sets, cells, genes)
    expected = [_by_definition(*pair) for pair in zip(x.numpy(), y.numpy(), strict=True)]
    np.testing.assert_allclose(energy(x, y), expected, rtol=1e-4, atol=2e-6)


def test_energy_of_half_precision_input_is_that_of_its_float32() -> None:
    x, y = (part.bfloat16() for part in _sets(9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = energy(x, y)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, energy(x.float(), y.float()), rtol=0, atol=0)


def test_energy_does_not_depend_on_the_order_of_cells_nor_on_other_sets() -> None:
    x, y = _sets(10)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(energy(x[:, order], y), energy(x, y), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(energy(x[1:2], y[1:2])[0], energy(x, y)[1], rtol=1e-5, atol=0)


def test_two_equal_cells_among_others_have_the_gradient_of_the_others() -> None:
    x, y = (part[:1, :6].double() for part in _sets(11))
    x[0, 1] = x[0, 0]
    y[0, 2] = x[0, 3]  # a prediction that hits a real cell exactly
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x, y).sum(), x)
    expected = torch.zeros_like(gradient)
    with torch.no_grad():
        for i in range(6):
            for others, weight in ((y[0], 1 / 36), (x[0], -1 / 36)):
                away = x[0, i] - others
                length = away.norm(dim=1, keepdim=True)
                expected[0, i] += weight * torch.where(length > 0, away / length, 0.0).sum(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


def _cost(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 0.5 * torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def _sinkhorn_by_definition(x: torch.Tensor, y: torch.Tensor, blur: float = 0.05) -> torch.Tensor:
    """Debiased, symmetric, annealed from the diameter of the whole batch; float64 [B]."""
    points = torch.cat([x, y], 1).flatten(0, 1)
    diameter = (points.max(0).values - points.min(0).values).norm().item()
    start, stop, step = 2 * np.log(diameter), 2 * np.log(blur), 2 * np.log(0.5)
    schedule = [diameter**2, *np.exp(np.arange(start, stop, step)), blur**2]
    n, m = x.shape[1], y.shape[1]
    costs = {"xy": _cost(x, y), "yx": _cost(y, x), "xx": _cost(x, x), "yy": _cost(y, y)}
    logs = {"x": -np.log(n), "y": -np.log(m)}

    def soft(eps: float, name: str, potential: torch.Tensor) -> torch.Tensor:
        inside = logs[name[1]] + (potential[:, None, :] - costs[name]) / eps
        return -eps * inside.logsumexp(2)

    nothing = {"x": x.new_zeros(len(x), n), "y": x.new_zeros(len(x), m)}
    f = {name: soft(schedule[0], name, nothing[name[1]]) for name in costs}
    swap = {"xy": "yx", "yx": "xy", "xx": "xx", "yy": "yy"}
    for eps in schedule:
        f = {name: 0.5 * (f[name] + soft(eps, name, f[swap[name]])) for name in f}
    f = {name: soft(schedule[-1], name, f[swap[name]]) for name in f}
    return (f["xy"] - f["xx"]).mean(1) + (f["yx"] - f["yy"]).mean(1)


def test_sinkhorn_equals_its_definition_and_geomloss() -> None:
    geomloss = pytest.importorskip("geomloss")
    x, y = _sets(12, cells=12, genes=9)
    x.requires_grad_()
    ours = sinkhorn(x, y)
    expected = _sinkhorn_by_definition(x.detach().double(), y.double())
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)
    theirs = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.5, debias=True)(x, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    both = [torch.autograd.grad(loss.sum(), x)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sinkhorn(x, y), ours)
    torch.testing.assert_close(combined(x, y), energy(x, y) + 0.01 * ours)
    weighted = combined(x, y, sinkhorn_weight=0.5)
    torch.testing.assert_close(weighted, energy(x, y) + 0.5 * ours)


def test_mse_is_one_value_per_set_and_counts_cells_only() -> None:
    x, y = _sets(13, sets=2, cells=6, genes=5)
    expected = ((x - y) ** 2).mean(dim=(1, 2))
    torch.testing.assert_close(mse(x, y), expected)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    masked = torch.stack([((x - y)[0, :4] ** 2).mean(), expected[1]])
    torch.testing.assert_close(mse(x, y, mask), masked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mse(x, y), mse(x.float(), y))


def test_distance_to_control_is_the_mean_of_every_set() -> None:
    x, y = _sets(14, sets=2, cells=3, genes=4)
    torch.testing.assert_close(to_control(x, y), (x - y).abs().mean(dim=(1, 2)))
    x.requires_grad_()
    to_control(x, y).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (x - y).sign() / 12)


@pytest.mark.parametrize("name", LOSSES)
def test_chunks_average_the_loss_of_stretches(name: str) -> None:
    x, y = _sets(15, sets=2, cells=6, genes=7)
    loss = LOSSES[name]
    parts = [slice(0, 3), slice(3, 5), slice(5, 7)]
    expected = sum(loss(x[..., part], y[..., part]) for part in parts) / 3
    torch.testing.assert_close(chunked(loss, x, y, 3), expected)
    torch.testing.assert_close(chunked(loss, x, y, 1), loss(x, y))
    order = torch.tensor([6, 0, 3, 1, 5, 2, 4])
    shuffled = chunked(loss, x, y, 3, order)
    torch.testing.assert_close(shuffled, chunked(loss, x[..., order], y[..., order], 3))
    assert not torch.allclose(shuffled, expected) or name == "mse"


@pytest.mark.parametrize("name", LOSSES)
def test_more_chunks_than_features_are_as_many_as_features(name: str) -> None:
    x, y = _sets(16, sets=2, cells=6, genes=3)
    torch.testing.assert_close(chunked(LOSSES[name], x, y, 5), chunked(LOSSES[name], x, y, 3))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_zero_at_its_target_and_falls_on_the_way_there(name: str) -> None:
    x, y = _sets(17, sets=2, cells=6, genes=5)
    values = [LOSSES[name](x + share * (y - x), y) for share in (0.0, 0.5, 1.0)]
    assert (values[0] > values[1]).all()
    assert (values[1] > values[2]).all()
    assert values[2].abs().max() < 1e-4


@pytest.mark.parametrize("enabled", [True, False])
def test_losses_leave_gradients_switched_as_they_were(enabled: bool) -> None:
    x, y = _sets(18, sets=1, cells=4, genes=3)
    for loss in LOSSES.values():
        with torch.set_grad_enabled(enabled):
            loss(x, y)
            assert torch.is_grad_enabled() is enabled


def test_gradients_of_sets_of_different_size_weight_and_mask() -> None:
    x, y = (part[:, :7, :4].double() for part in _sets(19))
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    mask = torch.tensor([[True] * 5 + [False] * 2, [True] * 7, [False] * 3 + [True] * 4])
    for other, rows in ((y[:, :5], None), (y, mask)):
        own = x.clone().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda a, b=other, m=rows: energy(a, b, m) * weights, (own,)
        )
    # Into the target flows what comes over the distances between the sets only.
    target = y[:, :5].clone().requires_grad_()
    (gradient,) = torch.autograd.grad((energy(x, target) * weights).sum(), target)
    again = y[:, :5].clone().requires_grad_()
    cross = torch.cdist(x, again, compute_mode="donot_use_mm_for_euclid_dist").mean(dim=(1, 2))
    (expected,) = torch.autograd.grad((cross * weights).sum(), again)
    torch.testing.assert_close(gradient, expected)
