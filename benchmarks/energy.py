"""The energy loss beside geomloss: time of a forward and backward pass, errors against float64.

    python benchmarks/energy.py [--quick]

16 sets of 128 cells and 2,000 genes. Both take turns; times are medians. Errors: relative, of the value
(mean over sets) and of the gradient (norm of the difference), far from convergence (predicted cells are
other cells) and near it (predicted cells are the real ones with noise of a tenth). Inputs in float32, or
rounded to bfloat16 and multiplied under autocast as in training on a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from common import arguments, finish
from geomloss import SamplesLoss
from torch import Tensor

from statetx.models.network.losses import energy

SETS, CELLS, GENES = 16, 128, 2000
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "statetx": energy,
    "geomloss": SamplesLoss("energy"),
}


def cells(sets: int, generator: torch.Generator) -> Tensor:
    """Return sets of cells like log1p expression: a tenth of the genes not zero, [sets, S, G]."""
    shape = (sets, CELLS, GENES)
    level = torch.rand(GENES, generator=generator) * 2
    kept = torch.rand(shape, generator=generator) < 0.1
    return (level + torch.rand(shape, generator=generator)) * kept


def passed(
    loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, low: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the mean loss and its gradient; `low`: the loss under bfloat16 autocast."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        value = loss(x, y).mean()
    value.backward()
    assert x.grad is not None
    return value.detach(), x.grad


def exact(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same in float64, by differences, set by set."""

    def one(a: Tensor, b: Tensor) -> Tensor:
        def mean(u: Tensor, v: Tensor, same: bool) -> Tensor:
            squared = torch.stack([(row - v).square().sum(-1) for row in u])
            if same:
                squared = squared + torch.eye(len(u), dtype=squared.dtype)
                return (squared.sqrt() - torch.eye(len(u), dtype=squared.dtype)).mean()
            return squared.sqrt().mean()

        return mean(a, b, False) - 0.5 * mean(a, a, True) - 0.5 * mean(b, b, True)

    return passed(
        lambda a, b: torch.stack([one(p, q) for p, q in zip(a, b, strict=True)]),
        x.double(),
        y.double(),
    )


def errors(sets: int) -> list[dict[str, Any]]:
    """Return relative errors of both losses, by input and distance."""
    generator = torch.Generator().manual_seed(0)
    real = cells(sets, generator)
    far = cells(sets, generator)
    near = (real + 0.1 * torch.randn(real.shape, generator=generator)).clamp_min(0)
    rows = []
    for where, pred in (("far", far), ("near", near)):
        for kind in ("float32", "bfloat16"):
            x, y = pred, real
            if kind == "bfloat16":
                x, y = x.bfloat16().float(), y.bfloat16().float()
            value, gradient = exact(x, y)
            for name, loss in LOSSES.items():
                got, slope = passed(loss, x, y, kind == "bfloat16")
                rows.append(
                    {
                        "loss": name,
                        "where": where,
                        "input": kind,
                        "value_error": f"{abs(got.double() / value - 1).item():.2g}",
                        "gradient_error": f"{((slope - gradient).norm() / gradient.norm()).item():.2g}",
                        "ms": "",
                    }
                )
    return rows


def main() -> None:
    """Time in turns, then errors."""
    options = arguments((__doc__ or "").split("\n")[0])
    generator = torch.Generator().manual_seed(1)
    x, y = cells(SETS, generator), cells(SETS, generator)
    times: dict[str, list[float]] = {name: [] for name in LOSSES}
    for number in range(3 if options.quick else 12):
        for name, loss in LOSSES.items():
            begin = time.perf_counter()
            passed(loss, x, y)
            if number:
                times[name].append(1e3 * (time.perf_counter() - begin))
    rows = [
        {
            "loss": name,
            "where": "",
            "input": "float32",
            "value_error": "",
            "gradient_error": "",
            "ms": round(median(t), 1),
        }
        for name, t in times.items()
    ]
    rows += errors(2 if options.quick else 4)
    for row in rows:
        print(row)
    figures = {f"{name}_ms": round(median(t), 1) for name, t in times.items()}
    ratio = median(a / b for a, b in zip(times["geomloss"], times["statetx"], strict=True))
    finish(
        "energy_quick" if options.quick else "energy",
        rows,
        {**figures, "geomloss / statetx": round(ratio, 2)},
    )


if __name__ == "__main__":
    main()
