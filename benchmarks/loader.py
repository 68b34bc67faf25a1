"""Cells per second of the loader, beside cell-load's and beside a plain copy of the same bytes.

    python benchmarks/loader.py [--quick] [--peer-python /tmp/peer_env/bin/python]

The peer's environment is made as `peer_cell_load.py` says; without it the peer is absent. All take
turns in one run, round after round, from a warm page cache: sets of 256 cells, batches of 16 sets,
2,000 genes, dense float32 out; a cell is a target with its control. Two scenarios:

* pairs: target and control in gene space.
* embedding: target and control in a 512-wide embedding, and the expression of the targets. The peer
  reads it densely (`output_space=gene`) or from the counts (`all`, its default).

The peer gets the same cells as they come (default mode) and sorted by (line, perturbation), which
its `use_consecutive_loading` needs. Its default mode keeps the last 10,000 rows in memory, and all
controls of this data set are among them; with 40,000 control cells it was half as fast (4.1k instead
of 8.1k cells/s), so that the ratios to it are lower bounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np
import pandas as pd
from common import finish
from memory import warm
from synthetic import CONTROL, WIDTH, design, write

from statetx.config import Dataset
from statetx.data.pack.pack import pack
from statetx.data.sets.loader import SetLoader
from statetx.data.store.plan import Plan
from statetx.data.store.store import Store, open_store

SET_LEN, SETS, GENES, THREADS = 256, 16, 2000, 2
EMBED_KEY = {"pairs": None, "embedding": "X_emb"}
TOLERANCE = 0.05
"""By which the share of non-zero values may differ between loaders that give the same cells; it
varies by 1 % between batches."""


def everything(store: Store) -> Plan:
    """Return a plan in which every condition trains."""
    pairs = store.conditions.loc[~store.conditions["is_control"], ["line", "perturbation"]]
    return Plan(pairs.drop_duplicates().assign(role="train", reason="all"))


def training_loader(directory: Path, embed_key: str | None = None) -> SetLoader:
    """Open a store and return a loader of all its cells."""
    store = open_store(directory)
    plan = everything(store)
    return SetLoader(
        store,
        plan,
        "train",
        [store.control, *plan.perturbations("train")],
        cell_set_len=SET_LEN,
        batch_size=SETS,
        seed=0,
        threads=THREADS,
        embed_key=embed_key,
        with_expression=embed_key is not None,
    )


def ours(directory: Path, scenario: str, seconds: float, skip: int) -> dict[str, Any]:
    """Measure our loader; the same steps as in `peer_cell_load.measure`."""
    warm(path for path in directory.rglob("*") if path.is_file())
    begin = time.perf_counter()
    batches = _forever(training_loader(directory, EMBED_KEY[scenario]))
    first = next(batches)
    answer: dict[str, Any] = {"open_s": time.perf_counter() - begin, "batch": {}}
    for name in ("target", "control", "expression"):
        values = getattr(first, name)
        if values is not None:
            answer["batch"][f"{name}_shape"] = [SETS * SET_LEN, values.shape[-1]]
            answer["batch"][f"{name}_dtype"] = str(values.dtype).removeprefix("torch.")
            answer["batch"][f"{name}_nonzero"] = float((values != 0).float().mean())
    # Batches may share buffers: none is held while the next is asked for.
    del first, values
    for _ in range(skip - 1):
        next(batches)
    cells = 0
    begin, cpu = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - begin) < seconds:
        cells += next(batches).target.shape[:2].numel()
    return {**answer, "cells": cells, "seconds": passed, "cpu_s": time.process_time() - cpu}


def _forever(loader: SetLoader) -> Iterator[Any]:
    number = 0
    while True:
        yield from loader.epoch(number)
        number += 1


@numba.njit(parallel=True, cache=True)
def _copy(source: np.ndarray, target: np.ndarray) -> None:
    for i in numba.prange(source.shape[0]):
        target[i] = source[i]


def memcpy(scenario: str, seconds: float) -> dict[str, Any]:
    """Copy the bytes of a batch with two threads, from one buffer to another, again and again."""
    widths = {"pairs": 2 * GENES, "embedding": 2 * WIDTH + GENES}
    source = np.ones((SETS * SET_LEN, widths[scenario]), dtype=np.float32)
    target = np.zeros_like(source)
    numba.set_num_threads(min(THREADS, numba.get_num_threads()))
    for _ in range(3):
        _copy(source, target)
    cells = 0
    begin, cpu = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - begin) < seconds:
        _copy(source, target)
        cells += SETS * SET_LEN
    return {"cells": cells, "seconds": passed, "cpu_s": time.process_time() - cpu}


class Peer:
    """cell-load, in a process of its own that answers requests."""

    def __init__(self, python: Path, log: Path) -> None:
        self._log = log
        script = Path(__file__).with_name("peer_cell_load.py")
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    @staticmethod
    def there(python: Path) -> bool:
        """Whether the environment exists and has cell-load."""
        if not python.exists():
            return False
        command = [str(python), "-c", "import cell_load"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer of `peer_cell_load.measure`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the peer failed at {request}:\n{self._log.read_text()[-2000:]}")
        return dict(json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def contestants(
    folder: Path, peer: Peer | None, workers: tuple[int, ...], seconds: float, skip: int
) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Yield what is measured in a round, and how."""
    for scenario in EMBED_KEY:
        yield (
            {"scenario": scenario, "loader": "ours"},
            lambda scenario=scenario: ours(folder / "store", scenario, seconds, skip),
        )
        if peer is not None:
            for space in ("gene",) if scenario == "pairs" else ("gene", "all"):
                for mode, files in (("default", "shuffled"), ("consecutive", "sorted")):
                    for n in workers:
                        request = {
                            "directory": str(folder / files),
                            "consecutive": mode == "consecutive",
                            "embed_key": EMBED_KEY[scenario] or "X_hvg",
                            "output_space": space,
                            "workers": n,
                            "seconds": seconds,
                            "skip": skip,
                        }
                        yield (
                            {
                                "scenario": scenario,
                                "loader": f"cell-load {mode}",
                                "output_space": space,
                                "workers": n,
                            },
                            lambda request=request: peer.ask(**request),
                        )
        yield (
            {"scenario": scenario, "loader": "memcpy"},
            lambda scenario=scenario: memcpy(scenario, min(seconds, 2.0)),
        )


