"""What a second model costs when the reference of its split is made already.

    python benchmarks/second_model.py [--quick] [--rounds 3]

A line with 50,682 cells, 2,000 genes, 60 labels, 2,000 controls and 30 % of values that are not zero is
tested whole; a small second line trains two baselines. `statetx reference` (floor, ceiling, real
differential expression) and `statetx evaluate-run` run as the rules call them, each in a process of its
own. The first model pays for both, the second for its own evaluation only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import anndata as ad
import yaml
from common import finish
from evaluate_pairs import CONTROL, LABEL, even_sizes, write_large

LINE, RUNS = "line", ("no_change", "context_mean")


def prepare(home: Path, quick: bool) -> Path:
    """Write cells and configuration, and run the road up to the predictions."""
    sizes = even_sizes(3_000, 400, 10) if quick else even_sizes(50_682, 2_000, 60)
    for name, own in (("A", even_sizes(600, 100, len(sizes) - 1)), ("B", sizes)):
        path = home / f"{name}.h5ad"
        write_large(path, own, 500 if quick else 2_000, 0.3, False)
        cells = ad.read_h5ad(path)
        cells.obs[LINE] = name
        cells.write_h5ad(path)
    config = {
        "datasets": {
            "screen": {
                "files": [str(home / "*.h5ad")],
                "pert_col": LABEL,
                "cell_type_key": LINE,
                "batch_col": None,
                "control_pert": CONTROL,
                "scale": "log1p",
            }
        },
        "splits": {
            "out": {
                "dataset": "screen",
                "generator": "line_out",
                "lines": ["B"],
                "val_line_fraction": 0.0,
            }
        },
        "models": {name: {"kind": name} for name in RUNS},
        "experiments": {"both": {"splits": ["out"], "models": list(RUNS)}},
    }
    path = home / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    stage(path, "pack", "screen")
    stage(path, "split", "screen/out")
    for name in RUNS:
        stage(path, "train", f"screen/out/{name}/0")
        stage(path, "predict", f"screen/out/{name}/0")
    return path


def stage(config: Path, name: str, run: str) -> float:
    """Run a stage and return its seconds."""
    command = [str(Path(sys.executable).with_name("statetx")), name]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, "--config", str(config), "--run", run],
        cwd=config.parent,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name} {run}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - begin


def main() -> None:
    """Time the reference and two models by turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, under 50 s")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = prepare(Path(folder), options.quick)
        rows = []
        for number in range(1 if options.quick else options.rounds):
            row = {"round": number, "reference": stage(config, "reference", "screen/out")}
            row |= {name: stage(config, "evaluate-run", f"screen/out/{name}/0") for name in RUNS}
            rows.append({key: round(value, 2) for key, value in row.items()})
            print(rows[-1], flush=True)
    first = median(row["reference"] + row[RUNS[0]] for row in rows)
    second = median(row[RUNS[1]] for row in rows)
    figures = {"first_s": first, "second_s": second, "first / second": round(first / second, 2)}
    finish("second_model_quick" if options.quick else "second_model", rows, figures)


if __name__ == "__main__":
    main()
