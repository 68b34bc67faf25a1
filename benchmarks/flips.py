"""Single flipped bytes and cuts in every contract file: is the stage that reads it next misled?

    python benchmarks/flips.py [--quick] [--flips 600] [--cuts 100] [--kind NAME] [--seed 0]

Runs the workflow on the tiny configuration, and on a second data set whose genes are chosen on the split.
Then one byte of one file at a time is flipped (or the file is cut), in a copy, and the stages that read the
file run as their commands call them. An answer is a refusal, the undamaged result, a wrong result that was
accepted, or a traceback (or crash).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from common import ROOT, finish

sys.path.insert(0, str(ROOT / "tests" / "workflow"))
sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
import engine
import samples
from road import copy_project

# Imported before processes fork that need them.
import statetx.evaluation.held_out.evaluate
import statetx.evaluation.held_out.reference
import statetx.evaluation.verdict.verdict
import statetx.inference.predict
import statetx.reporting.page.page
import statetx.splits.split
import statetx.training.fit  # noqa: F401

CONFIG = Path("flips.yaml")
KEEP = ROOT / ".state" / "flips"
DATA = ("tiny", "chosen")
"""Data sets: modelled in an obsm matrix, and in genes chosen on the split."""

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "packed cells": ("results/{d}/pack/*.h5ad", ("train", "predict", "reference", "evaluate")),
    "conditions": (
        "results/{d}/pack/conditions.parquet",
        ("split", "train", "reference", "report"),
    ),
    "manifest": (
        "results/{d}/pack/manifest.json",
        ("split", "train", "predict", "reference", "evaluate", "verdict", "report"),
    ),
    "plan": (
        "results/{d}/of_{d}/plan.parquet",
        ("train", "predict", "reference", "evaluate", "verdict", "report"),
    ),
    "genes": ("results/{d}/of_{d}/genes/*.txt", ("train", "predict", "reference", "evaluate")),
    "model.json": (
        "results/{d}/of_{d}/*/seed0/model/model.json",
        ("predict", "evaluate", "verdict", "report"),
    ),
    "weights": ("results/{d}/of_{d}/*/seed0/model/*.safetensors", ("predict",)),
    "golden cells": ("results/{d}/of_{d}/*/seed0/model/golden.npz", ("predict",)),
    "genes of a model": ("results/{d}/of_{d}/*/seed0/model/genes.txt", ("predict",)),
    "curves": ("results/{d}/of_{d}/*/seed0/model/metrics.csv", ("report",)),
    "predictions": ("results/{d}/of_{d}/*/seed0/predictions/best/*.h5ad", ("evaluate",)),
    "reference tables": ("results/{d}/of_{d}/reference/*/*.parquet", ("evaluate",)),
    "kernel widths": ("results/{d}/of_{d}/reference/*/bandwidths.json", ("evaluate",)),
    "reference scores": ("results/{d}/of_{d}/reference/*/*.csv", ("verdict",)),
    "scores": ("results/{d}/of_{d}/*/seed0/scores/best/*/scores.csv", ("verdict",)),
    "verdict": ("results/{d}/all_{d}/verdict.json", ("report", "show")),
    "records": ("results/{d}/**/*record.json", ("predict", "evaluate", "verdict", "report")),
}
"""Kind of file -> where it lies, and the stages that read it, in their order."""
UNREAD = (
    *("split.toml", "lint.json", "prune.json", "leaderboard.csv", "truth.parquet", "config.yaml"),
    *("results.csv", "agg_results.csv", "de.parquet", "curves.svg", "survey.json", "sources.json"),
)
"""Files for people: no stage reads them."""


def configuration() -> dict[str, Any]:
    """Return the tiny configuration with an experiment for each way to choose genes."""
    tiny = yaml.safe_load((ROOT / "config/test/tiny.yaml").read_text())
    data, split, small = tiny["datasets"]["tiny"], tiny["splits"]["block"], tiny["models"]["small"]
    chosen = {key: value for key, value in data.items() if key != "expression_key"}
    network = {key: value for key, value in small.items() if key != "embed_key"}
    return {
        "datasets": {"tiny": data, "chosen": chosen},
        "splits": {f"of_{name}": {**split, "dataset": name} for name in DATA},
        "models": {
            "context_mean": {"kind": "context_mean"},
            "small": small,
            "network": {**network, "genes": {"n_hvg": 40}},
        },
        "experiments": {
            "all_tiny": {"splits": ["of_tiny"], "models": ["context_mean", "small"]},
            "all_chosen": {"splits": ["of_chosen"], "models": ["context_mean", "network"]},
        },
        "evaluation": tiny["evaluation"],
    }


def finished(home: Path) -> None:
    """Run the workflow in a copy of the project; keep what it made, and the configuration."""
    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder))
        (project / CONFIG).write_text(yaml.safe_dump(configuration()))
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", str(CONFIG)]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        for name in ("results", ".state", str(CONFIG)):
            if (project / name).exists():
                shutil.move(project / name, home / name)


def stage(name: str, data: str) -> None:
    """Run a stage as its command does, in the working directory."""
    from statetx.cli import main as cli
    from statetx.cli import stages as cli_stages

    for model in ("context_mean", "small" if data == "tiny" else "network"):
        run = f"{data}/of_{data}/{model}/0"
        if name == "train" and model == "context_mean":
            cli_stages.train(CONFIG, run)  # a network takes too long for every byte
        elif name == "predict":
            cli_stages.predict(CONFIG, run)
        elif name == "evaluate":
            cli_stages.evaluate_run(CONFIG, run)
    if name == "split":
        cli_stages.split(CONFIG, f"{data}/of_{data}")
    elif name == "reference":
        cli_stages.reference(CONFIG, f"{data}/of_{data}")
    elif name == "verdict":
        cli_stages.verdict(CONFIG, f"all_{data}")
    elif name == "report":
        cli_stages.report(CONFIG, f"all_{data}")
    elif name == "show":
        cli.show(Path(f"results/{data}/all_{data}/verdict.json"))


def outputs(home: Path, names: tuple[str, ...], data: str) -> dict[str, str]:
    """Return digests of what the stages write."""
    place = f"results/{data}/of_{data}"
    patterns = {
        "split": [f"{place}/plan.parquet"],
        "train": [
            f"{place}/context_mean/seed0/model/{n}" for n in ("best.safetensors", "genes.txt")
        ],
        "predict": [f"{place}/*/seed0/predictions/best/*.h5ad"],
        "reference": [f"{place}/reference/*/*.csv", f"{place}/reference/*/*.parquet"],
        "evaluate": [f"{place}/*/seed0/scores/best/*/*.csv"],
        "verdict": [f"results/{data}/all_{data}/leaderboard.csv"],
        "report": [f"results/reports/all_{data}.html"],
    }
    found = {}
    for name in names:
        for pattern in patterns.get(name, ()):
            for path in sorted(home.glob(pattern)):
                found[str(path.relative_to(home))] = content(path)
    return found


def content(path: Path) -> str:
    """Return a digest of what a file says; what it was made from does not count."""
    data = path.read_bytes()
    if path.suffix == ".h5ad":
        import anndata

        read = anndata.read_h5ad(path)
        x = read.X if not hasattr(read.X, "toarray") else read.X.toarray()
        return engine.digest([x, list(read.var_names), read.obs.astype(str).to_numpy().tolist()])
    return hashlib.sha256(data).hexdigest()


def kind_of(name: str, data: str, cut: bool) -> engine.Kind:
    """Return a kind of file of one data set for the engine of the fuzz suite."""
    pattern, names = KINDS[name]

    def damage(home: Path, rng: random.Random) -> str:
        path = rng.choice(sorted(home.glob(pattern.format(d=data))))
        raw = bytearray(path.read_bytes())
        at = rng.randrange(len(raw))
        if cut:
            del raw[at:]
        else:
            raw[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(raw))
        return f"{path.relative_to(home)}: {'cut at' if cut else 'flip at'} {at}"

    def read(home: Path) -> dict[str, str]:
        with samples.inside(home):
            for step in names:
                stage(step, data)
        return outputs(home, names, data)

    return engine.Kind(f"{'cut' if cut else 'flip'}: {name}, {data}", shutil.rmtree, damage, read)


def unlisted(home: Path) -> list[str]:
    """Return files of the tree that are neither tried nor for people only."""
    known = {
        path
        for data in DATA
        for pattern, _ in KINDS.values()
        for path in home.glob(pattern.format(d=data))
    }
    return sorted(
        str(path.relative_to(home))
        for path in (home / "results").rglob("*")
        if path.is_file()
        and path not in known
        and path.name not in (*UNREAD, ".snakemake_timestamp")
        and not {"simulate", "benchmarks", "reports", "checkpoints"} & set(path.parts)
    )


def main() -> None:
    """Flip, cut, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 flips and 1 cut of every kind")
    parser.add_argument("--flips", type=int, default=600, help="of all kinds together")
    parser.add_argument("--cuts", type=int, default=100, help="of all kinds together")
    parser.add_argument("--kind", default="", help="only kinds whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    engine.HUNG, engine.SLOW = 120.0, 60.0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        finished(home)
        print(f"not tried: {unlisted(home) or 'nothing'}", flush=True)
        names = [name for name in KINDS if options.kind in name]
        wanted = (
            (3, 1) if options.quick else (options.flips / len(names), options.cuts / len(names))
        )
        jobs = []
        for name in names:
            for cut, number in zip((False, True), wanted, strict=True):
                there = [d for d in DATA if any(home.glob(KINDS[name][0].format(d=d)))]
                for data in there:
                    seeds = range(options.seed, options.seed + math.ceil(number / len(there)))
                    jobs.append(engine.Job(kind_of(name, data, cut), home, seeds, math.inf))
        tallies = engine.run(jobs, KEEP, print)
    rows = [row_of(name, tallies) for name in names]
    figures = {key: sum(row[key] for row in rows) for key in rows[0] if key != "kind"}
    print(table([*rows, {"kind": "all", **figures}]))
    finish("flips_quick" if options.quick or options.kind else "flips", rows, figures)


def row_of(name: str, tallies: list[engine.Tally]) -> dict[str, Any]:
    """Return what came of the flips and cuts of a kind of file."""
    row: dict[str, Any] = {"kind": name}
    for what, start in (("flips", "flip"), ("cuts", "cut")):
        own = [t for t in tallies if t.kind.startswith(f"{start}: {name},")]
        for outcome in ("refused", "equal", "wrong", "traceback"):
            row[f"{what} {outcome}"] = sum(t.outcomes[outcome] for t in own)
        rest = sum(t.failed - t.outcomes["wrong"] - t.outcomes["traceback"] for t in own)
        row[f"{what} crash"] = rest
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as aligned text."""
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells
    )


if __name__ == "__main__":
    main()
