"""Cells per second of the loader on a GPU, and how long the GPU waits for them while it trains.

    python benchmarks/gpu_loader.py [--cells 500000] [--dir DIR] [--quick]

The recipe of Tahoe-100M: batches of 64 sets of 256 cells, 2,000 genes, bfloat16. A pair is a target
with its control. Three measurements, in turns:

* delivery: batches as fast as they come, nothing is computed with them; by where the packed cells
  lie (`resident`) and by the number of threads.
* step: forward, energy loss, backward and AdamW of the recipe's network on one batch that stays.
* training: the same step, fed by the loader. What it takes longer than `step` is the time that the
  GPU waits, or is held up by the loader's own kernels.

Without a CUDA device it says so and ends.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import finish
from loader import everything
from synthetic import CONTROL, design, write

from statetx.config import Dataset
from statetx.data.pack.pack import pack
from statetx.data.sets.loader import SetBatch, SetLoader
from statetx.data.store.store import Store, open_store
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape
from statetx.models.network.losses import energy
from statetx.models.network.set_transformer import PertSets

SET_LEN, SETS, GENES = 256, 64, 2000
BACKBONE = Shape(1488, 6, 12, 124, 5952)


def batches(store: Store, resident: str, threads: int) -> tuple[SetLoader, Iterator[SetBatch]]:
    """Return a loader of all cells and its batches without end."""
    plan = everything(store)
    loader = SetLoader(
        store,
        plan,
        "train",
        [store.control, *plan.perturbations("train")],
        cell_set_len=SET_LEN,
        batch_size=SETS,
        device="cuda",
        dtype=torch.bfloat16,
        threads=threads,
        resident=resident,
    )

    def forever() -> Iterator[SetBatch]:
        number = 0
        while True:
            yield from loader.epoch(number)
            number += 1

    return loader, forever()


def timed(one: Callable[[], object], seconds: float, skip: int = 5) -> tuple[int, float]:
    """Return how often `one` ran, and the seconds that passed until the GPU had done it all."""
    for _ in range(skip):
        one()
    torch.cuda.synchronize()
    times, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        one()
        times += 1
        if times % 4 == 0:  # or thousands of steps would be queued when the time is over
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return times, time.perf_counter() - begin


def trainer(n_labels: int) -> Callable[[SetBatch], None]:
    """Return a function that takes one step of the recipe's network."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    network = PertSets(Architecture(GENES, GENES, n_labels, BACKBONE)).to("cuda")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step(batch: SetBatch) -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            cells = network(batch.control, batch.perturbation).cells
        energy(cells, batch.target).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Make the data, take turns, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller, under 50 s")
    parser.add_argument("--cells", type=float, default=5e5)
    parser.add_argument("--dir", type=Path, help="where the data go until the end")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing was measured")
    cells, rounds, seconds = options.cells, 3, 3.0
    if options.quick:
        cells, rounds, seconds = 1e5, 1, 1.0
    cores = os.cpu_count() or 1
    rows: list[dict[str, Any]] = []

    def note(what: str, resident: str, threads: int, **figures: float) -> None:
        rows.append({"what": what, "resident": resident, "threads": threads, **figures})
        print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory(dir=options.dir) as temporary:
        folder = Path(temporary)
        begin = time.perf_counter()
        files = [str(p) for p in write(design(cells, lines=4, plates=2), folder / "source", GENES)]
        settings = Dataset(files=files, control_pert=CONTROL, scale="counts")
        made = time.perf_counter()
        pack(files, settings, "benchmark", folder / "store")
        print(
            f"made in {made - begin:.0f} s, packed in {time.perf_counter() - made:.0f} s",
            flush=True,
        )
        store = open_store(folder / "store")
        step = trainer(store.conditions["perturbation"].nunique())
        for _ in range(rounds):
            for resident, threads in [
                *(("disk", n) for n in (2, 4, 8, 16) if n <= cores),
                ("ram", min(4, cores)),
                ("gpu", 1),
                ("gpu", 2),
            ]:
                loader, stream = batches(store, resident, threads)
                times, passed = timed(lambda stream=stream: next(stream), seconds)
                pairs = round(times * SETS * SET_LEN / passed)
                note("delivery", resident, threads, pairs_per_s=pairs)
                held = next(stream)
                if threads == min(4, cores) or resident == "gpu":
                    times, passed = timed(lambda held=held: step(held), seconds)
                    alone = passed / times
                    loader.waited_s = 0.0
                    begin = time.perf_counter()
                    times, passed = timed(lambda stream=stream: step(next(stream)), seconds)
                    whole = passed / times
                    note(
                        "training",
                        resident,
                        threads,
                        pairs_per_s=round(SETS * SET_LEN / whole),
                        step_ms=round(alone * 1e3, 2),
                        fed_ms=round(whole * 1e3, 2),
                        longer=round(whole / alone - 1, 4),
                        waited=round(loader.waited_s / (time.perf_counter() - begin), 4),
                    )
                stream.close()  # type: ignore[attr-defined]
                del held, loader, stream
                torch.cuda.empty_cache()
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "cores": cores,
        "cells": int(cells),
        "torch": torch.__version__,
    }
    for what in ("delivery", "training"):
        for key in dict.fromkeys((r["resident"], r["threads"]) for r in rows if r["what"] == what):
            mine = [r for r in rows if r["what"] == what and (r["resident"], r["threads"]) == key]
            name = f"{what} {key[0]} {key[1]} threads"
            figures[name] = {
                column: median(row[column] for row in mine) for column in list(mine[0])[3:]
            }
    columns = dict.fromkeys(column for row in rows for column in row)
    rows = [{column: row.get(column, "") for column in columns} for row in rows]
    finish("gpu_loader_quick" if options.quick else "gpu_loader", rows, figures)


if __name__ == "__main__":
    main()
