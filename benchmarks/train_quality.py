"""Do both tools learn the same? Losses at equal steps of ours and of arc-state's trainings.

    python benchmarks/train_quality.py [--quick] [--peer-python /tmp/arc_env/bin/python]

Three data sets: simulated cells (two drugs of five lines validate; no control sets), the cells and the
split of the demo, and `kang_ifnb` of ../shared/data (two cell types are held out, one of them validates).
The same network everywhere: `small` of `train.py`, 8 sets of 64 or 32 cells, learning rate 5e-4,
dropout 0.1, no schedule. Conditions are cut to whole sets: what the tools put into a short set differs.

* statetx: as configured by default
* statetx, as State: `dropout_per_cell: true` and `sets.controls: random`, as the peer does it

--dropout 0.1 0 repeats everything without dropout.

Losses, all of them the energy distance:

* train: of the batch of a step, with dropout, as the tool logs it
* train sets, validation sets: of the weights at a step, on fixed sets of our loader, dropout off, by
  the same function for both; the peer's checkpoints are read as `statetx import` reads them
* own: the peer's own validation loss over ours of the same weights, where both use the same cells

A tool agrees with the peer if the mean over steps, one number per seed, does not differ (Welch's test
at 5 %). With few seeds that is no proof of equality: the difference and its standard error stand beside it.
With dropout, losses without it depend on the random start much more than the training loss does.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import anndata
import tomli_w
import torch
import train
import yaml
from common import ROOT, finish
from safetensors.torch import load_file
from scipy import stats

from statetx.config import Simulate, load
from statetx.data.simulate import simulate
from statetx.data.store.plan import read_plan
from statetx.data.store.store import open_store
from statetx.models.imported import arc
from statetx.models.imported.checkpoint_file import read_map
from statetx.models.network.architecture import Architecture
from statetx.models.network.losses import energy
from statetx.models.network.set_transformer import PertSets
from statetx.stages import parameters
from statetx.training.inputs.stream import as_batch, make_loader, validation_batches
from statetx.training.loop.lightning_module import Batch
from statetx.training.task import Task

STEPS, LOGGED, EVERY = 300, 50, 100
"""The peer logs every 50th training loss and flushes its file every 100 steps."""
KANG = ROOT.parent / "shared" / "data" / "kang_ifnb_scgen_valid"
KANG_VALIDATES, KANG_TESTS = "FCGR3A+Mono", "NK"
PANEL = 8
"""Batches of training sets that are measured, always the same."""
PEER, OURS, AS_STATE = "arc-state", "statetx", "statetx, as State"
MODELS = {OURS: "ours", AS_STATE: "as_state"}

Curve = dict[tuple[str, int], float]
"""Losses by kind and step."""


@dataclass(frozen=True)
class Case:
    """A data set.

    Attributes
    ----------
    scenario
        Network and sizes of sets.
    write
        Writes cells into a directory; returns further settings of the data set, and the split.
    control_sets
        Whether control cells are targets too.
    """

    scenario: train.Scenario
    write: Callable[[train.Scenario, Path], tuple[dict[str, Any], dict[str, Any]]]
    control_sets: bool = True


# ---------------------------------------------------------------------------------------------
# cells


def write_simulated(scenario: train.Scenario, home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the cells of `train.py`."""
    train.simulated(scenario, home, sets=2.6)
    return {}, {"toml": str(home / "split.toml")}