def check(what: dict[str, Any], batch: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse to compare loaders that do not give the same amount of the same data."""
    if batch.keys() != own.keys():
        raise SystemExit(f"{what}: gives {list(batch)}, ours {list(own)}")
    for key, value in own.items():
        close = key.endswith("_nonzero") and abs(batch[key] / value - 1) < TOLERANCE
        if not close and batch[key] != value:
            raise SystemExit(f"{what}: {key} is {batch[key]}, ours {value}")


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Return medians over the rounds, and ours over the others' best number of workers."""
    keys = ["scenario", "loader", "output_space", "workers"]
    medians = table.groupby(keys, sort=False)[["cells_per_s", "cells_per_cpu_s", "open_s"]].median()
    print(medians.round(2).reset_index().to_markdown(index=False))
    figures: dict[str, Any] = {}
    for scenario, part in table.groupby("scenario", sort=False):
        best: dict[str, tuple[float, float]] = {}
        for (name, space, _), rows in part.groupby(["loader", "output_space", "workers"]):
            label = " ".join(filter(None, [name, space if scenario == "embedding" else ""]))
            seen = (median(rows["cells_per_s"]), median(rows["cells_per_cpu_s"]))
            best[label] = max(best.get(label, (0.0, 0.0)), seen)
        own = best["ours"]
        found: dict[str, Any] = {"ours_cells_per_s": round(own[0])}
        found["ours_open_s"] = round(median(part.loc[part["loader"] == "ours", "open_s"]), 2)
        for label, seen in best.items():
            if label != "ours":
                found[f"{label}_cells_per_s"] = round(seen[0])
                found[f"ours / {label}"] = round(own[0] / seen[0], 2)
                found[f"ours / {label}, per CPU second"] = round(own[1] / seen[1], 2)
        figures[str(scenario)] = found
    return figures


def main() -> None:
    """Make the data, take turns, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller, under 50 s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where 5 GB of data go until the end")
    parser.add_argument("--peer-python", type=Path, default=Path("/tmp/peer_env/bin/python"))
    options = parser.parse_args()
    cells, rounds, seconds, skip, workers = 200_000, options.rounds, 6.0, 3, (0, 2)
    if options.quick:
        cells, rounds, seconds, skip, workers = 40_000, 1, 1.5, 1, (0,)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.dir) as temporary:
        folder = Path(temporary)
        conditions = design(cells, lines=-(-cells // 50_000), plates=1)
        for name, in_order in (("shuffled", False), ("sorted", True)):
            write(conditions, folder / name, GENES, ("X_emb", "X_hvg"), in_order)
        files = sorted(map(str, (folder / "shuffled").glob("*.h5ad")))
        settings = Dataset(files=files, control_pert=CONTROL, scale="counts", embed_keys=["X_emb"])
        pack(files, settings, "benchmark", folder / "store")
        python = options.peer_python
        peer = Peer(python, folder / "peer.log") if Peer.there(python) else None
        own: dict[str, Any] = {}
        version = "absent"
        for number in range(rounds):
            for what, measure in contestants(folder, peer, workers, seconds, skip):
                answer = measure()
                if what["loader"] == "ours":
                    own = answer["batch"]
                elif "batch" in answer:
                    check(what, answer["batch"], own)
                    version = answer["version"]
                rows.append(
                    {
                        "round": number,
                        "scenario": what["scenario"],
                        "loader": what["loader"],
                        "output_space": what.get("output_space", ""),
                        "workers": what.get("workers", ""),
                        "cells_per_s": round(answer["cells"] / answer["seconds"]),
                        "cells_per_cpu_s": round(answer["cells"] / answer["cpu_s"]),
                        "open_s": round(answer.get("open_s", float("nan")), 3),
                    }
                )
        if peer is not None:
            peer.close()
    figures = summary(pd.DataFrame(rows))
    figures = {
        "cells": int(conditions["n_cells"].sum()),
        "rounds": rounds,
        "threads": THREADS,
        "cell-load": version,
        **figures,
    }
    finish("loader_quick" if options.quick else "loader", rows, figures)


if __name__ == "__main__":
    main()
