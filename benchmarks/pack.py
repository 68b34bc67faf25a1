"""What packing and reading cost at two sizes, and hence at the 100 million cells of Tahoe-100M.

    python benchmarks/pack.py [--sizes 1e6 1e7] [--dir DIR] [--fewer-lines] [--quick]

For each size: write sources with Tahoe's 65,943 conditions and 2,000 genes, pack them in a child
process, then open the store in another and read an epoch, sampling memory and disk of the child all
the while. Every step starts from files that are not in the page cache. Needs 4 KB of disk per cell
under ``--dir`` (40 GB for the largest size), which is given back after each size.

Conditions keep their number and shrink with the size, so that at small sizes most sets of 256 cells
repeat cells (`distinct` is the share of different cells in an epoch). ``--fewer-lines`` keeps the
conditions large instead, and takes one cell line for every 2 million cells.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
from common import ROOT, finish
from memory import Watch, disk_bytes, evict

GENES, SET_LEN = 2000, 256
DISK_PER_CELL = 4000
EPOCH_SECONDS = 60.0
CELLS_PER_LINE = 2e6
FULL = 100_648_790
"""Cells of Tahoe-100M."""


def packed(files: list[Path], out: Path, temporary: Path) -> float:
    """Pack and return the seconds it took; runs in a child process."""
    # Wherever it puts temporary files, the disk they take is seen.
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    from synthetic import CONTROL

    from statetx.config import Dataset
    from statetx.data.pack.pack import pack

    settings = Dataset(files=list(map(str, files)), control_pert=CONTROL, scale="counts")
    begin = time.perf_counter()
    pack(files, settings, "benchmark", out)
    return time.perf_counter() - begin


def read(directory: Path, limit: float) -> dict[str, float]:
    """Open the store and read two epochs, each for at most `limit` seconds, in a child process.

    The first comes from the disk, the second from the page cache where it was read before.
    """
    from loader import training_loader

    begin = time.perf_counter()
    loader = training_loader(directory)
    batches = loader.epoch(0)
    next(batches)
    answer = {"open_s": time.perf_counter() - begin}
    for number, name in enumerate(("cold", "warm")):
        cells, begin = 0, time.perf_counter()
        with closing(batches):  # or its thread and buffers would stay
            for batch in batches:
                cells += batch.target.shape[:2].numel()
                del batch  # batches may share buffers
                if time.perf_counter() - begin > limit:
                    break
            answer[f"{name}_cells_per_s"] = cells / (time.perf_counter() - begin)
        answer[f"{name}_cells"] = cells
        batches = loader.epoch(number + 1)
    return answer


def _child(sender: Connection, step: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(step(*arguments))


def in_child(
    step: Callable[..., Any], *arguments: Any, directory: Path | None = None
) -> tuple[Any, Watch]:
    """Run a step in a process of its own; return its answer and what it used."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, step, arguments))
    child.start()
    sender.close()
    assert child.pid is not None
    with Watch(child.pid, directory) as seen:
        try:
            answer = receiver.recv()
        except EOFError:
            raise SystemExit(f"{step.__name__} failed; its message is above") from None
        finally:
            child.join()
    return answer, seen


