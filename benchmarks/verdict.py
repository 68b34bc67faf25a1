"""How often a verdict is wrong where nothing is better, and whether it orders what is known to be ordered.

    python benchmarks/verdict.py [--quick]

**Nothing is better.** 200 experiments of each design, in which every trained model and the good baselines are
noisy versions of one truth. Truth and errors are vectors in a space of 60 genes: drugs differ in
strength, a fifth does next to nothing, effects correlate between lines and between the doses of a
drug; so do a model's errors, and it understands some drugs better than others. The six headline
scores are made from the vectors and go through `verdict` as files. Counted, per metric: experiments
in which *any* of the trained models is called BETTER (of several seeds, their mean). Asked for: at
most 5 %. An interval of 95 % puts 2.5 % on that side, so of 200 experiments one in a hundred counts 6 %
where the rate is what it should be; the share over all designs says more.

In the designs `unlike` the baseline gives the mean response and the model noisy effects: scores
differ in lopsided ways from drug to drug. What they differ by on average over many more drugs of the same
screen is taken off. A model that is a little better on most drugs and far worse on a few can then
be called BETTER from a sample that lacks those few; no interval for a mean is safe from that.

**Known orderings** (not with --quick). The demo with a longer training, and predictions whose place is known: an
oracle (every condition's mean from 20 times as many cells of the same planted truth) and the same
with drugs exchanged. From best to worst: oracle, PertSets, context_mean, no_change, shuffled. Not every step
can hold. no_change and context_mean both say nothing about a drug: they tie in discrimination and in
the perturbed reference. A wrong drug still has the response that all drugs share: it correlates with the
truth better than nothing (`pearson_delta`; a little even in the perturbed reference, since high doses
have more of it than the mean), and moves many genes the right way, where silence scores 0
(`direction_fidelity`).
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import yaml
from common import ROOT, arguments, finish

from statetx.config import Evaluation, Simulate
from statetx.data import simulate
from statetx.evaluation.held_out.evaluate import evaluate_run
from statetx.evaluation.scores.columns import COLUMNS, IDENTITY
from statetx.evaluation.scores.conditions import discrimination
from statetx.evaluation.verdict.metrics import METRICS
from statetx.evaluation.verdict.verdict import RefScores, RunScores, verdict
from statetx.shared.moved_cells import expressed_in, move

sys.path.insert(0, str(ROOT / "tests" / "workflow"))
from road import copy_project, run

GENES = 60
DOSES = {1: (1.0,), 3: (0.15, 0.5, 0.9)}
"""Share of the effect that each dose reaches."""
POPULATION = 2000
"""Drugs in all lines that say what two contenders of unlike kind differ by."""
NOISE = 0.25
"""SD of a gene's mean over the real cells of a condition, in units of a strong drug's effect."""
HEADLINE = [metric for metric in METRICS if metric.headline]


@dataclass(frozen=True)
class Design:
    """One kind of experiment.

    Attributes
    ----------
    lines, drugs, doses
        How many are tested.
    models, seeds
        Trained models, and seeds of each; seeds differ in skill if there are several.
    baselines
        How many are as good as the models; `no_change` is there besides.
    correlation
        Of a drug's effects, and of a model's errors, between lines.
    unlike
        Whether the baselines give the mean response.
    """

    lines: int
    drugs: int
    doses: int = 3
    models: int = 1
    seeds: int = 1
    baselines: int = 1
    correlation: float = 0.6
    unlike: bool = False

    @property
    def name(self) -> str:
        """What stands in the table."""
        parts = [f"{self.lines} x {self.drugs} x {self.doses}", f"{self.models} models"]
        parts += [f"{self.seeds} seeds"] * (self.seeds > 1)
        parts += [f"{self.baselines} baselines"] * (self.baselines > 1)
        parts += [f"correlation {self.correlation:g}"] * (self.correlation != 0.6)
        return ", ".join(parts + ["unlike"] * self.unlike)


DESIGNS = [
    Design(2, 4),
    Design(5, 10),
    Design(2, 4, models=3),
    Design(5, 10, models=3),
    Design(5, 10, models=3, baselines=3),
    Design(5, 40),
    Design(1, 12, doses=1),
    Design(8, 1, correlation=0.0),
    Design(5, 10, seeds=3),
    Design(2, 4, unlike=True),
    Design(5, 10, models=3, unlike=True),
    Design(5, 40, unlike=True),
]
"""Few drugs, one line, and one drug (whole lines are drawn) are the hard ones."""
ORDER = ("oracle", "pertsets", "context_mean", "no_change", "shuffled")
STEPS = 3000
"""Of training, twice the demo's."""


