"""Training from the command line, beside arc-state's: cells per second, memory, time to the first step.

    python benchmarks/train.py [--quick] [--peer-python /tmp/arc_env/bin/python]

The peer lives in an environment of its own; without it, it is absent:

    python3 -m venv /tmp/arc_env
    /tmp/arc_env/bin/pip install torch==2.13.0
    /tmp/arc_env/bin/pip install arc-state==0.11.1 torch==2.13.0

Both train the same network on the same simulated cells (obsm X_hvg, one h5ad per line, whole sets) by
the same TOML split, each with its own command in a process of its own: `statetx train` after
`statetx pack` and `split`, and `state tx train`. Same threads, dropout, learning rate and batches;
float32, no gene decoder. The peer lets oneDNN multiply float32 in bfloat16 where the CPU can
(DNNL_VERBOSE=1 shows it); --float32 forbids that to both tools, by hiding those instructions from
oneDNN. Two networks:

* medium: State's `state_sm` narrowed to hidden 328, 4 layers of 4 x 82, sets of 128, 2,000 genes
* small: hidden 128, 2 layers of 8 x 16, sets of 64, 500 genes

A round runs every tool twice, with one step and with many, in turns. The end of a training is the
moment in which the tool says so; what comes after (checkpoints, curves) counts in `whole` only.

* steady: cells of the further steps / what they took longer than one step, both counted from the line
  that a tool prints when its imports are done; start-up is not in it
* whole: cells of the longer run / its wall time
* first step: from the start of the process until the first step is taken
* memory: largest sum of RSS over the process and its workers in the longer run

The first round tries the peer with several numbers of workers; the fastest stays. No new round
begins after --minutes. `share` is the model's products, three times the forward pass, over the rate
of this machine in products of the same shapes, the best that was seen in any round.

Whether both learn the same is asked by `train_quality.py`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple

import anndata
import tomli_w
import torch
import yaml
from common import finish
from cost import flop_per_step
from memory import Watch

from statetx.config import Simulate
from statetx.data.simulate import CONTROL, drug_names, label, line_names, simulate
from statetx.models.network.architecture import Architecture
from statetx.models.network.backbone import Shape

LR, DROPOUT, ENCODER_LAYERS, DECODER_LAYERS = 5e-4, 0.1, 4, 4
DOSES = (0.5, 5.0)
NEVER = 1_000_000
"""Steps between validations where there are to be none."""
OURS = ("controls of the same", "first step taken", "training took")
PEER = ("About to call trainer.fit()", "`Trainer.fit` stopped", "`Trainer.fit` stopped")
"""In the lines that a tool prints when it is about to train, imports done, when it has taken the first
step (the peer says so only at the end of a training of one step), and when it has trained."""
TARGETS = {"medium": (1.2, 0.7, 0.7), "small": (1.8, 0.7, 0.7)}
"""Ratios ours / peer: steady rate at least, memory and time to the first step at most."""


@dataclass(frozen=True)
class Scenario:
    """A network, its cells, and how long it trains.

    Attributes
    ----------
    shape
        Backbone.
    cells, sets
        Cells of a set, sets of a batch.
    genes, simulated
        Variable genes that are modelled, of so many.
    steps
        Of the longer run.
    control
        Label of the cells that were not perturbed.
    """

    shape: Shape
    cells: int
    sets: int
    genes: int
    simulated: int
    steps: int
    control: str = CONTROL

    @property
    def per_step(self) -> int:
        """Cells of a step."""
        return self.cells * self.sets

    def architecture(self, labels: int) -> Architecture:
        """Return the network for so many perturbations."""
        return Architecture(
            self.genes,
            self.genes,
            labels,
            self.shape,
            n_encoder_layers=ENCODER_LAYERS,
            n_decoder_layers=DECODER_LAYERS,
            dropout=DROPOUT,
            use_basal_projection=False,
        )


SCENARIOS = {
    "medium": Scenario(Shape(328, 4, 4, 82, 1312), 128, 8, 2000, 2500, 50),
    "small": Scenario(Shape(128, 2, 8, 16, 512), 64, 8, 500, 700, 400),
}


# ---------------------------------------------------------------------------------------------
# cells, split, settings


def prepare(scenario: Scenario, home: Path, sets: float) -> int:
    """Write cells, split and configuration of a scenario, pack; return the number of labels."""
    labels = simulated(scenario, home, sets)
    models = {
        f"{name}{kind}": model_settings(scenario, steps, NEVER, precision)
        for name, steps in (("one", 1), ("many", scenario.steps))
        for kind, precision in (("", "float32"), ("_bf16", "bfloat16"))
    }
    pack(configuration(home, models), home)
    return labels


def simulated(scenario: Scenario, home: Path, sets: float) -> int:
    """Write cells and split of a scenario; return the number of labels.

    Parameters
    ----------
    scenario, home
        What to simulate, and where.
    sets
        Mean number of sets per condition, before the cells beyond whole sets are left out.
    """
    settings = Simulate(
        n_lines=5,
        n_drugs=12,
        doses=list(DOSES),
        cells_per_condition=round(sets * scenario.cells),
        controls_per_line=round(4 * sets * scenario.cells),
        n_genes=scenario.simulated,
        n_hvg=scenario.genes,
        seed=0,
    )
    simulate(settings, home / "cells")
    for path in (home / "cells").glob("*.h5ad"):
        keep_whole_sets(path, scenario.cells)
    (home / "split.toml").write_text(tomli_w.dumps(split(settings, home / "cells")))
    return 1 + settings.n_drugs * len(DOSES)


def pack(configured: Mapping[str, Any], home: Path) -> None:
    """Write a configuration, pack its cells and resolve its split."""
    with open(home / "config.yaml", "w", encoding="utf-8") as handle:
        yaml.safe_dump(configured, handle)
    for stage, name in (("pack", "sim"), ("split", "sim/block")):
        run([*STATETX, stage, "--config", "config.yaml", "--run", name], home)


def keep_whole_sets(path: Path, size: int) -> None:
    """Leave out cells until every condition of a file is a multiple of `size`.

    The peer fills a short set with repetitions of the few cells that were left for it, ours with other
    cells of the condition: losses could not be compared.
    """
    cells = anndata.read_h5ad(path)
    of_condition = cells.obs.groupby("drug_dose", observed=True)
    n = of_condition["drug_dose"].transform("size").astype(int)
    kept = of_condition.cumcount() < n // size * size
    cells[kept.to_numpy()].copy().write_h5ad(path)


def split(settings: Simulate, cells: Path) -> dict[str, Any]:
    """Return a TOML split: in two lines, three drugs validate and three test."""
    drugs = drug_names(settings)
    held = {
        role: [label(drug, dose) for drug in some for dose in DOSES]
        for role, some in (("val", drugs[:3]), ("test", drugs[3:6]))
    }
    return {
        "datasets": {"sim": str(cells)},
        "training": {"sim": "train"},
        "fewshot": {f"sim.{line}": held for line in line_names(settings)[-2:]},
    }


def model_settings(
    scenario: Scenario, steps: int, every: int, precision: str = "float32", **settings: Any
) -> dict[str, Any]:
    """Return the section of one of our models, validated every so many steps."""
    shape = scenario.shape
    return {
        "kind": "pertsets",
        "embed_key": "X_hvg",
        "cell_set_len": scenario.cells,
        "hidden_dim": shape.hidden_size,
        "n_encoder_layers": ENCODER_LAYERS,
        "n_decoder_layers": DECODER_LAYERS,
        "dropout": DROPOUT,
        "use_basal_projection": False,
        "backbone": {
            "num_hidden_layers": shape.num_hidden_layers,
            "num_attention_heads": shape.num_attention_heads,
            "head_dim": shape.head_dim,
            "intermediate_size": shape.intermediate_size,
        },
        "training": {
            "max_steps": steps,
            "batch_size": scenario.sets,
            "lr": LR,
            "val_freq": every,
            "precision": precision,
            "ckpt_every_n_steps": every,
        },
        **settings,
    }


def configuration(
    home: Path,
    models: Mapping[str, dict[str, Any]],
    seeds: Sequence[int] = (0,),
    **dataset: Any,
) -> dict[str, Any]:
    """Return our configuration of the cells in a directory; further entries are of the data set."""
    return {
        "datasets": {
            "sim": {
                "files": str(home / "cells" / "*.h5ad"),
                "control_pert": CONTROL,
                "scale": "counts",
                "expression_key": "X_hvg",
                "control_match": [["cell_line"]],
                **dataset,
            }
        },
        "splits": {"block": {"dataset": "sim", "toml": str(home / "split.toml")}},
        "models": dict(models),
        "experiments": {
            "both": {"splits": ["block"], "models": list(models), "seeds": list(seeds)}
        },
    }


# ---------------------------------------------------------------------------------------------
# commands


STATETX = (sys.executable, "-m", "statetx")


class Ran(NamedTuple):
    """What a command took.

    Attributes
    ----------
    wall_s, cpu_s
        Of the process, with its children.
    ended_s, fit_s
        To the line that ends a training, from the start of the process and from the line before it.
    peak_mb
        Largest sum of RSS over the process and its children.
    """

    wall_s: float
    cpu_s: float
    first_s: float
    fit_s: float
    peak_mb: float


def run(
    command: Sequence[str], home: Path, marks: tuple[str, str, str] = ("", "", ""), threads: int = 2
) -> Ran:
    """Run a command in a directory, watch it, and time the first lines that have `marks` in them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONUNBUFFERED": "1"}
    lines: list[tuple[float, str]] = []
    begin = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert child.stdout is not None
    output = child.stdout

    def read() -> None:
        lines.extend((time.perf_counter() - begin, line) for line in output)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with Watch(child.pid) as seen:
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
    child.returncode = os.waitstatus_to_exitcode(status)  # so that nobody waits for it again
    reader.join()
    times = [next((at for at, line in lines if mark in line), None) for mark in marks]
    if not any(marks):
        times = [0.0, wall, wall]
    began, first, ended = times
    if child.returncode or began is None or first is None or ended is None:
        text = "".join(line for _, line in lines)[-3000:]
        raise SystemExit(f"{' '.join(command)}\nended with {child.returncode}:\n{text}")
    cpu = used.ru_utime + used.ru_stime
    return Ran(wall, cpu, first, ended - began, seen.resident / 1e6)


