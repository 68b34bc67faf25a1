"""Rank-sum tests and sums over pairs of cells on a GPU beside the CPU: the same numbers, and the ratio.

    python benchmarks/evaluate_gpu.py [--quick]

Needs numpy, scipy, numba, torch and the source (`PYTHONPATH=src`), no data: the cells are random
log1p values, float32 CSR. Both ways are the public functions, in turns in one process, warm: `de`
sorts the controls and tests every label (from CSR to p), `pairs` takes the sums of distances and 16
kernels of prediction and truth within and between, and of distances from the controls. Calls too
small to be worth a GPU stay on the CPU in both. The CPU has all its cores (the first line says how
many). U and p must be identical, mean distances (relative) and kernels (absolute) equal to 1e-6.
`share` is that of the GPU's rate of float32 products, measured in the same run. Without a CUDA
device it says so and ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any
from unittest import mock

import numba
import numpy as np
import torch
from common import arguments, finish
from scipy import sparse

from statetx.evaluation.numerics import pair_sums as pairs
from statetx.evaluation.numerics import rank_sum_gpu as gpu_ranks
from statetx.evaluation.numerics.pair_sums import Cloud, centre_of, pair_sums
from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.numerics.sorted_cells import SortedCells
from statetx.evaluation.scores.energy_and_mmd import CELLOT, gamma_grid

CASES = {  # name -> controls, labels, cells per label, genes, share of values that are not zero
    "many controls": (20_000, 40, 150, 3_000, 0.2),
    "Tahoe-like": (10_000, 40, 300, 2_000, 0.1),
    "large labels": (2_000, 30, 811, 2_000, 0.3),
    "all genes": (10_000, 10, 300, 18_000, 0.1),
}
Arrays = list[np.ndarray]


@contextlib.contextmanager
def on(device: torch.device | None) -> Iterator[None]:
    """Let this device be the GPU that the functions find; None: there is none."""
    with contextlib.ExitStack() as stack:
        for module, name in ((gpu_ranks, "gpu"), (gpu_ranks, "gpu_at_work"), (pairs, "gpu")):
            stack.enter_context(mock.patch.object(module, name, return_value=device))
        yield


def cells(n: int, genes: int, density: float, seed: int) -> sparse.csr_matrix:
    """Draw log1p values of counts of one depth per cell, with many ties."""
    generator = np.random.default_rng(seed)
    found = sparse.random(n, genes, density, "csr", random_state=generator)
    counts = generator.poisson(1.0, found.nnz) + 1
    depth = np.repeat(generator.integers(2_000, 2_200, n), np.diff(found.indptr))
    found.data = np.log1p(1e4 * counts / depth)
    return found.astype(np.float32)


def tests(control: sparse.csr_matrix, labels: list[sparse.csr_matrix]) -> Arrays:
    """Return U and p of every label, from the cells as they are stored."""
    ranked = SortedControl.from_cells(control)
    return [values for label in labels for values in ranked.test(SortedCells.from_cells(label))]


def sums(control: sparse.csr_matrix, labels: list[sparse.csr_matrix]) -> Arrays:
    """Return means over pairs of two labels at a time, one of which predicts the other."""
    centre = centre_of(control)
    spread = float((control.power(2).mean(axis=0) - np.square(centre)).sum())
    grid = gamma_grid(2 * spread)
    gammas = [*grid, *CELLOT, *(4 * gamma for gamma in grid)]
    far, found = Cloud(control, centre), []

    def mean(x: Cloud, y: Cloud | None, widths: Sequence[float] = ()) -> None:
        found.append(pair_sums(x, y, widths) / (len(x) * len(x if y is None else y)))

    for one, two in zip(labels[::2], labels[1::2], strict=True):
        x, y = Cloud(one, centre), Cloud(two, centre)
        for left, right in ((x, None), (y, None), (x, y)):
            mean(left, right, gammas)
        mean(x, far)
        mean(y, far)
    return found


def flop(controls: int, labels: int, each: int, genes: int) -> float:
    """FLOP of the products of `sums`; within, every pair counts once."""
    return labels / 2 * 2.0 * genes * (2 * each**2 + 2 * each * controls)


def largest(found: Arrays, expected: Arrays) -> float:
    """Largest difference, relative to what is larger than 1 (U, distances), else absolute (p, kernels)."""
    return max(
        float((np.abs(one - other) / np.maximum(np.abs(other), 1.0)).max())
        for one, other in zip(found, expected, strict=True)
    )


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, n: int) -> float:
    """FLOP/s of float32 products of n x n matrices."""
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    for times in (2, 10):
        wait(device)
        begin = time.perf_counter()
        for _ in range(times):
            a @ b
        wait(device)
    return 10 * 2.0 * n**3 / (time.perf_counter() - begin)


def beside(
    what: Callable[[Any, Any], Arrays], given: tuple[Any, Any], device: torch.device, rounds: int
) -> tuple[float, float, float]:
    """Return seconds on the CPU and on the device, medians in turns, and the largest difference."""
    took: dict[str, list[float]] = {"cpu": [], "gpu": []}
    found: dict[str, Arrays] = {}
    for number in range(rounds + 1):
        for name, where in (("cpu", None), ("gpu", device)):
            with on(where):
                wait(device)
                begin = time.perf_counter()
                found[name] = what(*given)
                if number:  # the first starts and compiles
                    took[name].append(time.perf_counter() - begin)
    return median(took["cpu"]), median(took["gpu"]), largest(found["gpu"], found["cpu"])


def measure(device: torch.device, quick: bool) -> None:
    """Measure all cases and write them down."""
    print(f"{numba.get_num_threads()} threads", flush=True)
    rate = product_rate(device, 1024 if quick else 8192)
    rows: list[dict[str, Any]] = []
    for name, (controls, labels, each, genes, density) in CASES.items():
        if quick:
            controls, labels, genes = controls // 5, 4, genes // 3
        control = cells(controls, genes, density, 0)
        targets = [cells(each, genes, density, 1 + number) for number in range(labels)]
        for part, what in (("de", tests), ("pairs", sums)):
            here, there, off = beside(what, (control, targets), device, 1 if quick else 3)
            row = {"case": name, "part": part, "cpu_s": round(here, 4), "gpu_s": round(there, 4)}
            row |= {"ratio": round(here / there, 2), "largest_difference": float(f"{off:.2g}")}
            done = flop(controls, labels, each, genes) if part == "pairs" else 0.0
            rows.append({**row, "share": round(done / there / rate, 3) if done else ""})
            print(rows[-1], flush=True)
    off_by = {part: max(r["largest_difference"] for r in rows if r["part"] == part) for part in ("de", "pairs")}  # fmt: skip
    figures = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "float32_tflop_per_s": round(rate / 1e12, 2),
        **{f"{row['part']}, {row['case']}: ratio": row["ratio"] for row in rows},
        **{f"{part}: largest difference": value for part, value in off_by.items()},
        "same": off_by["de"] == 0 and off_by["pairs"] < 1e-6,
    }
    finish("evaluate_gpu_quick" if quick else "evaluate_gpu", rows, figures)


def main() -> None:
    """Measure where there is a CUDA device."""
    options = arguments((__doc__ or "").split("\n")[0])
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return
    measure(torch.device("cuda"), options.quick)


if __name__ == "__main__":
    main()