class Screen:
    """One simulated experiment: true deltas, measured deltas, and what contenders predict.

    Arrays are [lines, drugs, doses, G].

    Parameters
    ----------
    design, rng
        Its design, and what draws it.
    like
        Screen of the same lines, whose response and errors of the mean response it takes.
    """

    def __init__(
        self, design: Design, rng: np.random.Generator, like: Screen | None = None
    ) -> None:
        self.design, self.rng = design, rng
        strength = rng.uniform(0.7, 1.5, design.drugs)
        self.weak: float = like.weak if like else design.drugs // 5 / design.drugs
        strength[rng.permutation(design.drugs)[: round(self.weak * design.drugs)]] = 0.05
        self.dose = strength[:, None, None] * np.array(DOSES[design.doses])[:, None]
        self.response: np.ndarray = like.response if like else 0.4 * rng.normal(size=GENES)
        self.off: np.ndarray = (
            like.off if like else 0.05 * rng.normal(size=(design.lines, 1, 1, GENES))
        )
        self.truth = (self.response + self._drawn(0.0)) * self.dose
        self.real = self.truth + NOISE * rng.normal(size=self.truth.shape)

    def _drawn(self, of_dose: float) -> np.ndarray:
        """Unit vectors per gene: shared by a drug's lines, of a drug in a line, of a condition."""
        d, shared, normal = self.design, self.design.correlation, self.rng.normal
        whole = math.sqrt(shared) * normal(size=(1, d.drugs, 1, GENES))
        whole = whole + math.sqrt(1 - shared) * normal(size=(d.lines, d.drugs, 1, GENES))
        own = normal(size=(d.lines, d.drugs, d.doses, GENES))
        return math.sqrt(1 - of_dose) * whole + math.sqrt(of_dose) * own

    def model(self, skill: float = 1.0) -> np.ndarray:
        """A noisy version of the truth; some drugs, and some pairs, are understood better."""
        d, shared, normal = self.design, self.design.correlation, self.rng.normal
        luck = math.sqrt(shared) * normal(size=(1, d.drugs, 1, 1))
        luck = luck + math.sqrt(1 - shared) * normal(size=(d.lines, d.drugs, 1, 1))
        return self.truth + skill * 0.5 * np.exp(0.5 * luck) * self._drawn(0.3) * self.dose**0.5

    def mean_response(self) -> np.ndarray:
        """The same for every drug, as a baseline that averages gives it."""
        return np.broadcast_to(0.6 * self.response + self.off, self.truth.shape)

    def scores(self, pred: np.ndarray, discriminate: bool = True) -> pd.DataFrame:
        """The headline scores of a prediction, rows by line, drug, dose."""
        real = self.real
        off, truth_size = ((pred - real) ** 2).mean(-1), (real**2).mean(-1)
        training = 0.55 * self.response
        called, there = np.abs(pred) > 2 * NOISE, np.abs(real) > 2 * NOISE
        right = (called & there & (pred * real > 0)).sum(-1)
        most = np.maximum(called.sum(-1), there.sum(-1))
        error = ((pred - self.truth) ** 2).mean(-1)
        ranked = np.full(real.shape[:3], np.nan)
        if discriminate:
            flat = [cells.reshape(len(cells), -1, GENES) for cells in (pred, real)]
            ranked = np.array(list(map(discrimination, *flat)))
        columns = {
            "pearson_delta": _pearson(pred, real),
            "pearson_delta_perturbed": _pearson(pred - training, real - training),
            "pds_cosine": ranked,
            "mse_unbiased": off - NOISE**2,
            "mse_control": truth_size - NOISE**2,
            "energy": np.sqrt(1 + error) - 1 + 0.01 * self.rng.normal(size=error.shape),
            "direction_fidelity": np.where(there.any(-1), right / np.maximum(most, 1), np.nan),
        }
        return self.table({name: values.ravel() for name, values in columns.items()})

    def table(self, columns: dict[str, np.ndarray]) -> pd.DataFrame:
        """Score columns as ``scores.csv`` has them; what is not given is undefined."""
        line, drug, dose = (index.ravel() for index in np.indices(self.truth.shape[:3]))
        frame = pd.DataFrame(
            {"line": [f"L{i:02d}" for i in line], "drug": [f"D{i:02d}" for i in drug]}
        )
        frame["perturbation"] = [f"{name}_{k}" for name, k in zip(frame["drug"], dose, strict=True)]
        frame["dose"], frame["n_cells"], frame["note"] = dose, 40, ""
        undefined = dict.fromkeys(set(COLUMNS) - set(columns), np.nan)
        return frame.assign(**columns, **undefined)[[*IDENTITY, *COLUMNS, "note"]]


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return (x * y).sum(-1) / lengths


