"""`statetx evaluate` beside cell-eval: the same numbers, and how long they take.

    python benchmarks/evaluate.py [--quick] [--part PART]... [--peer-python /tmp/ce_env/bin/python]

The peer lives in an environment of its own; without it, it is absent and ours is measured alone:

    python3 -m venv /tmp/ce_env
    /tmp/ce_env/bin/pip install cell-eval==0.8.2 pdex==0.3.0

Parts, all but `cost` by default:

* parity: both command lines on pairs of h5ads (the fixture of the tests, small nasty ones, public data
  from ../shared/data where it is there), `results.csv`, `agg_results.csv` and differential expression
  compared column by column. Largest difference 1e-6 (p, percent change: relative), U exactly; 2e-5 on
  what depends on fold changes when the input is float32. A column of float32 input that differs is
  compared once more with the peer's answer to the same values in float64. Verdicts besides `same`:
  `same but for ties` (a tie of fold changes lies across the cut of a ranked list: the peer's order is
  random), `no such column there` (the peer leaves out a column that failed or that no label defines),
  `their float32` (equal to the peer's answer in float64), `documented`, `DIFFERS`.
* de: differential expression alone, warm, in process: `pdex.pdex` against `de.compare`. U and p
  must be identical. 20,000 controls and 40 labels of 150 cells; 2,000 controls and 60 labels of 800.
* whole: both command lines on 50,682 cells, 2,000 genes, 60 labels, 2,000 controls, 30 % not zero,
  float32 CSR; full profile without clustering, then without energy distances too; ours with its own
  scores and without (`--no-scores`: what the peer writes and no more). Peak of resident memory.
  What they write is compared. `gemm_share`: products of the energy distances per second of that
  code alone (each pair of cells counts once, zeros too, which ours leaves out), over the rate of
  float32 matrix products of this machine in the same run. Both sides' `pearson_edistance` beside ours in float64.
* tahoe: the same on 10,000 controls, 228 labels of 300 cells, 2,000 genes, 90 % zeros.
* cost: ours alone, 50,000 to 500,000 cells, 60 to 600 labels, 90 % zeros.

Ours compiles its loops at its first run ever and keeps them on disk; that run is not timed. The peer
compiles at every start. Tools take turns, round by round, on the same cores, from a warm page cache; ratios are of medians.
Both get 2 threads.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import anndata as ad
import numba
import numpy as np
from common import finish
from evaluate_pairs import (
    CONTROL,
    LABEL,
    even_sizes,
    from_fixture,
    nasty,
    public,
    with_embedding,
    write_large,
)
from evaluate_parity import (
    THREADS,
    Peer,
    compared,
    de_differs,
    environment,
    is_same,
    our_command,
    outputs_differ,
    peer_arguments,
    read,
    verdict,
    worst,
)
from memory import Watch, warm

from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.scores.differential_expression import compare
from statetx.evaluation.scores.energy_and_mmd import EnergyFrom

Rows = list[dict[str, Any]]
Figures = dict[str, Any]
ENERGY = "pearson_edistance"
QUICK_PAIRS = ("fixture", "1 to 3 cells", "odd labels", "counts float32 csr")


def parity(folder: Path, python: Path, quick: bool, _: int) -> tuple[Rows, Figures]:
    """Compare everything that both write, pair by pair."""
    if not Peer.there(python):
        return [{"pair": "", "verdict": "cell-eval is absent"}], {"cell-eval": "absent"}
    peer = Peer(python, folder / "peer.log")
    version = peer.ask(do="version")
    rows: Rows = []
    total: Counter[str] = Counter()
    pairs = itertools.chain(from_fixture(), nasty(), [] if quick else public(), [with_embedding()])
    for number, pair in enumerate(pairs):
        if isinstance(pair, str):
            print(f"skipped: {pair}")
            continue
        if quick and pair.name not in QUICK_PAIRS:
            continue
        found = compared(pair, folder / f"pair{number}", peer)
        verdicts = [verdict(one, pair) for one in found]
        total.update(verdicts)
        same = max((one.largest for one in found if is_same(one, pair.single)), default=0.0)
        print(f"{pair.name:<44} {dict(Counter(verdicts))}, same within {same:.1e}", flush=True)
        for one, said in zip(found, verdicts, strict=True):
            if said == "DIFFERS":
                print(f"    {one.table} {one.column}: {one.largest:.3g} {one.where} {one.note}")
            rows.append({"pair": pair.name, "single": pair.single, "verdict": said, **one.__dict__})
    peer.close()
    print()
    for column, (largest, exact) in largest_by_column(rows).items():
        print(f"{column:<40} {largest:.1e}   float64 {exact:.1e}")
    return rows, {**version, "columns": dict(total)}


def largest_by_column(rows: Rows) -> dict[str, tuple[float, float]]:
    """Return the largest difference of each column: of all pairs, and of those in float64."""
    out: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row["verdict"] not in ("same", "same but for ties", "their float32", "DIFFERS"):
            continue
        name = f"{row['table']} {row['column']}"
        exact = row["largest"] if not row["single"] else 0.0
        held = out.get(name, (0.0, 0.0))
        out[name] = (max(held[0], row["largest"]), max(held[1], exact))
    return out


# ---------------------------------------------------------------------------------------------
# speed


def de(folder: Path, python: Path, quick: bool, rounds: int) -> tuple[Rows, Figures]:
    """Time differential expression in turns, and compare U and p."""
    cases = {
        "20,000 controls, 40 x 150": {CONTROL: 20_000, **{f"p{i:02d}": 150 for i in range(40)}},
        "2,000 controls, 60 x 800": {CONTROL: 2_000, **{f"p{i:02d}": 800 for i in range(60)}},
    }
    n_genes = 3_000
    if quick:
        rounds, n_genes = 1, 300
        cases = {
            "2,000 controls, 12 x 150": {CONTROL: 2000, **{f"p{i:02d}": 150 for i in range(12)}}
        }
    peer = Peer(python, folder / "peer_de.log") if Peer.there(python) else None
    rows: Rows = []
    figures: Figures = {}
    numba.set_num_threads(min(THREADS, numba.get_num_threads()))
    for name, sizes in cases.items():
        path = folder / f"{name}.h5ad"
        write_large(path, sizes, n_genes, 0.2, False)
        cells = ad.read_h5ad(path)
        our_de(cells)  # loads the compiled loops, of small tests and of large ones
        took: dict[str, list[float]] = {}
        for number in range(rounds):
            if peer is not None:
                answer = peer.ask(do="de", path=str(path), pert_col=LABEL, control=CONTROL,
                                  threads=THREADS, out=str(folder / "de.npz"))  # fmt: skip
                took.setdefault("pdex", []).append(answer["seconds"])
            begin = time.perf_counter()
            tested = our_de(cells)
            took.setdefault("statetx", []).append(time.perf_counter() - begin)
            rows += [
                {"case": name, "tool": tool, "round": number, "seconds": round(times[-1], 3)}
                for tool, times in took.items()
            ]
        found: Figures = {f"{tool}_s": round(median(times), 2) for tool, times in took.items()}
        if peer is not None:
            theirs = np.load(folder / "de.npz")
            found["pdex / statetx"] = round(median(took["pdex"]) / median(took["statetx"]), 1)
            found["U differs"] = int((tested.statistic != theirs["statistic"]).sum())
            found["p differs"] = int((tested.p_value != theirs["p_value"]).sum())
            found["largest difference of p"] = float(
                np.abs(tested.p_value - theirs["p_value"]).max()
            )
        figures[name] = found
        print(name, found, flush=True)
        path.unlink()
    if peer is not None:
        peer.close()
    return rows, figures


def our_de(cells: ad.AnnData) -> Any:
    """Test all labels against the controls."""
    labels = cells.obs[LABEL].astype(str).to_numpy()
    control = SortedControl.from_cells(cells.X[labels == CONTROL])
    targets = ((name, cells.X[labels == name]) for name in sorted(set(labels) - {CONTROL}))
    return compare(targets, control, list(cells.var_names))


def timed(command: Sequence[str], env: Mapping[str, str] | None = None) -> dict[str, float]:
    """Run a command; return seconds of wall and CPU, and the peak of resident memory [MB]."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=env)
        with Watch(process.pid) as watch:
            code = process.wait()
        seconds = time.perf_counter() - begin
        if code:
            said.seek(0)
            raise SystemExit(f"{command} ended with {code}:\n{said.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu, 2),
        "peak_mb": round(watch.resident / 1e6),
    }


