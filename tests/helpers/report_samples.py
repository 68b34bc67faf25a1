"""Made-up but realistic inputs of the page, built in code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from statetx.data.store.plan import write_plan
from statetx.evaluation.verdict.contract import Verdict
from statetx.reporting.page.run_files import RunFiles
from statetx.reporting.verdict_view import VerdictView, layout

METRICS: list[dict[str, Any]] = [
    # name, label, better, perfect, headline, floor, baselines, model, ceiling
    ("pearson_delta", "Pearson of deltas", "higher", 1.0, True, 0.0, (0.0, 0.412, 0.523), 0.551, 0.812),
    ("pds_cosine", "Discrimination (cosine)", "higher", 1.0, True, 0.5, (0.5, 0.5, 0.612), 0.594, 0.934),
    ("de_direction", "DE direction match", "higher", 1.0, True, 0.5, (0.5, 0.713, 0.751), 0.792, 0.961),
    ("mmd", "MMD", "lower", 0.0, True, 0.0412, (0.0412, 0.0251, 0.0202), 0.0131, 0.0042),
    ("pearson_delta_pert", "Pearson of deltas (ref: perturbed mean)", "higher", 1.0, False, 0.0, (-0.021, 0.0, 0.124), 0.213, 0.662),
    ("mse", "Squared error", "lower", 0.0, False, 4.1e-4, (4.1e-4, 3.2e-4, 2.9e-4), 2.6e-4, 1.1e-4),
    ("energy_distance", "Energy distance", "lower", 0.0, False, 1.92, (1.92, 1.41, 1.22), 0.97, 0.31),
    ("de_overlap", "DE overlap at N", "higher", 1.0, False, 0.031, (0.030, 0.029, 0.031), 0.033, 0.034),
]  # fmt: skip
BASELINES = ("no_change", "context_mean", "perturbation_mean")
GREYED = "de_overlap"


def verdict(
    n_lines: int = 2, n_drugs: int = 4, doses: int = 3, unit: str | None = "drugs"
) -> dict[str, Any]:
    """A verdict of one trained model and three baselines."""
    rng = np.random.default_rng(0)
    n = n_lines * n_drugs * doses
    lines = [f"L{i + 1:02d}" for i in range(n_lines)]
    metrics, rows, comparisons = [], {}, []
    names = [("floor", "floor"), *((b, "baseline") for b in BASELINES)]
    names += [("pertsets", "model"), ("ceiling", "ceiling")]
    for name, role in names:
        seed = 0 if role in ("baseline", "model") else None
        kind = name if role in ("baseline", "model") else None
        rows[name] = {"name": name, "role": role, "kind": kind, "seed": seed, "metrics": {}}
    per_line = {
        (name, line): {"name": name, "role": role, "seed": rows[name]["seed"], "split": "dc20",
                       "line": line, "n": n // n_lines, "metrics": {}}
        for name, role in names for line in lines
    }  # fmt: skip
    for name, label, better, perfect, headline, floor, base, model, ceiling in METRICS:
        metrics.append(
            {"name": name, "label": label, "better": better, "perfect": perfect, "headline": headline,
             "has_range": name != GREYED, "description": f"{label}: mean over conditions."}
        )  # fmt: skip
        spread = abs(ceiling - floor) * 0.06
        for row, value in zip(rows.values(), (floor, *base, model, ceiling), strict=True):
            half = spread if unit and row["role"] != "floor" else None
            row["metrics"][name] = {
                "mean": value, "low": None if half is None else value - half,
                "high": None if half is None else value + half, "n": n,
                "undefined": 2 if (row["name"], name) == ("no_change", "pds_cosine") else 0,
            }  # fmt: skip
            for line in lines:
                entry = per_line[(row["name"], line)]
                entry["metrics"][name] = value + 1.5 * spread * float(rng.standard_normal())
        sign = 1 if better == "higher" else -1
        difference = model - base[2]
        won = difference * sign > 0
        half = abs(ceiling - floor) * 0.025
        call = "UNDECIDED" if not unit else ("BETTER" if won else "WORSE")
        if unit and abs(difference) < half:
            call = "SAME"
        comparisons.append(
            {"model": "pertsets", "seed": 0, "metric": name, "against": "perturbation_mean",
             "difference": difference, "low": difference - half if unit else None,
             "high": difference + half if unit else None, "wins": 0.583 if won else 0.417,
             "p": 0.0031 if unit else None, "n": n, "call": call,
             "reason": None if unit else "2 drugs are too few to resample", "scaled": difference / (ceiling - base[2])}
        )  # fmt: skip
    content = {
        "format": 1, "experiment": "main", "dataset": "demo", "splits": ["dc20"], "checkpoint": "best",
        "cohort": {"n_conditions": n, "n_lines": n_lines, "n_drugs": n_drugs, "dropped": []},
        "interval": {"unit": unit, "n_bootstrap": 2000, "level": 0.95,
                     "reason": None if unit else "2 drugs in 1 cell line are too few to resample"},
        "metrics": metrics, "rows": list(rows.values()), "comparisons": comparisons,
        "per_line": list(per_line.values()), "flags": [],
        "provenance": {"versions": {"statetx": "0.1.0", "python": "3.11.2"}, "seed": 0},
    }  # fmt: skip
    return Verdict.model_validate(content).model_dump(mode="json", exclude_unset=True)


def laid_out(content: dict[str, Any]) -> VerdictView:
    """Lay out a verdict of the shape that the stage writes; another shape is an error."""
    return layout(Verdict.model_validate(content))


def plan(
    path: Path, n_lines: int, n_drugs: int, doses: tuple[float, ...] = (0.05, 0.5, 5.0)
) -> Path:
    """A drug × cell-line block: a fifth of the drugs in a fifth of the lines is tested."""
    rows = []
    for i in range(n_lines):
        for j in range(n_drugs):
            tested = i < max(1, n_lines // 5), j < max(1, n_drugs // 5)
            role, reason = "train", ""
            if all(tested):
                role, reason = "test", "test drug in a test line"
            elif i == n_lines - 1 and j == n_drugs - 1:
                role, reason = "val", "validation drug in a validation line"
            if n_lines > 3 and (i, j) == (n_lines // 2, n_drugs // 2):
                continue  # never measured
            rows += [
                (f"L{i + 1:02d}", f"drug{j + 1:03d}_{dose:g}uM", role, reason) for dose in doses
            ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_plan(pd.DataFrame(rows, columns=["line", "perturbation", "role", "reason"]), path)
    return path


def fold(path: Path, lines: list[str], tested: str, perturbation: str = "IFN-beta") -> Path:
    """Leave one line out."""
    after = lines[(lines.index(tested) + 1) % len(lines)]
    roles = {tested: "test", after: "val"}
    rows = [(line, perturbation, roles.get(line, "train"), "") for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_plan(pd.DataFrame(rows, columns=["line", "perturbation", "role", "reason"]), path)
    return path


def run(directory: Path, split: str, model: str, seed: int = 0, steps: int = 0) -> RunFiles:
    """A model directory as far as the page reads it."""
    directory.mkdir(parents=True, exist_ok=True)
    described = {"format": 1, "kind": model, "n_genes": 400, "control": "DMSO_TF_00",
                 "control_aliases": [], "perturbations": [f"p{i}" for i in range(60)],
                 "hyper_parameters": {"hidden_dim": 128, "lr": 1e-3}, "split_digest": "0f3a9c"}  # fmt: skip
    (directory / "model.json").write_text(json.dumps(described))
    (directory / "config.yaml").write_text(f"kind: {model}\nhidden_dim: 128\n")
    if steps:
        best = {
            "step": min(steps, 1200),
            "why": "lowest validation loss of those measured every 100 steps",
        }
        described["checkpoints"] = {"best": best}
        (directory / "model.json").write_text(json.dumps(described))
        step = np.arange(10, steps + 1, 10)
        rng = np.random.default_rng(0)
        train = 2 + 6 * np.exp(-step / 300) + 0.15 * rng.standard_normal(len(step))
        val = np.where(step % 100 == 0, 2.3 + 6 * np.exp(-step / 280) + step / 4000, np.nan)
        columns = {"step": step, "train_loss": train, "val_loss": val, "gradient_norm": 1.0}
        pd.DataFrame(columns).to_csv(directory / "metrics.csv", index=False)
    return RunFiles(split, model, seed, directory)


def manifest(path: Path, n_lines: int = 10, cells: bool = True) -> Path:
    """A store's manifest, with the table of conditions beside it."""
    names = [f"L{i + 1:02d}" for i in range(n_lines)]
    content = {
        "format": 1, "dataset": "demo", "genes": ["g"] * 400, "expression_key": "X_hvg",
        "embeddings": {"X_embedding": 64}, "control_pert": "DMSO_TF_00", "scale": "counts",
        "target_sum": 10000.0, "labels_are_genes": False,
        "lines": [{"name": n, "file": f"{n}.h5ad", "n_cells": 2800, "n_controls": 400} for n in names],
        "sources": [{"path": f"/somewhere/{n}.h5ad", "bytes": 3_141_592, "identity": "a1b2c3d4"} for n in names],
        "provenance": {"versions": {"anndata": "0.12.0"}},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    if cells:
        rows = [(n, f"drug{j + 1:03d}_{dose:g}uM", 40)
                for n in names for j in range(20) for dose in (0.05, 0.5, 5.0)]  # fmt: skip
        pd.DataFrame(rows, columns=["line", "perturbation", "n_cells"]).assign(
            is_control=False
        ).to_parquet(path.parent / "conditions.parquet")
    return path


def write(path: Path, content: dict[str, Any]) -> Path:
    """Write a verdict as the stage does; another shape is an error."""
    Verdict.model_validate(content).write(path)
    return path


def demo(directory: Path, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every argument of ``page`` but ``out`` and ``title``, for the demo."""
    runs = [run(directory / name, "dc20", name) for name in BASELINES]
    runs.append(run(directory / "pertsets", "dc20", "pertsets", steps=1500))
    return {
        "verdict": write(directory / "verdict.json", content or verdict()),
        "plans": {"dc20": plan(directory / "dc20" / "plan.parquet", 10, 20)},
        "model_dirs": runs,
        "manifest": manifest(directory / "pack" / "manifest.json"),
    }


def folds(directory: Path) -> dict[str, Any]:
    """Leave-one-line-out: seven lines, one drug, intervals over cell lines."""
    lines = ["B cells", "CD14+ Monocytes", "CD4 T cells", "CD8 T cells", "Dendritic cells",
             "FCGR3A+ Monocytes", "NK cells"]  # fmt: skip
    content = verdict(7, 1, 1, "cell lines")
    content |= {"experiment": "kang", "dataset": "kang", "splits": [f"lo.{i}" for i in range(7)]}
    for entry in content["per_line"]:
        i = int(entry["line"][1:]) - 1
        entry |= {"line": lines[i], "split": f"lo.{i}"}
    runs = [
        run(directory / f"{name}{i}", f"lo.{i}", name, steps=600 if name == "pertsets" else 0)
        for i in range(7)
        for name in (*BASELINES, "pertsets")
    ]
    return {
        "verdict": write(directory / "verdict.json", content),
        "plans": {
            f"lo.{i}": fold(directory / f"lo.{i}.parquet", lines, lines[i]) for i in range(7)
        },
        "model_dirs": runs,
        "manifest": manifest(directory / "pack" / "manifest.json", 7, cells=False),
    }


def large(directory: Path) -> dict[str, Any]:
    """Fifty lines, 380 drugs, two trained models with two seeds, no intervals."""
    content = verdict(50, 8, 1, None)
    content["rows"] += [
        {**row, "name": name, "seed": seed}
        for row in content["rows"]
        if row["role"] == "model"
        for name, seed in (("pertsets", 1), ("wide_model", 0))
    ]
    content["comparisons"] += [
        {**item, "model": name, "seed": seed}
        for item in content["comparisons"]
        for name, seed in (("pertsets", 1), ("wide_model", 0))
    ]
    content["flags"] = [{"name": "perturbation_mean", "seed": 0,
                         "message": "12 labels were never seen in training: context_mean instead"}]  # fmt: skip
    content["cohort"]["dropped"] = [
        {"split": "dc20", "line": f"L{i:02d}", "perturbation": "drug007_5uM",
         "reason": "fewer than 2 cells"} for i in range(1, 10)
    ]  # fmt: skip
    arguments = demo(directory, content)
    arguments["plans"] = {"dc20": plan(directory / "large.parquet", 50, 380, (1.0,))}
    return arguments