Tables = dict[tuple[str, str, int], pd.DataFrame]
"""Name, kind and seed -> scores of all lines."""


def experiment(design: Design, number: int) -> Tables:
    """Scores of every contender of one simulated experiment; floor and ceiling have no kind."""
    screen = Screen(design, np.random.default_rng([*design.name.encode(), number]))
    rng, shape = screen.rng, screen.truth.shape
    out: Tables = {}
    for name, pred, size in (("floor", 0 * screen.truth, 1.0), ("ceiling", screen.truth, 1.0)):
        out[name, "", 0] = screen.scores(pred + size * NOISE * rng.normal(size=shape))
    if not design.unlike:  # beside the mean response it would be the best in some metrics
        out["no_change", "no_change", 0] = screen.scores(NOISE * rng.normal(size=shape))
    for i in range(design.baselines):
        pred = screen.mean_response() if design.unlike else screen.model()
        out[f"baseline{i}", "context_mean", 0] = screen.scores(pred)
    for i in range(design.models):
        for seed in range(design.seeds):
            skill = math.exp(0.3 * rng.normal()) if design.seeds > 1 else 1.0
            out[f"model{i}", "pertsets", seed] = screen.scores(screen.model(skill))
    return out


def population(design: Design, number: int) -> Tables:
    """Scores of the two kinds of contenders for many more drugs of the same screen."""
    screen = Screen(design, np.random.default_rng([*design.name.encode(), number]))
    many = replace(design, drugs=POPULATION // design.lines)
    large = Screen(many, np.random.default_rng([1, number]), like=screen)
    return {
        ("baseline0", "context_mean", 0): large.scores(large.mean_response(), discriminate=False),
        ("model0", "pertsets", 0): large.scores(large.model(), discriminate=False),
    }


def gaps(experiments: list[Tables]) -> dict[str, float]:
    """What models and good baselines differ by in the mean over experiments, per metric."""
    out = {}
    for metric in HEADLINE:
        found: dict[str, list[float]] = {"pertsets": [], "context_mean": []}
        for (_, kind, _), table in (pair for one in experiments for pair in one.items()):
            if kind in found:
                over = table[metric.over].mean() if metric.over else 1.0
                found[kind].append(float(table[metric.column].mean() / over))
        out[metric.name] = float(np.mean(found["pertsets"]) - np.mean(found["context_mean"]))
    return out


def level(design: Design, experiments: list[Tables]) -> None:
    """Take off what models and good baselines differ by, so that nothing is better."""
    average = gaps(experiments)
    for number, one in enumerate(experiments):
        own = gaps([population(design, number)]) if design.unlike else average
        # Discrimination depends on how many drugs there are to be taken for.
        own["pds_cosine"] = average["pds_cosine"]
        for (_, kind, _), table in one.items():
            for metric in HEADLINE if kind == "pertsets" else ():
                over = table[metric.over] if metric.over else 1.0
                table[metric.column] -= own[metric.name] * over


def judge(tables: Tables, home: Path) -> list[dict[str, Any]]:
    """Write the scores, judge them, return the comparisons of models (of their means over seeds)."""
    runs, references = [], {}
    for (name, kind, seed), table in tables.items():
        for line, part in table.groupby("line"):
            path = home / f"{name}-{seed}-{line}" / f"{name if not kind else 'scores'}.csv"
            if not kind:
                path = home / "reference" / str(line) / f"{name}.csv"
                references[line] = RefScores("null", str(line), path.parent)
            else:
                runs.append(RunScores("null", name, kind, seed, str(line), path))
            path.parent.mkdir(parents=True, exist_ok=True)
            part.to_csv(path, index=False)
    verdict(runs, list(references.values()), {}, Evaluation(), home)
    found = json.loads((home / "verdict.json").read_text())["comparisons"]
    whole = {(one["model"], one["metric"]) for one in found if one["seed"] is None}
    return [c for c in found if c["seed"] is None or (c["model"], c["metric"]) not in whole]


def null(repeats: int, design: Design) -> list[dict[str, Any]]:
    """Shares of false calls in experiments of one design, a row per headline metric."""
    experiments = [experiment(design, number) for number in range(repeats)]
    if design.unlike or design.seeds > 1:
        level(design, experiments)
    found = []
    for one in experiments:
        with tempfile.TemporaryDirectory() as home:
            found.append(judge(one, Path(home)))
    rows = []
    for metric in HEADLINE:
        judged = [[c for c in one if c["metric"] == metric.name] for one in found]
        row: dict[str, Any] = {"case": design.name, "metric": metric.name, "experiments": repeats}
        for call in ("BETTER", "WORSE"):
            hits = [any(c["call"] == call for c in one) for one in judged]
            row[call.lower()] = round(float(np.mean(hits)), 4)
        holds = [c["low"] is None or c["low"] <= 0 <= c["high"] for one in judged for c in one]
        rows.append(row | {"interval_holds_0": round(float(np.mean(holds)), 4)})
    return rows


def demo(home: Path) -> dict[str, dict[str, Any]]:
    """Run the demo with a longer training; return the pooled scores of `ORDER`, and which have range."""
    copy_project(home)
    config = yaml.safe_load((home / "config" / "config.yaml").read_text())
    config["models"]["pertsets"]["training"]["max_steps"] = STEPS
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    run(home, "-m", "snakemake", "--cores", "2", "--configfile", "config.yaml")
    split, pack = home / "results/demo/dc20", home / "results/demo/pack"
    settings = Evaluation.model_validate(config["evaluation"])
    runs, references = [], []
    for reference in sorted((split / "reference").iterdir()):
        line = reference.name
        references.append(RefScores("dc20", line, reference))
        template = ad.read_h5ad(split / f"pertsets/seed0/predictions/best/{line}.h5ad")
        for name, x in known(line, template).items():
            out = home / name / line
            out.mkdir(parents=True)
            ad.AnnData(x, template.obs[["perturbation"]], template.var).write_h5ad(
                out / "pred.h5ad"
            )
            plan = split / "plan.parquet"
            evaluate_run(pack, plan, line, out / "pred.h5ad", reference, settings, out)
            runs.append(RunScores("dc20", name, "given", 0, line, out / "scores.csv"))
        for name in ("no_change", "context_mean", "pertsets"):
            path = split / name / "seed0/scores/best" / line / "scores.csv"
            runs.append(RunScores("dc20", name, name, 0, line, path))
    verdict(runs, references, {}, settings, home / "out")
    found = json.loads((home / "out" / "verdict.json").read_text())
    means = {row["name"]: row["metrics"] for row in found["rows"]}
    return {
        metric["name"]: {name: means[name][metric["name"]]["mean"] for name in ORDER}
        | {"has_range": metric["has_range"]}
        for metric in found["metrics"]
    }


def known(line: str, template: ad.AnnData) -> dict[str, np.ndarray]:
    """Predictions of the oracle, with the right drugs and with exchanged ones, rows as in `template`."""
    planted, number = Simulate(), simulate.line_names(Simulate()).index(line)
    more = planted.model_copy(update={"seed": 1, "cells_per_condition": 800})
    counts, obs = simulate._cells(more, simulate.plant(planted), number)
    genes = [int(name.removeprefix("Gene")) - 1 for name in template.var_names]
    cells, labels = simulate._log1p(counts)[:, genes].tocsr(), obs["drug_dose"].to_numpy(str)
    wanted = template.obs["perturbation"].to_numpy(str)
    drugs = sorted({label.rpartition("_")[0] for label in wanted})
    rng = np.random.default_rng(0)
    out = {name: np.empty(template.shape, dtype=np.float32) for name in ("oracle", "shuffled")}
    for label in np.unique(wanted):
        drug, _, dose = label.rpartition("_")
        other = f"{drugs[(drugs.index(drug) + 1) % len(drugs)]}_{dose}"
        for name, source in (("oracle", label), ("shuffled", other)):
            rows, here = np.flatnonzero(labels == source), np.flatnonzero(wanted == label)
            own = cells[rows].toarray().astype(np.float32)
            drawn = rng.choice(own, len(here), replace=False)
            mean = own.mean(axis=0, dtype=np.float64)
            out[name][here] = move(drawn, mean, expressed_in(own), rng)
    return out


def order(scores: dict[str, dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Print the orderings; return a row per metric, and the steps that do not hold in headline metrics."""
    rows, fails = [], {}
    print(f"\n{'demo':<26}", *(name.rjust(13) for name in ORDER), "  does not hold")
    for metric in METRICS:
        if metric.better == "neither":
            continue
        own, sign = scores[metric.name], 1 if metric.better == "higher" else -1
        values = [math.nan if own[name] is None else float(own[name]) for name in ORDER]
        pairs = zip(ORDER, ORDER[1:], values, values[1:], strict=False)
        wrong = [f"{a} > {b}" for a, b, x, y in pairs if not sign * (x - y) > 0]
        rows.append({"case": "demo", "metric": metric.name, **own, "wrong": ", ".join(wrong)})
        if metric.headline:
            fails[metric.name] = wrong
        name = metric.name + ("" if own["has_range"] else " (no range)")
        print(f"{name:<26}", *(f"{value:13.3f}" for value in values), " ", ", ".join(wrong))
    return rows, fails


def main() -> None:
    """Run both parts and print their tables."""
    quick = arguments((__doc__ or "").split("\n")[0]).quick
    rows: list[dict[str, Any]] = []
    print(f"{'a model is BETTER, % of experiments':<40}", *(f"{m.name[:14]:>15}" for m in HEADLINE))
    with ProcessPoolExecutor(2) as pool:
        todo = DESIGNS[:3] if quick else DESIGNS
        for part in pool.map(partial(null, 25 if quick else 200), todo):
            rows += part
            shares = (f"{row['better']:15.1%}" for row in part)
            print(f"{part[0]['case']:<40}", *shares, flush=True)
    better = pd.DataFrame(rows).groupby("metric", sort=False)["better"].mean().round(4)
    figures: dict[str, Any] = {
        "experiments": sum(row["experiments"] for row in rows) // len(HEADLINE),
        "false_better": better.to_dict(),
        "false_better_worst": max((r["better"], r["case"], r["metric"]) for r in rows),
    }
    if not quick:
        with tempfile.TemporaryDirectory() as home:
            ordered, figures["does_not_hold"] = order(demo(Path(home)))
        rows += ordered
    keys = list(dict.fromkeys(key for row in rows for key in row))
    every = [{key: row.get(key, "") for key in keys} for row in rows]
    finish("verdict_quick" if quick else "verdict", every, figures)


if __name__ == "__main__":
    main()