def processes(
    folder: Path, python: Path, case: str, sizes: Mapping[str, int], density: float, rounds: int,
    n_genes: int = 2_000,
) -> tuple[Rows, Figures]:  # fmt: skip
    """Time both command lines in turns, with and without energy distances, and compare what they write."""
    files = folder / "pred.h5ad", folder / "real.h5ad"
    for path in files:
        write_large(path, even_sizes(200, 50, 3), 50, density, path.name == "pred.h5ad")
    timed(our_command(*files, folder / "first"))
    for path in files:
        write_large(path, sizes, n_genes, density, path.name == "pred.h5ad")
    warm(files)
    there = Peer.there(python)
    skips = ["", ENERGY]
    rows: Rows = []
    for number, skip in itertools.product(range(rounds), skips):
        what = f"without {skip}" if skip else "full"
        ours, theirs = (folder / f"{tool} {what}" for tool in ("ours", "peer"))
        if there:
            arguments = peer_arguments(*files, theirs, skip=skip)
            command = [str(python.with_name("cell-eval")), *arguments]
            row = {"case": case, "what": what, "tool": "cell-eval", "round": number}
            rows.append({**row, **timed(command, environment())})
            print(rows[-1], flush=True)
        options = ["--skip-metrics", skip] if skip else []
        for tool, more in (("statetx", []), ("statetx, tables only", ["--no-scores"])):
            row = {"case": case, "what": what, "tool": tool, "round": number}
            rows.append({**row, **timed(our_command(*files, ours, *options, *more))})
            print(rows[-1], flush=True)
    figures: Figures = {"cells": sum(sizes.values()), "labels": len(sizes) - 1}
    for skip in skips:
        what = f"without {skip}" if skip else "full"
        tools = ["statetx", "statetx, tables only"]
        for tool in ["cell-eval", *tools] if there else tools:
            own = [row for row in rows if row["what"] == what and row["tool"] == tool]
            for key in ("seconds", "cpu_s", "peak_mb"):
                figures[f"{what}: {tool} {key}"] = median(row[key] for row in own)
        for tool, key in itertools.product(tools if there else [], ("seconds", "cpu_s", "peak_mb")):
            ratio = figures[f"{what}: cell-eval {key}"] / figures[f"{what}: {tool} {key}"]
            figures[f"{what}: cell-eval / {tool}, {key}"] = round(ratio, 2)
    if not there:
        return rows, figures
    found = outputs_differ(folder / "ours full", folder / "peer full")
    for path in files:
        cells = ad.read_h5ad(path)
        labels = cells.obs[LABEL].astype(str).to_numpy(dtype=object)
        theirs = folder / "peer full" / f"{path.stem}_de.csv"
        found += de_differs(cells.X, list(cells.var_names), labels, theirs)
    found = worst(found)
    beyond = [one for one in found if not is_same(one, True)]
    figures["columns"] = len(found)
    figures["tied"] = sum(one.tied for one in found)
    figures["largest"] = {
        f"{one.table} {one.column}": float(f"{one.largest:.1e}")
        for one in found
        if one.table != "agg_results"
    }
    figures["beyond"] = {f"{one.table} {one.column}": one.largest for one in beyond}
    return rows, figures


