"""What checksums cost: evaluation and the loader with and without them, in turns; and bytes per second.

    python benchmarks/verify.py --results DIRECTORY --config FILE [--repeats 7]

DIRECTORY is a finished demo (`results` of `make demo`), FILE its configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from common import finish

from statetx.core import checksums, records

EPOCHS = 20
"""The demo's network sees its training cells about as often."""


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Leave files unread that are only compared."""
    with (
        mock.patch.object(records, "compare", return_value=None),
        mock.patch.object(records, "compare_in_background", return_value=None),
    ):
        yield


def in_turns(work: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Return median seconds with and without checksums, measured one after the other."""
    work()
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for checked in (True, False):
            start = time.perf_counter()
            with contextlib.nullcontext() if checked else unchecked():
                work()
            found[checked].append(time.perf_counter() - start)
    return statistics.median(found[True]), statistics.median(found[False])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    from statetx.config import load
    from statetx.data.sets.loader import SetLoader
    from statetx.data.store.plan import read_plan
    from statetx.data.store.store import open_store
    from statetx.evaluation.held_out.evaluate import evaluate_run

    cfg, home = load(options.config), options.results / "demo"
    plan, run = home / "dc20/plan.parquet", home / "dc20/pertsets/seed0"
    line = read_plan(plan).lines("test")[0]

    def evaluate() -> None:
        with tempfile.TemporaryDirectory() as out:
            evaluate_run(
                home / "pack",
                plan,
                line,
                run / f"predictions/best/{line}.h5ad",
                home / "dc20/reference" / line,
                cfg.evaluation,
                out,
            )

    def epoch() -> None:
        store, chosen = open_store(home / "pack"), read_plan(plan)
        names = [store.control, *chosen.perturbations("train")]
        loader = SetLoader(
            store,
            chosen,
            "train",
            names,
            cell_set_len=32,
            batch_size=16,
            seed=0,
            threads=2,
            embed_key="X_hvg",
        )
        for number in range(EPOCHS):
            for _ in loader.epoch(number):
                pass
        checksums.settle()

    rows = {}
    for name, work in (("evaluate", evaluate), (f"loader, {EPOCHS} epochs and opening", epoch)):
        with_sums, without = in_turns(work, options.repeats)
        rows[name] = {"with_s": with_sums, "without_s": without, "ratio": with_sums / without}
        print(
            f"{name}: {with_sums:.3f} s with, {without:.3f} s without: x{with_sums / without:.3f}"
        )
    with tempfile.NamedTemporaryFile(dir=options.results) as large:
        large.write(os.urandom(1 << 20) * 1024)
        large.flush()
        start = time.perf_counter()
        checksums.checksum(large.name)
        rate = 1.073741824 / (time.perf_counter() - start)
    print(f"{rate:.1f} GB/s of a file in the page cache: 65 GB in {65 / rate:.0f} s")
    figures = {name: row["ratio"] for name, row in rows.items()}
    finish("verify", [{"what": name, **row} for name, row in rows.items()], figures)


if __name__ == "__main__":
    main()
