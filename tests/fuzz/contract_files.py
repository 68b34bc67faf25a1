"""Files that one stage writes and another reads: a damaged one is refused, or changes nothing.

The readers are those of the stages. `judge` is equality: these files have no other valid content.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import damage
import hdf5
import numpy as np
import samples
from engine import Kind, Result, settle

SPLIT = Path("results/tiny/block")
PACK = Path("results/tiny/pack")
RUN = SPLIT / "context_mean/seed0"
LINE = "L02"
"""The line that the split tests."""


def kinds(tree: Path) -> list[Kind]:
    """Return the kinds of contract files, of a finished tree."""
    copy = partial(_copy, tree)
    h5ad = damage.one_of(damage.in_bytes, damage.in_bytes, hdf5.in_h5ad)
    json_ = damage.one_of(damage.in_bytes, damage.in_json)
    parquet = damage.one_of(damage.in_parquet)
    table = damage.one_of(damage.in_bytes, damage.in_frame)
    text = damage.one_of(damage.in_bytes, damage.in_text)
    binary = damage.one_of(damage.in_bytes)
    model = f"{SPLIT}/*/seed0/model"
    reference = f"{SPLIT}/reference/{LINE}"
    kinds = [
        Kind("store-cells", copy, _some(h5ad, f"{PACK}/*.h5ad"), store),
        Kind("store-conditions", copy, _some(parquet, f"{PACK}/conditions.parquet"), store),
        Kind("store-manifest", copy, _some(json_, f"{PACK}/manifest.json"), store),
        Kind("plan", copy, _some(parquet, f"{SPLIT}/plan.parquet"), plan),
        Kind("genes", copy, _some(text, f"{SPLIT}/genes/*.txt"), store),
        Kind("model.json", copy, _some(json_, f"{model}/model.json"), models),
        Kind("model-weights", copy, _some(binary, f"{model}/*.safetensors"), models),
        Kind("model-golden", copy, _some(binary, f"{model}/golden.npz"), models),
        Kind("model-genes", copy, _some(text, f"{model}/genes.txt"), models),
        Kind("model-curves", copy, _some(table, f"{model}/metrics.csv"), page),
        Kind("predictions", copy, _some(h5ad, f"{RUN}/predictions/best/*.h5ad"), predictions),
        Kind("reference-tables", copy, _some(parquet, f"{reference}/*.parquet"), reference_of),
        Kind("reference-widths", copy, _some(json_, f"{reference}/bandwidths.json"), reference_of),
        Kind("reference-scores", copy, _some(table, f"{reference}/*.csv"), judged),
        Kind(
            "scores", copy, _some(table, f"{SPLIT}/*/seed0/scores/best/{LINE}/scores.csv"), judged
        ),
        Kind("verdict", copy, _some(json_, "results/tiny/main/verdict.json"), page),
    ]
    return [replace(kind, read=_as_stage(kind.read)) for kind in kinds]


def _as_stage(read: Callable[[Path], Result]) -> Callable[[Path], Result]:
    """Return a reader that ends as a stage does: nothing is written before all checksums are known."""

    def read_and_settle(home: Path) -> Result:
        found = read(home)
        settle()
        return found

    return read_and_settle


def _copy(tree: Path, home: Path) -> None:
    unread = shutil.ignore_patterns("simulate", "reports", "checkpoints", "logs")
    shutil.copytree(tree, home, dirs_exist_ok=True, ignore=unread, symlinks=True)


def _some(
    change: Callable[[Path, random.Random], str], pattern: str
) -> Callable[[Path, random.Random], str]:
    def damage_one(home: Path, rng: random.Random) -> str:
        path = damage.files_below(home, rng, pattern)
        return f"{path.relative_to(home).parent}/{change(path, rng)}"

    return damage_one


def store(home: Path) -> Result:
    """Read every cell of the store, in all genes and in the chosen ones."""
    from statetx.data.store.store import open_store

    out: dict[str, Any] = {}
    for genes in (None, home / SPLIT / "genes/15.txt"):
        opened = open_store(home / PACK, genes)
        key = "all" if genes is None else "chosen"
        out[f"genes, {key}"] = opened.genes
        out["lines"], out["control"] = opened.lines, opened.control
        out["aliases"] = opened.manifest.get("control_aliases")
        for name in opened.lines:
            line = opened.line(name)
            rows = np.arange(line.n_cells)
            out[f"expression of {name}, {key}"] = line.expression(rows)
            out[f"runs of {name}"] = [[*map(str, line.batches(rows))], line.barcodes.tolist()]
            out[f"rest of {name}"] = [line.total_counts, line.scale, *line.obsm.values()]
            for label in {*opened.conditions["perturbation"]}:
                has = label in {*opened.conditions.query("line == @name")["perturbation"]}
                out[f"rows of {name}, {label}"] = line.rows(label) if has else None
    table = opened.conditions
    out["conditions"] = {column: table[column].tolist() for column in table.columns}
    return out


def plan(home: Path) -> Result:
    """Read the plan."""
    from statetx.data.store.plan import ROLES, read_plan

    read = read_plan(home / SPLIT / "plan.parquet")
    return {"controls": read.controls, **{role: read.conditions(role) for role in ROLES}}


def models(home: Path) -> Result:
    """Load every checkpoint of both models and predict."""
    from statetx.models import model_dir

    out: dict[str, Any] = {}
    for path in sorted((home / SPLIT).glob("*/seed0/model")):
        for checkpoint in ("best", "last"):
            if checkpoint == "last" and "context_mean" in str(path):
                continue
            model = model_dir.load(path, checkpoint)
            cells = np.linspace(0, 2, 4 * model.meta["n_inputs"]).reshape(4, -1)
            out[f"meta of {path.parts[-3]}"] = _without(model.meta, "versions", "checkpoints")
            out[f"genes of {path.parts[-3]}"] = model.genes
            for label in model.perturbations:
                found = model.predict(cells, LINE, label)
                out[f"{path.parts[-3]} {checkpoint} {label}"] = found.cells
    return out


def _without(meta: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Leave out what is there for people only."""
    return {key: value for key, value in meta.items() if key not in keys}