def energies(path: Path, kind: type[np.floating]) -> np.ndarray:
    """Return the energy distance of every label from the controls, by our code in some precision."""
    cells = ad.read_h5ad(path)
    labels = cells.obs[LABEL].astype(str).to_numpy()
    energy_from = EnergyFrom(cells.X[labels == CONTROL].toarray().astype(kind))
    names = sorted(set(labels) - {CONTROL})
    return np.array([energy_from(cells.X[labels == name].toarray().astype(kind)) for name in names])


def off_from_float64(folder: Path) -> Figures:
    """Return how far the correlation of energy distances is off, on both sides."""
    sides = [energies(folder / f"{side}.h5ad", np.float64) for side in ("real", "pred")]
    truth = np.corrcoef(*sides)[0, 1]
    out: Figures = {}
    for tool in ("ours", "peer"):
        path = folder / f"{tool} full" / "results.csv"
        if path.exists():
            columns, rows = read(path)
            value = float(next(iter(rows.values()))[columns.index(ENERGY)])
            out[f"{ENERGY}, {tool} - float64"] = float(f"{value - truth:.1e}")
    return out


def gemm_share(folder: Path) -> Figures:
    """Return the rate of the energy distances in products, beside that of float32 matrices."""
    size = 2_000
    matrix = np.random.default_rng(0).random((size, size), dtype=np.float32)

    def rate() -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            np.matmul(matrix, matrix)
            times.append(time.perf_counter() - begin)
        return 2 * size**3 / min(times)

    rate()
    rates = [rate()]
    cells = ad.read_h5ad(folder / "real.h5ad")
    labels = cells.obs[LABEL].astype(str).to_numpy()
    control = cells.X[labels == CONTROL]
    EnergyFrom(control[:300])(control[:300])
    begin = time.perf_counter()
    energy_from = EnergyFrom(control)
    n = control.shape[0]
    work = n * (n + 1) / 2
    for name in sorted(set(labels) - {CONTROL}):
        own = cells.X[labels == name]
        energy_from(own)
        few = own.shape[0]
        work += few * (few + 1) / 2 + few * n
    reached = 2 * work * cells.shape[1] / (time.perf_counter() - begin)
    rates.append(rate())
    return {
        "gemm_gflops": round(max(rates) / 1e9, 1),
        "energy_gflops": round(reached / 1e9, 1),
        "gemm_share": round(reached / max(rates), 2),
    }


