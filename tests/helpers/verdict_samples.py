"""Scores whose verdict is known, written and judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from statetx.config import Evaluation
from statetx.evaluation.scores.columns import COLUMNS, IDENTITY
from statetx.evaluation.verdict.metrics import METRICS
from statetx.evaluation.verdict.verdict import RefScores, RunScores, verdict

SETTINGS = Evaluation(n_bootstrap=400)
HIGHER = {metric.column for metric in METRICS if metric.better == "higher"}


def table(line: str, drugs: int, skill: float, seed: int = 0, doses: int = 3) -> pd.DataFrame:
    """Scores of a model between floor (skill 0) and perfect (skill 1), with shared difficulty."""
    shared = np.random.default_rng([1, *line.encode()])
    own = np.random.default_rng([seed, int(1000 * skill), *line.encode()])
    rows = []
    for drug in range(drugs):
        hard = shared.normal() * 0.1
        for dose in range(doses):
            value = skill + hard + 0.01 * own.normal()
            row = {"line": line, "perturbation": f"D{drug}_{dose}", "drug": f"D{drug}"}
            row |= {"dose": dose, "n_cells": 40, "note": ""}
            for name in COLUMNS:
                row[name] = value if name in HIGHER else 1 - value
            row |= dict.fromkeys(("mse_control", "variety_real", "variety", "spread_ratio"), 1.0)
            rows.append(row)
    return pd.DataFrame(rows, columns=[*IDENTITY, *COLUMNS, "note"])


class Experiment:
    """Writes scores and judges them."""

    def __init__(self, root: Path, lines: int = 2, drugs: int = 5, doses: int = 3) -> None:
        self.root, self.drugs, self.doses = root, drugs, doses
        self.lines = [f"L{i}" for i in range(lines)]
        self.runs: list[RunScores] = []
        self.references = []
        for line in self.lines:
            home = root / "reference" / line
            home.mkdir(parents=True)
            self.table(line, 0.0).to_csv(home / "floor.csv", index=False)
            self.table(line, 0.9).to_csv(home / "ceiling.csv", index=False)
            self.references.append(RefScores("s", line, home))

    def end(self, name: str, change: Callable[[pd.DataFrame], None], skill: float = 0.9) -> None:
        """Write a reference of all lines, or write it anew."""
        for reference in self.references:
            frame = self.table(reference.line, skill)
            change(frame)
            frame.to_csv(reference.directory / f"{name}.csv", index=False)

    def table(self, line: str, skill: float, seed: int = 0) -> pd.DataFrame:
        return table(line, self.drugs, skill, seed, self.doses)

    def add(
        self,
        model: str,
        kind: str,
        skill: float,
        seed: int = 0,
        change: Callable[[pd.DataFrame], None] = lambda frame: None,
    ) -> None:
        for line in self.lines:
            frame = self.table(line, skill, seed)
            change(frame)
            path = self.root / f"{model}-{seed}-{line}.csv"
            frame.to_csv(path, index=False)
            self.runs.append(RunScores("s", model, kind, seed, line, path))

    def judge(self) -> dict:
        out = self.root / "out"
        meta = {"experiment": "main", "dataset": "demo", "checkpoint": "best", "code": "abc"}
        verdict(self.runs, self.references, meta, SETTINGS, out)
        return json.loads((out / "verdict.json").read_text())


def call(document: dict, model: str, metric: str = "pearson_delta", seed: int = 0) -> dict:
    return next(
        c
        for c in document["comparisons"]
        if (c["model"], c["metric"], c["seed"]) == (model, metric, seed)
    )