def predictions(home: Path) -> Result:
    """Read predicted cells as `evaluate` does."""
    from statetx.config import Evaluation
    from statetx.data.store.plan import read_plan
    from statetx.data.store.store import open_store
    from statetx.evaluation.held_out.held_out_line import HeldOutLine
    from statetx.evaluation.held_out.predictions import Predictions

    store, settings = open_store(home / PACK, home / SPLIT / "genes/15.txt"), Evaluation()
    scene = HeldOutLine.from_plan(store, read_plan(home / SPLIT / "plan.parquet"), LINE, settings)
    read = Predictions(home / RUN / f"predictions/best/{LINE}.h5ad")
    read.check(scene)
    cells = {name: [read.cells(name), read.fallback(name)] for name in scene.perturbations}
    return {"genes": scene.genes, **cells}


def reference_of(home: Path) -> Result:
    """Read the real side of the scores."""
    from statetx.evaluation.held_out.reference_files import read_reference

    read = read_reference(home / SPLIT / "reference" / LINE)
    out: dict[str, Any] = {
        **{"gammas": read.gammas, "max_cells": read.max_cells, "seed": read.seed},
        "training": [read.training.values, read.training.n_conditions, read.training.taken_from],
    }
    for name, real in read.real.items():
        group = real.cells
        out[name] = [group.n, group.mean, group.squares, real.delta, real.own_energy]
        out[f"{name}, control"] = [real.control.mean, real.control.noise]
        out[f"{name}, folds"] = read.fold_change(name)
    return {**out, "tests": [read.de.genes, read.de.labels, read.de.p_value, read.de.statistic]}


def judged(home: Path) -> Result:
    """Judge the experiment."""
    from statetx.config import load
    from statetx.stages import jobs

    with samples.inside(home):
        jobs.verdict(load("config.yaml"), "main")
    said = json.loads((home / "results/tiny/main/verdict.json").read_text())
    board = (home / "results/tiny/main/leaderboard.csv").read_text()
    return {**{key: said[key] for key in said if key != "provenance"}, "leaderboard": board}


def page(home: Path) -> Result:
    """Draw the page and print the table."""
    from statetx.config import load
    from statetx.reporting.terminal.verdict_table import print_verdict
    from statetx.stages import jobs

    printed = io.StringIO()
    with samples.inside(home):
        print_verdict(Path("results/tiny/main/verdict.json"), printed)
        path = jobs.report(load("config.yaml"), "main")
        return {"page": path.read_text(encoding="utf-8"), "table": printed.getvalue()}