def train_ours(home: Path, model: str, threads: int, seed: int = 0) -> tuple[Ran, Path]:
    """Train one of the models of `configuration`; return the directory with its curves."""
    out = home / "results" / "sim" / "block" / model / f"seed{seed}"
    shutil.rmtree(out, ignore_errors=True)
    name = f"sim/block/{model}/{seed}"
    command = [*STATETX, "train", "--config", "config.yaml", "--run", name]
    return run(command, home, OURS, threads), out / "model"


def train_peer(
    python: Path,
    scenario: Scenario,
    home: Path,
    steps: int,
    threads: int,
    *,
    workers: int = 0,
    seed: int = 0,
    val_freq: int = NEVER,
    control_sets: bool = True,
    further: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Ran, Path]:
    """Train the peer's network of the same shape; return the directory with its curves.

    `further` are settings that replace ours or that its own files do not have (with a ``+`` in front).
    """
    shape, out = scenario.shape, home / "peer"
    shutil.rmtree(out, ignore_errors=True)
    data = {
        "toml_config_path": home / "split.toml",
        "embed_key": "X_hvg",
        "output_space": "gene",
        "num_workers": workers,
        "pin_memory": "false",
        "batch_col": "batch",
        "pert_col": "drug_dose",
        "cell_type_key": "cell_line",
        "control_pert": scenario.control,
        "should_yield_control_cells": str(control_sets).lower(),
    }
    backbone = {
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_attention_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size,
    }
    model = {
        "cell_set_len": scenario.cells,
        "hidden_dim": shape.hidden_size,
        "n_encoder_layers": ENCODER_LAYERS,
        "n_decoder_layers": DECODER_LAYERS,
        **{f"transformer_backbone_kwargs.{key}": value for key, value in backbone.items()},
    }
    training = {
        "max_steps": steps,
        "batch_size": scenario.sets,
        "lr": LR,
        "val_freq": val_freq,
        "ckpt_every_n_steps": NEVER,
        "train_seed": seed,
        "wandb_track": "false",
    }
    settings = {
        "model": "state_sm",  # linear basal encoder, no gene decoder, dropout 0.1
        **{f"data.kwargs.{key}": value for key, value in data.items()},
        **{f"model.kwargs.{key}": value for key, value in model.items()},
        **{f"training.{key}": value for key, value in training.items()},
        "use_wandb": "false",
        "output_dir": out,
        "name": "run",
        **further,
    }
    command = [str(python.with_name("state")), "tx", "train"]
    command += [f"{key}={value}" for key, value in settings.items()]
    return run(command, home, PEER, threads), out / "run" / "version_0"