def write_demo(scenario: train.Scenario, home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the cells of the demo; its split is drawn as there."""
    demo = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    settings = Simulate.model_validate(demo["datasets"]["demo"].get("simulate", {}))
    simulate(settings, home / "cells")
    for path in (home / "cells").glob("*.h5ad"):
        train.keep_whole_sets(path, scenario.cells)
    return {}, {k: v for k, v in demo["splits"]["dc20"].items() if k != "dataset"}


def write_kang(scenario: train.Scenario, home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the cells of Kang et al., two cell types held out whole."""
    (home / "cells").mkdir()
    for path in sorted(KANG.glob("*.h5ad")):
        # Copied by content: the source may not be writable.
        anndata.read_h5ad(path).write_h5ad(home / "cells" / path.name)
        train.keep_whole_sets(home / "cells" / path.name, scenario.cells)
    held = {f"sim.{KANG_VALIDATES}": "val", f"sim.{KANG_TESTS}": "test"}
    split = {
        "datasets": {"sim": str(home / "cells")},
        "training": {"sim": "train"},
        "zeroshot": held,
    }
    (home / "split.toml").write_text(tomli_w.dumps(split))
    columns = {"control_pert": "control", "target_sum": 1832.5, "total_counts_col": "n_total"}
    return columns, {"toml": str(home / "split.toml")}


SMALL = replace(train.SCENARIOS["small"], steps=STEPS)
CASES = {
    "simulated": Case(SMALL, write_simulated, control_sets=False),
    "demo": Case(replace(SMALL, cells=32), write_demo),
    "kang_ifnb": Case(replace(SMALL, cells=32, control="control"), write_kang),
}


def prepare(case: Case, home: Path, seeds: list[int], dropout: float) -> None:
    """Write cells, configuration and split of a case for both tools."""
    columns, split = case.write(case.scenario, home)
    kept = "drawn" if case.control_sets else "none"
    ours: dict[str, Any] = {"dropout": dropout, "sets": {"control_sets": kept}}
    as_state: dict[str, Any] = {
        "dropout": dropout,
        "sets": {"control_sets": kept, "controls": "random"},
        "dropout_per_cell": True,
    }
    models = {
        name: train.model_settings(case.scenario, STEPS, EVERY, **settings)
        for name, settings in (("ours", ours), ("as_state", as_state))
    }
    configured = train.configuration(home, models, seeds, **columns)
    configured["splits"]["block"] = {"dataset": "sim", **split}
    train.pack(configured, home)
    if "toml" not in split:  # the split was drawn, and the peer reads what was drawn
        text = (home / "results" / "sim" / "block" / "split.toml").read_text(encoding="utf-8")
        cells = home / "cells"
        (home / "split.toml").write_text(text.replace("results/sim/pack", str(cells)))


# ---------------------------------------------------------------------------------------------
# one function for the weights of both


@dataclass(frozen=True)
class Panel:
    """Fixed sets, and the labels that their ids stand for."""

    sets: dict[str, list[Batch]]
    vocabulary: list[str]

    def losses(self, model: PertSets, ids: dict[str, int]) -> dict[str, float]:
        """Return the mean energy distance of the sets of each kind; `ids` are those of the model."""
        place = torch.tensor([ids.get(label, -1) for label in self.vocabulary])
        model.eval()
        out = {}
        with torch.no_grad():
            for kind, batches in self.sets.items():
                found = [
                    energy(model(b.control, place[b.perturbation]).cells, b.target) for b in batches
                ]
                out[kind] = float(torch.cat(found).mean())
        return out


def make_panel(home: Path) -> Panel:
    """Draw the sets that the weights of both are measured on."""
    cfg = load(home / "config.yaml")
    results = home / "results" / "sim"
    store, plan = open_store(results / "pack"), read_plan(results / "block" / "plan.parquet")
    vocabulary = [store.control, *plan.perturbations("train")]
    match = tuple(parameters.match_params(cfg, "sim"))
    where = results / "block" / "plan.parquet"
    task = Task(store, plan, where, vocabulary, cfg.model("ours"), 0, match)
    sets = make_loader(task, plan, "train", seed=0).epoch(0)
    trained = [as_batch(batch) for batch in itertools.islice(sets, PANEL)]
    validates, _ = validation_batches(task)
    return Panel({"train sets": trained, "validation sets": validates}, vocabulary)


def measured(folder: Path, panel: Panel) -> Curve:
    """Measure the step checkpoints of one of our runs."""
    meta = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))
    ids = {label: i for i, label in enumerate(panel.vocabulary)}
    out: Curve = {}
    for path in (folder / "checkpoints").glob("step=*.safetensors"):
        model = PertSets(Architecture.from_json(meta["architecture"]))
        model.load_state_dict(load_file(path))
        step = int(path.stem.removeprefix("step="))
        out |= {(kind, step): loss for kind, loss in panel.losses(model, ids).items()}
    return out


def measured_peer(kept: Path, run: Path, panel: Panel) -> Curve:
    """Measure the kept checkpoints of one of the peer's runs."""
    vectors = read_map(run / "pert_onehot_map.pt")
    ids = {label: int(vector.argmax()) for label, vector in vectors.items()}
    out: Curve = {}
    for path in kept.glob("*.ckpt"):
        step = int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])
        out |= {(kind, step): loss for kind, loss in panel.losses(arc.load(path), ids).items()}
    return out


# ---------------------------------------------------------------------------------------------
# trainings


