"""False calls where nothing is better, from cells to the verdict.

    python benchmarks/verdict_cells.py [--quick]

60 simulated screens (2 test lines, 6 drugs, 2 doses, 30 cells), packed, with reference and scores of their own.
Model and baseline move control cells by the measured effect of the condition plus errors of equal size, which
the doses and lines of a drug share in part. Counted, per headline metric: screens in which the
model is called BETTER than the baseline, or WORSE. `verdict.py` does the same with more screens and designs, on scores.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from common import arguments, finish

from statetx.config import Dataset, Evaluation, Simulate
from statetx.data.pack.pack import pack
from statetx.data.simulate import CONTROL, line_names, simulate
from statetx.data.store.layout import file_name
from statetx.data.store.plan import write_plan
from statetx.data.store.store import Store, open_store
from statetx.evaluation.held_out.evaluate import evaluate_run
from statetx.evaluation.held_out.reference import reference
from statetx.evaluation.verdict.metrics import METRICS
from statetx.evaluation.verdict.verdict import RefScores, RunScores, verdict
from statetx.shared.moved_cells import expressed_in, move

HEADLINE = [metric.name for metric in METRICS if metric.headline]
TESTED = ("L01", "L02")
SETTINGS = Evaluation(profile="minimal")
KINDS = {"no_change": "no_change", "baseline": "context_mean", "model": "pertsets"}
ERROR = 1.6
"""Size of the errors, in units of what conditions differ by."""


def screen(home: Path, seed: int) -> tuple[Store, pd.DataFrame]:
    """Simulate and pack one screen; return it with its plan."""
    sizes = {"n_lines": 3, "n_drugs": 8, "n_genes": 200, "n_hvg": 100}
    few = {"cells_per_condition": 30, "controls_per_line": 120, "doses": [0.5, 5.0]}
    settings = Simulate.model_validate({**sizes, **few, "seed": seed})
    simulate(settings, home / "source")
    dataset = Dataset(
        files="simulate",
        simulate=settings,
        control_pert=CONTROL,
        scale="counts",
        expression_key="X_hvg",
    )
    files = [home / "source" / f"{file_name(line)}.h5ad" for line in line_names(settings)]
    pack(files, dataset, "null", home / "pack")
    store = open_store(home / "pack")
    table = store.conditions.loc[~store.conditions["is_control"]]
    table = table[["line", "perturbation", "drug"]].drop_duplicates()
    trained = ~table["line"].isin(TESTED) | table["drug"].isin(["Drug07", "Drug08"])
    plan = table.assign(role=np.where(trained, "train", "test"), reason="")
    write_plan(plan, home / "plan.parquet")
    return store, plan[~trained]


def predictions(
    store: Store, conditions: pd.DataFrame, rng: np.random.Generator
) -> dict[str, dict[str, ad.AnnData]]:
    """Contender -> line -> predicted cells."""
    out: dict[str, dict[str, ad.AnnData]] = {name: {} for name in KINDS}
    shared: dict[tuple[str, str], np.ndarray] = {}
    for line, part in conditions.groupby("line"):
        cells = store.line(str(line))
        control = cells.expression(cells.rows(store.control))
        expressed = expressed_in(control)
        means = {p: cells.expression(cells.rows(p)).mean(axis=0) for p in part["perturbation"]}
        size = np.std([mean - control.mean(axis=0) for mean in means.values()], axis=0)
        for name in KINDS:
            made, labels = [], []
            for label, drug in part[["perturbation", "drug"]].itertuples(index=False):
                if (name, drug) not in shared:
                    luck = np.exp(0.4 * rng.normal())
                    shared[name, drug] = np.array([luck, *rng.normal(size=len(size))])
                luck, common = shared[name, drug][0], shared[name, drug][1:]
                error = ERROR * luck * size * (0.75 * common + 0.66 * rng.normal(size=len(size)))
                drawn = control[rng.choice(len(control), len(cells.rows(label)))]
                wanted = np.clip(means[label] + error, 0, None)
                if name != "no_change":
                    drawn = move(drawn, wanted, expressed, rng)
                made.append(drawn)
                labels += [label] * len(drawn)
            obs = pd.DataFrame(
                {"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))]
            )
            x = np.concatenate(made).astype(np.float32)
            out[name][str(line)] = ad.AnnData(x, obs, pd.DataFrame(index=store.genes))
    return out


def judge(home: Path, seed: int) -> dict[str, Any]:
    """Calls of the model in one screen, by headline metric."""
    store, conditions = screen(home, seed)
    plan, runs, references = home / "plan.parquet", [], []
    for line in TESTED:
        reference(home / "pack", plan, line, SETTINGS, home / "reference" / line)
        references.append(RefScores("null", line, home / "reference" / line))
    for name, by_line in predictions(store, conditions, np.random.default_rng([3, seed])).items():
        for line, cells in by_line.items():
            out = home / name / line
            out.mkdir(parents=True)
            cells.write_h5ad(out / "pred.h5ad")
            made = home / "reference" / line
            evaluate_run(home / "pack", plan, line, out / "pred.h5ad", made, SETTINGS, out)
            runs.append(RunScores("null", name, KINDS[name], 0, line, out / "scores.csv"))
    verdict(runs, references, {}, Evaluation(), home)
    found = json.loads((home / "verdict.json").read_text())["comparisons"]
    calls = {c["metric"]: c["call"] for c in found if c["metric"] in HEADLINE}
    return {"screen": seed, **calls}


def main() -> None:
    """Judge all screens."""
    quick = arguments((__doc__ or "").split("\n")[0]).quick
    rows = []
    for seed in range(3 if quick else 60):
        with tempfile.TemporaryDirectory() as home:
            rows.append(judge(Path(home), seed))
    table = pd.DataFrame(rows)[HEADLINE]
    figures = {
        call.lower(): {name: round(float((table[name] == call).mean()), 4) for name in HEADLINE}
        for call in ("BETTER", "WORSE")
    }
    print(pd.DataFrame(figures).to_string())
    finish("verdict_cells_quick" if quick else "verdict_cells", rows, figures)


if __name__ == "__main__":
    main()