def whole(folder: Path, python: Path, quick: bool, rounds: int) -> tuple[Rows, Figures]:
    """Whole processes on a screen of usual size."""
    sizes, genes = even_sizes(50_682, 2_000, 60), 2_000
    if quick:
        sizes, genes, rounds = even_sizes(3_000, 500, 10), 500, 1
    rows, figures = processes(folder, python, "whole", sizes, 0.3, rounds, genes)
    return rows, {**figures, **off_from_float64(folder), **gemm_share(folder)}


def tahoe(folder: Path, python: Path, quick: bool, rounds: int) -> tuple[Rows, Figures]:
    """Whole processes on a screen with many controls and labels, mostly zeros."""
    sizes, genes = even_sizes(10_000 + 228 * 300, 10_000, 228), 2_000
    if quick:
        sizes, genes, rounds = even_sizes(4_000, 1_000, 30), 500, 1
    rows, figures = processes(folder, python, "tahoe", sizes, 0.1, rounds, genes)
    return rows, {**figures, **gemm_share(folder)}


def cost(folder: Path, _: Path, quick: bool, __: int) -> tuple[Rows, Figures]:
    """Ours alone as cells and labels grow."""
    cells, labels = ((5_000,), (6, 60)) if quick else ((50_000, 500_000), (60, 600))
    rows: Rows = []
    for n, count in itertools.product(cells, labels):
        files = folder / "pred.h5ad", folder / "real.h5ad"
        for path in files:
            sizes = even_sizes(n, min(10_000, n // 5), count)
            write_large(path, sizes, 2_000, 0.1, path.name == "pred.h5ad")
        warm(files)
        for skip in ["", ENERGY]:
            options = ["--skip-metrics", skip] if skip else []
            what = f"without {skip}" if skip else "full"
            took = timed(our_command(*files, folder / "ours", *options))
            rows.append({"cells": n, "labels": count, "what": what, **took})
            print(rows[-1], flush=True)
    return rows, {
        f"{row['cells']} cells, {row['labels']} labels, {row['what']}": [
            row["seconds"],
            row["peak_mb"],
        ]
        for row in rows
    }


PARTS: dict[str, Callable[[Path, Path, bool, int], tuple[Rows, Figures]]] = {
    "parity": parity,
    "de": de,
    "whole": whole,
    "tahoe": tahoe,
    "cost": cost,
}


def main() -> None:
    """Run the parts that were asked for; each writes its own CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller, under 50 s")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where up to 3 GB of data go until the end")
    parser.add_argument("--peer-python", type=Path, default=Path("/tmp/ce_env/bin/python"))
    options = parser.parse_args()
    usual = ["parity", "de"] if options.quick else ["parity", "de", "whole", "tahoe"]
    cores = len(os.sched_getaffinity(0))
    figures: Figures = {"cores": cores, "threads": THREADS, "rounds": options.rounds}
    for part in options.part or usual:
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            rows, figures[part] = PARTS[part](
                Path(folder), options.peer_python, options.quick, options.rounds
            )
        finish(f"evaluate_{part}{'_quick' if options.quick else ''}", rows, figures)


if __name__ == "__main__":
    main()