class Keeper:
    """Copies a checkpoint whenever it changed: the peer overwrites its last one."""

    def __init__(self, path: Path, kept: Path) -> None:
        self.path, self.kept = path, kept
        self._end = threading.Event()
        self._seen: int | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Keeper:
        self.kept.mkdir(parents=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._take()

    def _watch(self) -> None:
        while not self._end.wait(0.2):
            self._take(settled_s=0.6)

    def _take(self, settled_s: float = 0.0) -> None:
        try:
            at = self.path.stat().st_mtime_ns
        except OSError:  # not written yet, or between two of them
            return
        if at != self._seen and time.time() - at / 1e9 >= settled_s:
            shutil.copy(self.path, self.kept / f"{at}.ckpt")
            self._seen = at


def logged(path: Path, offset: int) -> Curve:
    """Read logged losses from a CSV of either tool; `offset` makes its steps count from 1."""
    found: Curve = {}
    with open(path, newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            step = int(row["step"]) + offset
            for column, kind in (("train_loss", "train"), ("val_loss", "own")):
                if row.get(column):
                    found[kind, step] = float(row[column])
    return found


def trained_peer(
    case: Case, home: Path, seed: int, dropout: float, panel: Panel, options: argparse.Namespace
) -> Curve:
    """Train the peer, and measure its weights."""
    run, kept = home / "peer" / "run", home / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.rmtree(home / "peer", ignore_errors=True)
    with Keeper(run / "checkpoints" / "last.ckpt", kept):
        _, out = train.train_peer(
            options.peer_python,
            case.scenario,
            home,
            STEPS,
            options.threads,
            seed=seed,
            val_freq=EVERY,
            control_sets=case.control_sets,
            further={"+model.kwargs.dropout": dropout},
        )
    return logged(out / "metrics.csv", 1) | measured_peer(kept, run, panel)


def trained_ours(home: Path, tool: str, seed: int, panel: Panel, threads: int) -> Curve:
    """Train ours, and measure its weights."""
    _, model = train.train_ours(home, MODELS[tool], threads, seed)
    return logged(model / "metrics.csv", 0) | measured(model.parent, panel)


def curves(
    name: str, home: Path, dropout: float, options: argparse.Namespace
) -> dict[str, list[Curve]]:
    """Train every tool with every seed, in turns."""
    case = CASES[name]
    prepare(case, home, options.seeds, dropout)
    panel = make_panel(home)
    found: dict[str, list[Curve]] = {}
    for seed in options.seeds:
        for tool in ([PEER] if options.peer else []) + list(MODELS):
            if tool == PEER:
                curve = trained_peer(case, home, seed, dropout, panel, options)
            else:
                curve = trained_ours(home, tool, seed, panel, options.threads)
            found.setdefault(tool, []).append(curve)
            shown = {
                f"{kind} {step}": round(curve[kind, step], 3)
                for kind, step in sorted(curve)
                if step % LOGGED == 0
            }
            print(name, dropout, seed, tool, shown, flush=True)
    return found


# ---------------------------------------------------------------------------------------------
# comparison

KINDS = {"train": LOGGED, "train sets": EVERY, "validation sets": EVERY}
"""Losses that are compared, and the steps between two of them."""


def table(found: dict[str, list[Curve]]) -> Iterator[dict[str, Any]]:
    """Yield mean and SD over seeds of every loss at every step."""
    for kind, every in KINDS.items():
        for step, (tool, runs) in itertools.product(range(every, STEPS + 1, every), found.items()):
            values = [run[kind, step] for run in runs if (kind, step) in run]
            if len(values) == len(runs):
                sd = stdev(values) if len(values) > 1 else math.nan
                row = train.rounded({"mean": mean(values), "sd": sd})
                yield {"loss": kind, "step": step, "tool": tool, **row}


def comparison(runs: list[Curve], peer: list[Curve]) -> dict[str, Any]:
    """Compare the means over steps of a tool with those of the peer, one number per seed."""
    out: dict[str, Any] = {}
    for kind in KINDS:
        steps = set.intersection(*({k for k in run if k[0] == kind} for run in runs + peer))
        if not steps:
            continue
        ours, theirs = ([mean(run[key] for key in steps) for run in some] for some in (runs, peer))
        se = math.sqrt(sum(stdev(v) ** 2 / len(v) for v in (ours, theirs)))
        p = float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
        row = {"difference": mean(ours) - mean(theirs), "se": se, "p": p}
        out[kind] = {**train.rounded(row), "ratio": round(mean(ours) / mean(theirs), 3)}
        out[kind]["agrees"] = p > 0.05
    return out


def summary(case: Case, found: dict[str, list[Curve]]) -> dict[str, Any]:
    """Return the comparisons of a case."""
    peer = found.pop(PEER, [])
    out: dict[str, Any] = {}
    if len(peer) > 1:
        out = {tool: comparison(runs, peer) for tool, runs in found.items()}
    if peer and not case.control_sets:
        # With control sets, the peer validates on them too.
        shared = [
            run["own", step] / run["validation sets", step]
            for run in peer
            for step in range(EVERY, STEPS + 1, EVERY)
            if ("own", step) in run and ("validation sets", step) in run
        ]
        out["own / ours of the same weights"] = [round(value, 3) for value in shared]
    return out


def main() -> None:
    """Compare on every data set that is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="ours only, one data set and seed")
    parser.add_argument("--peer-python", type=Path, default=Path("/tmp/arc_env/bin/python"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, nargs="+", default=[train.DROPOUT])
    options = parser.parse_args()
    options.peer = options.peer_python.with_name("state").exists() and not options.quick
    if options.quick:
        options.cases, options.seeds = ["demo"], [0]
    # Where threads share their cores with others, those that wait must not spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    figures: dict[str, Any] = {"peer": options.peer, "seeds": len(options.seeds), "steps": STEPS}
    for name, dropout in itertools.product(options.cases, options.dropout):
        title = f"{name}, dropout {dropout}"
        if name == "kang_ifnb" and not KANG.is_dir():
            figures[title] = f"skipped: {KANG} does not exist"
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = curves(name, Path(folder), dropout, options)
        rows += [{"data": name, "dropout": dropout, **row} for row in table(found)]
        figures[title] = summary(CASES[name], found)
    finish("train_quality_quick" if options.quick else "train_quality", rows, figures)


if __name__ == "__main__":
    main()