# ---------------------------------------------------------------------------------------------
# speed


def product_rate(scenario: Scenario, threads: int, seconds: float = 2.0) -> float:
    """Return the FLOP/s of this machine in float32 products of the shapes of the network.

    The linear layers of a block and the two that see genes, each forward and twice backward.
    """
    torch.set_num_threads(threads)
    shape, rows, genes = scenario.shape, scenario.per_step, scenario.genes
    hidden, width = shape.hidden_size, shape.num_attention_heads * shape.head_dim
    layers = [(hidden, width)] * 3 + [(width, hidden)]
    layers += [(hidden, shape.intermediate_size)] * 2 + [(shape.intermediate_size, hidden)]
    layers = layers * shape.num_hidden_layers + [(genes, hidden), (hidden, genes)]
    x, w, y = (
        {size: torch.randn(*size) for size in sizes}
        for sizes in (
            {(rows, i) for i, _ in layers},
            {(i, o) for i, o in layers},
            {(rows, o) for _, o in layers},
        )
    )

    def all_of_them() -> None:
        for i, o in layers:
            _ = x[rows, i] @ w[i, o]
            _ = y[rows, o] @ w[i, o].T
            _ = x[rows, i].T @ y[rows, o]

    all_of_them()
    rates: list[float] = []
    flop = sum(6 * rows * i * o for i, o in layers)
    end = time.perf_counter() + seconds
    while not rates or time.perf_counter() < end:
        begin = time.perf_counter()
        all_of_them()
        rates.append(flop / (time.perf_counter() - begin))
    return max(rates)


