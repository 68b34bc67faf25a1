"""The verdict stage writes what the page and the terminal read."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import report_samples as samples

from statetx.config import BASELINES, Evaluation
from statetx.evaluation.scores.columns import COLUMNS, IDENTITY
from statetx.evaluation.verdict.verdict import RefScores, RunScores, verdict
from statetx.reporting.page.page import page
from statetx.reporting.terminal.verdict_table import print_verdict


def scores(path, line, n_drugs, quality, seed):
    """Scores whose correlations rise and whose distances fall with `quality` in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_drugs):
        for dose in (0.5, 5.0):
            noise = 0.02 * rng.standard_normal()
            good, bad = quality + noise, 1.0 - quality + noise
            row = dict.fromkeys(COLUMNS, good)
            row |= dict.fromkeys(("mse_unbiased", "energy", "mmd"), bad)
            row |= dict.fromkeys(("mse_control", "variety_real"), 1.0)
            label = f"drug{i:03d}_{dose:g}uM"
            rows.append({"line": line, "perturbation": label, "drug": f"drug{i:03d}",
                         "dose": dose, "n_cells": 40, **row, "note": ""})  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=[*IDENTITY, *COLUMNS, "note"]).to_csv(path, index=False)
    return path


def judged(directory, n_lines, n_drugs):
    """verdict.json of one model that is better than all baselines."""
    runs, references = [], []
    quality = dict.fromkeys(BASELINES, 0.3) | {"perturbation_mean": 0.5, "pertsets": 0.6}
    for j in range(n_lines):
        line = f"L{j + 1:02d}"
        for name, value in quality.items():
            path = directory / name / line / "scores.csv"
            made = scores(path, line, n_drugs, value, 10 * j)
            runs.append(RunScores("dc20", name, name, 0, line, made))
        home = directory / "reference" / line
        scores(home / "floor.csv", line, n_drugs, 0.0, 10 * j + 1)
        scores(home / "ceiling.csv", line, n_drugs, 0.9, 10 * j + 2)
        references.append(RefScores("dc20", line, home))
    meta = {"experiment": "main", "dataset": "demo", "checkpoint": "best", "code": "abc"}
    verdict(runs, references, meta, Evaluation(n_bootstrap=200), directory / "main")
    return directory / "main" / "verdict.json"


@pytest.mark.parametrize(
    ("n_lines", "n_drugs", "call", "says"),
    [
        (2, 4, "BETTER", "bootstrap over drugs"),
        (6, 1, "BETTER", "bootstrap over cell lines"),
        (2, 1, "UNDECIDED", "an interval needs"),
    ],
)
def test_the_page_shows_what_the_verdict_says(tmp_path, n_lines, n_drugs, call, says):
    arguments = samples.demo(tmp_path) | {"verdict": judged(tmp_path, n_lines, n_drugs)}
    page(**arguments, out=tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f'<div class="card {call.lower()}">' in html
    assert all(name in html for name in BASELINES)
    assert "Pearson of deltas" in html
    assert says in html

    out = io.StringIO()
    print_verdict(arguments["verdict"], out)
    assert call in out.getvalue()
    assert says in out.getvalue()
