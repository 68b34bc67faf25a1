"""Products of a CPU in bfloat16: the network's, never the loss's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_model import small

from statetx.models.network.losses import energy

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has bfloat16 by default")


@pytest.fixture
def bfloat16() -> Any:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@CPU_ONLY
def test_training_goes_the_same_way_and_leaves_no_setting_behind(
    train: Callable[..., Path],
) -> None:
    before = torch.get_float32_matmul_precision()
    runs = {
        precision: train(small(max_steps=30, precision=precision, dropout=0.0), name=precision)
        for precision in ("auto", "float32", "bfloat16")
    }
    assert torch.get_float32_matmul_precision() == before
    weights = {name: load_file(out / "last.safetensors") for name, out in runs.items()}
    for name, array in weights["float32"].items():
        np.testing.assert_array_equal(weights["auto"][name], array, err_msg=name)
    loss = {
        name: np.genfromtxt(out / "metrics.csv", delimiter=",", names=True)["val_loss"]
        for name, out in runs.items()
    }
    np.testing.assert_allclose(loss["bfloat16"], loss["float32"], rtol=0.01)


@CPU_ONLY
@pytest.mark.usefixtures("bfloat16")
def test_the_energy_loss_keeps_its_digits() -> None:
    """Near cells far from others, where factors of 3 digits would leave noise."""
    generator = torch.Generator().manual_seed(0)
    x = (3 + torch.rand(2, 40, 300, generator=generator)).requires_grad_()
    y = x.detach() + 0.01 * torch.rand(2, 40, 300, generator=generator)
    wide = x.detach().double().requires_grad_()
    got, exact = energy(x, y), energy(wide, y.double())
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-6)
    (slope,), (expected,) = (
        torch.autograd.grad(value.sum(), cells) for value, cells in ((got, x), (exact, wide))
    )
    torch.testing.assert_close(slope.double(), expected, rtol=1e-3, atol=1e-6)
    assert torch.get_float32_matmul_precision() == "medium"