def figures_of(one: Ran, many: Ran, scenario: Scenario) -> dict[str, float]:
    """Return what a short and a long run say about a tool."""
    further = (scenario.steps - 1) * scenario.per_step
    return {
        "steady_cells_per_s": further / max(many.fit_s - one.fit_s, 1e-9),
        "steady_cells_per_cpu_s": further / max(many.cpu_s - one.cpu_s, 1e-9),
        "whole_cells_per_s": scenario.steps * scenario.per_step / many.wall_s,
        "first_step_s": one.first_s,
        "peak_mb": many.peak_mb,
        "whole_s": many.wall_s,
    }


def speed(
    name: str, home: Path, options: argparse.Namespace, until: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Let both tools take turns on one scenario; return rows and figures."""
    scenario = SCENARIOS[name]
    labels = prepare(scenario, home, options.sets)
    workers = options.workers if options.peer else []
    rows: list[dict[str, Any]] = []
    rates: list[float] = []
    for number in itertools.count():
        begin = time.monotonic()
        rates.append(product_rate(scenario, options.threads))
        found: dict[str, tuple[Ran, Ran]] = {}
        for n in workers:
            one, many = (
                train_peer(options.peer_python, scenario, home, steps, options.threads, workers=n)[
                    0
                ]
                for steps in (1, scenario.steps)
            )
            found[f"arc-state, {n} workers"] = one, many
        for kind in ("", "_bf16"):
            one, many = (
                train_ours(home, f"{model}{kind}", options.threads)[0] for model in ("one", "many")
            )
            found["statetx" + (", bfloat16" if kind else "")] = one, many
        for tool, runs in found.items():
            values = figures_of(*runs, scenario)
            rows.append({"scenario": name, "round": number, "tool": tool, **rounded(values)})
            print(rows[-1], flush=True)
        if number == 0 and len(workers) > 1:
            rate = {n: rows[i]["steady_cells_per_s"] for i, n in enumerate(workers)}
            workers = [max(rate, key=lambda n: rate[n])]
        took = time.monotonic() - begin
        if number + 1 == options.rounds or time.monotonic() + took > until:
            break
    flop = flop_per_step(scenario.architecture(labels), scenario.sets, scenario.cells)
    return rows, summary(name, rows, workers, flop, max(rates))


def summary(
    name: str, rows: list[dict[str, Any]], workers: list[int], flop: int, rate: float
) -> dict[str, Any]:
    """Return medians over the rounds, and ratios ours / peer as medians of those within rounds."""
    scenario = SCENARIOS[name]
    tools = {
        tool: [row for row in rows if row["tool"] == tool]
        for tool in ("statetx", "statetx, bfloat16")
    }
    if workers:
        best = f"arc-state, {workers[0]} workers"
        tools["arc-state"] = [row for row in rows if row["tool"] == best]
    keys = [key for key in rows[0] if key not in ("scenario", "round", "tool")]
    medians = {
        tool: rounded({key: median(row[key] for row in own) for key in keys})
        for tool, own in tools.items()
    }
    per_cell = flop / scenario.per_step
    out: dict[str, Any] = {
        "rounds": len(tools["statetx"]),
        **medians,
        "gflop_per_step": round(flop / 1e9, 1),
        "gemm_gflop_per_s": round(rate / 1e9, 1),
        "share_of_gemm_rate": round(
            median(row["steady_cells_per_s"] for row in tools["statetx"]) * per_cell / rate, 3
        ),
    }
    if workers:
        out["peer_workers"] = workers[0]
        for key in keys:
            for tool in ("statetx", "statetx, bfloat16"):
                pairs = zip(tools[tool], tools["arc-state"], strict=True)
                out[f"{key}, {tool} / peer"] = round(median(a[key] / b[key] for a, b in pairs), 3)
        out["targets: steady, peak, first step"] = TARGETS[name]
    return out


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Keep four digits."""
    return {key: float(f"{value:.4g}") for key, value in values.items()}


def main() -> None:
    """Measure every scenario that was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small network, one short round")
    parser.add_argument(
        "--float32", action="store_true", help="no bfloat16 products in either tool"
    )
    parser.add_argument("--peer-python", type=Path, default=Path("/tmp/arc_env/bin/python"))
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="no round is begun that would end later"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="of the peer")
    parser.add_argument("--sets", type=float, default=2.6, help="sets per condition, about")
    options = parser.parse_args()
    options.peer = options.peer_python.with_name("state").exists()
    if options.quick:
        options.scenarios, options.rounds, options.workers = ["small"], 1, [0]
        SCENARIOS["small"] = replace(SCENARIOS["small"], steps=150)
    if options.float32:
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"
    begin = time.monotonic()
    rows: list[dict[str, Any]] = []
    figures: dict[str, Any] = {"threads": options.threads, "peer": options.peer}
    figures["float32"] = options.float32
    for number, name in enumerate(options.scenarios, start=1):
        until = begin + 60 * options.minutes * number / len(options.scenarios)
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            found, figures[name] = speed(name, home, options, until)
        rows += found
    kind = "train" + "_float32" * options.float32
    finish(f"{kind}_quick" if options.quick else kind, rows, figures)


if __name__ == "__main__":
    main()