def measure(cells: float, lines: int | None, folder: Path, limit: float) -> dict[str, float]:
    """Return one row: everything about one size.

    Parameters
    ----------
    cells, lines
        As in `synthetic.design`.
    folder
        Empty; what remains in it is no longer needed.
    limit
        Seconds to read for.
    """
    from synthetic import design, write

    if shutil.disk_usage(folder).free < DISK_PER_CELL * cells:
        raise SystemExit(f"{cells:g} cells need {DISK_PER_CELL * cells / 1e9:.0f} GB in {folder}")
    conditions = design(cells, lines)
    begin = time.perf_counter()
    files = write(conditions, folder / "source", GENES)
    generate_s = time.perf_counter() - begin
    n = int(conditions["n_cells"].sum())
    sizes = conditions.groupby(["line", "perturbation"])["n_cells"].sum()
    in_epoch = (-(-sizes // SET_LEN) * SET_LEN).sum()
    source = disk_bytes(folder / "source")

    work = folder / "packing"
    (work / "temporary").mkdir(parents=True)
    evict(files)
    pack_s, packing = in_child(packed, files, work / "store", work / "temporary", directory=work)
    store = disk_bytes(work / "store")
    if disk_bytes(work) > store:
        raise SystemExit(f"pack left temporary files behind in {work}")
    shutil.rmtree(folder / "source")
    evict(path for path in (work / "store").rglob("*") if path.is_file())
    loaded, reading = in_child(read, work / "store", limit)
    shutil.rmtree(work)
    row = {
        "cells": n,
        "conditions": len(sizes),
        "distinct": n / in_epoch,
        "source_gb": source / 1e9,
        "generate_s": generate_s,
        "pack_s": pack_s,
        "pack_cells_per_s": n / pack_s,
        "pack_mb_per_s": source / 1e6 / pack_s,
        "store_gb": store / 1e9,
        "temporary_gb": (packing.disk - store) / 1e9,
        "pack_anon_gb": packing.anon / 1e9,
        "pack_file_gb": packing.file / 1e9,
        **loaded,
        "read_anon_gb": reading.anon / 1e9,
        "read_file_gb": reading.file / 1e9,
    }
    return {
        key: value if isinstance(value, int) else float(f"{value:.4g}")
        for key, value in row.items()
    }


def extrapolate(small: dict[str, float], large: dict[str, float]) -> pd.DataFrame:
    """Return what `FULL` cells cost: a straight line through both sizes, or the larger one's rate.

    A quantity that does not grow between the sizes is taken as constant.
    """
    rows = []
    for key, name in {
        "source_gb": "source on disk [GB]",
        "store_gb": "store on disk [GB]",
        "temporary_gb": "temporary files at their peak [GB]",
        "pack_s": "packing [s]",
        "pack_anon_gb": "packing, memory held [GB]",
        "open_s": "open and first batch [s]",
        "read_anon_gb": "reading, memory held [GB]",
    }.items():
        slope = (large[key] - small[key]) / (large["cells"] - small["cells"])
        value = large[key] + max(0.0, slope) * (FULL - large["cells"])
        rows.append((name, small[key], large[key], value, "line through both"))
    for kind, how in (("warm", "from the page cache"), ("cold", "from the disk")):
        times = [row["cells"] / row[f"{kind}_cells_per_s"] for row in (small, large)]
        value = FULL / large[f"{kind}_cells_per_s"]
        rows.append((f"as many pairs as cells, {how} [s]", *times, value, "rate of the larger"))
    titles = [f"{row['cells']:,.0f} cells" for row in (small, large)]
    columns = ["quantity", *titles, f"{FULL:,} cells, extrapolated", "by"]
    return pd.DataFrame(rows, columns=columns)


def main() -> None:
    """Measure every size, then extrapolate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1e5 and 2e5 cells, under 50 s")
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--fewer-lines", action="store_true", help="keep conditions large")
    parser.add_argument("--dir", type=Path, help="where the files go until the end")
    options = parser.parse_args()
    sizes, limit = sorted(options.sizes), EPOCH_SECONDS
    if options.quick:
        sizes, limit = [1e5, 2e5], 4.0
    rows = []
    for cells in sizes:
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            lines = round(cells / CELLS_PER_LINE) or 1 if options.fewer_lines else None
            rows.append(measure(cells, lines, Path(folder), limit))
    print(pd.DataFrame(rows).set_index("cells").T.to_markdown())
    first, last = rows[0], rows[-1]
    suffix = ("_lines" if options.fewer_lines else "") + ("_quick" if options.quick else "")
    figures: dict[str, Any] = {f"at {row['cells']} cells": row for row in rows}
    if len(rows) > 1:
        table = extrapolate(first, last)
        print(table.to_markdown(index=False, floatfmt=",.4g"))
        path = ROOT / "benchmarks" / "results" / f"pack{suffix}_extrapolated.csv"
        path.parent.mkdir(exist_ok=True)
        table.to_csv(path, index=False)
        for key in ("cells", "pack_anon_gb", "read_anon_gb", "pack_s", "store_gb"):
            figures[f"{key}, largest / smallest size"] = round(last[key] / first[key], 2)
    finish(f"pack{suffix}", rows, figures)


if __name__ == "__main__":
    main()
