"""Training steps of the Tahoe recipe on a GPU: time, share of the device's rate, and the same numbers
as on a CPU.

    python benchmarks/gpu.py [--quick] [--profile]

Needs torch, numpy, lightning and the source (`PYTHONPATH=src`), no data: the sets are random. A step is
forward, energy loss, backward, clipping and AdamW of 64 sets of 256 cells and 2,000 genes in bfloat16,
taken by the trainer's own module. Its model FLOP are counted from the shapes (three times the forward
pass), the device's rate is that of an 8192 x 8192 x 8192 bfloat16 product in the same run. Without a CUDA
device it says so and ends.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from common import finish
from cost import flop_per_step

from statetx.config import Training
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape
from statetx.models.network.losses import energy
from statetx.models.network.set_transformer import PertSets
from statetx.training.loop.lightning_module import Batch, PertSetsModule

SETS, CELLS, GENES, LABELS = 64, 256, 2000, 1138
RECIPE = Architecture(GENES, GENES, LABELS, Shape(1488, 6, 12, 124, 5952))
SMALL = Architecture(300, 300, 20, Shape(96, 2, 4, 24, 256), dropout=0.0)


def sets(architecture: Architecture, n_sets: int, cells: int, dtype: torch.dtype) -> Batch:
    """Return random sets, a tenth of whose values are not zero."""
    generator = torch.Generator().manual_seed(0)
    shape = (n_sets, cells, architecture.input_dim)
    control, target = (
        torch.rand(shape, generator=generator)
        .mul(3)
        .mul(torch.rand(shape, generator=generator) < 0.1)
        for _ in range(2)
    )
    ids = torch.randint(architecture.pert_dim, (n_sets,), generator=generator)
    return Batch(control.to(dtype), target.to(dtype), ids, torch.zeros(n_sets, dtype=torch.long))


def on(batch: Batch, device: str) -> Batch:
    """Move a batch."""
    return Batch(*(None if t is None else t.to(device) for t in batch))


def seconds(one: Callable[[], object], times: int, skip: int = 3) -> float:
    """Return the median of the times of a call, each waited for."""
    found = []
    for number in range(times + skip):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        one()
        torch.cuda.synchronize()
        if number >= skip:
            found.append(time.perf_counter() - begin)
    return median(found)


def running(one: Callable[[], object], times: int) -> float:
    """Return the seconds per call of calls in a row, as in training."""
    for _ in range(5):
        one()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        one()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / times


def product_rate(n: int = 8192) -> float:
    """Return the FLOP/s of a bfloat16 product of random n x n matrices."""
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / running(lambda: a @ b, 30)


def parity() -> dict[str, float]:
    """Return the largest relative differences between GPU and CPU: loss and gradients, fp32 and bf16."""
    torch.manual_seed(0)
    network = PertSets(SMALL).double()
    batch = sets(SMALL, 4, 32, torch.float64)
    exact = energy(network(batch.control, batch.perturbation).cells, batch.target).mean()
    exact.backward()
    truth = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    out = {}
    for name, low in (("fp32", False), ("bf16", True)):
        there = PertSets(SMALL).to("cuda")
        there.load_state_dict({k: v.float() for k, v in network.state_dict().items()})
        here = on(sets(SMALL, 4, 32, torch.float32), "cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=low):
            cells = there(here.control, here.perturbation).cells
        loss = energy(cells, here.target).mean()
        loss.backward()
        found = torch.cat([p.grad.flatten() for p in there.parameters() if p.grad is not None])
        difference = (found.cpu().double() - truth).norm() / truth.norm()
        out[f"{name}_loss"] = abs(float(loss) / float(exact) - 1)
        out[f"{name}_gradient"] = float(difference)
    return out


def stepper(compiled: bool) -> Callable[[Batch], None]:
    """Return a function that takes one training step by the trainer's module, without the trainer."""
    torch.manual_seed(0)
    module = PertSetsModule(PertSets(RECIPE), Training(weight_decay=5e-4), 0).to("cuda")
    if compiled:
        module.model.compile()
    optimizer = module.configure_optimizers()

    def step(batch: Batch) -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            predicted = module.model(batch.control, batch.perturbation)
            total, _, _ = module.objective.total(predicted, batch)
        total.backward()
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Measure rate, parity, and steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller, under 50 s: no compilation")
    parser.add_argument("--profile", action="store_true", help="print the kernels of a step")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing was measured")
    torch.set_float32_matmul_precision("high")
    rate = product_rate()
    found = parity()
    print(found, flush=True)
    batch = on(sets(RECIPE, SETS, CELLS, torch.bfloat16), "cuda")
    flop = flop_per_step(RECIPE, SETS, CELLS)
    rows: list[dict[str, Any]] = []
    for compiled in (False,) if options.quick else (False, True):
        step = stepper(compiled)
        begin = time.perf_counter()
        step(batch)
        torch.cuda.synchronize()
        first = time.perf_counter() - begin
        per_step = running(lambda step=step: step(batch), 10 if options.quick else 40)
        rows.append(
            {
                "compiled": compiled,
                "first_step_s": round(first, 1),
                "step_ms": round(per_step * 1e3, 2),
                "pairs_per_s": round(SETS * CELLS / per_step),
                "tflop_per_s": round(flop / per_step / 1e12, 1),
                "share_of_rate": round(flop / per_step / rate, 3),
                "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1),
            }
        )
        print(rows[-1], flush=True)
        if options.profile:
            kinds = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
            with torch.profiler.profile(activities=kinds) as profile:
                for _ in range(3):
                    step(batch)
                torch.cuda.synchronize()
            print(
                profile.key_averages().table(
                    sort_by="self_cuda_time_total", row_limit=25, max_name_column_width=60
                )
            )
        del step
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    cells = on(sets(RECIPE, SETS, CELLS, torch.float32), "cuda")
    pred = cells.control.requires_grad_()
    loss_ms = seconds(lambda: energy(pred, cells.target).mean().backward(), 10) * 1e3
    figures = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "bf16_tflop_per_s": round(rate / 1e12),
        "tflop_per_step": round(flop / 1e12, 1),
        "energy_ms": round(loss_ms, 2),
        **{key: float(f"{value:.2g}") for key, value in found.items()},
    }
    finish("gpu_quick" if options.quick else "gpu", rows, figures)


if __name__ == "__main__":
    main()
