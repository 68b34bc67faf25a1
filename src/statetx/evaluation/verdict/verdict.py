"""Is the model better than the best baseline? Pooled scores, intervals, and one call per metric."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from statetx.config import Evaluation
from statetx.core.digests import versions
from statetx.core.text_files import write_json
from statetx.core.writes import whole
from statetx.evaluation.scores.columns import parse_note
from statetx.evaluation.verdict.alarms import flags, undefined
from statetx.evaluation.verdict.bootstrap import LEVEL, Estimate
from statetx.evaluation.verdict.cohort import Contender, RefScores, RunScores, gather
from statetx.evaluation.verdict.dynamic_range import LEAST, dynamic_range, ends_differ, explained
from statetx.evaluation.verdict.metrics import METRICS
from statetx.evaluation.verdict.pooled_scores import Bench, Judged
from statetx.shared.tables import write_table

__all__ = ["RefScores", "RunScores", "verdict"]


def verdict(
    runs: Sequence[RunScores],
    references: Sequence[RefScores],
    meta: dict[str, Any],
    settings: Evaluation,
    out_dir: str | Path,
) -> None:
    """Judge the models of an experiment.

    Writes ``verdict.json`` and ``leaderboard.csv``. Scores are averaged over conditions within a
    line, then over lines, folds pooled; each model is compared with the baseline that has the best
    pooled value of the metric, condition by condition, with a bootstrap over drugs, all doses and
    lines together (`bootstrap.Pooling`). BETTER and WORSE: the interval of the difference lies on one side
    of 0, at the level 1 - 0.05 / (number of trained models), so that a false call among all of them has a
    chance of 5 % (Bonferroni). SAME: it holds 0. UNDECIDED: there is no interval. A model with several seeds
    has a row for each and one for their mean, in whose interval the variance between seeds counts too.

    Parameters
    ----------
    runs
        Scores of every run and line.
    references
        References of every split and line.
    meta
        ``experiment``, ``dataset``, ``checkpoint``; other keys go into the provenance.
    settings
        ``seed`` and ``n_bootstrap``.
    out_dir
        Where to write.

    Raises
    ------
    ResultsError
        A file is missing, or runs were scored on different conditions.
    """
    cohort = gather(runs, references)
    bench = Bench(cohort, settings)
    named = {"experiment", "dataset", "checkpoint"}
    rows = [_row(bench, one) for one in cohort.contenders]
    comparisons = [
        _compare(bench, judged, one)
        for judged in bench.judged.values()
        if judged.sign
        for one in cohort.of("model")
    ]
    document = {
        "format": 1,
        "experiment": meta.get("experiment"),
        "dataset": meta.get("dataset"),
        "splits": sorted({run.split for run in runs}),
        "checkpoint": meta.get("checkpoint"),
        "cohort": {
            "n_conditions": len(bench.single),
            "n_lines": int(bench.single["line"].nunique()),
            "n_drugs": int(bench.single["drug"].nunique()),
            "dropped": cohort.dropped,
            "undefined": undefined(bench),
        },
        "interval": {
            "unit": bench.unit.name,
            "n_bootstrap": settings.n_bootstrap,
            "level": LEVEL,
            "call_level": bench.call_level,
            "reason": bench.unit.reason,
        },
        "metrics": [_metric(bench, judged) for judged in bench.judged.values()],
        "rows": rows,
        "comparisons": comparisons,
        "per_line": _per_line(bench),
        "strata": _strata(bench),
        "flags": flags(bench),
        "provenance": {
            **{key: value for key, value in meta.items() if key not in named},
            "seed": settings.seed,
            "versions": versions(),
        },
    }
    write_json(Path(out_dir) / "verdict.json", document)
    with whole(Path(out_dir) / "leaderboard.csv") as part:
        write_table(_leaderboard(rows, comparisons), part)


def _row(bench: Bench, one: Contender) -> dict[str, Any]:
    i = bench.number(one)
    metrics = {}
    for name, judged in bench.judged.items():
        low, high = judged.estimates[i].interval()
        metrics[name] = {
            "mean": judged.estimates[i].mean,
            "low": low,
            "high": high,
            "n": int(np.isfinite(judged.values(i)).sum()),
            "undefined": one.undefined(judged.metric.column),
        }
        if judged.metric.explained:
            metrics[name] |= _explained(bench, judged, i)
    return {
        "name": one.name,
        "role": one.role,
        "kind": one.kind,
        "seed": one.seed,
        "metrics": metrics,
    }


def _explained(bench: Bench, judged: Judged, one: int) -> dict[str, Any]:
    found = explained(bench, judged, one)
    names = ("explained", "explained_low", "explained_high", "explained_undefined")
    if found is None:
        return dict.fromkeys(names)
    share, undefined = found
    return dict(zip(names, (share.mean, *share.interval(), undefined), strict=True))


def _metric(bench: Bench, judged: Judged) -> dict[str, Any]:
    metric = judged.metric
    reason = None
    apart = ends_differ(bench, judged)
    spanned = dynamic_range(bench, judged)
    # Unknown (no training conditions, so no mean response) is no reason to grey a metric.
    has_range = apart and not (spanned and spanned.fraction < LEAST)
    if not judged.sign:
        reason = "a diagnostic: neither more nor less of it is better"
    elif not any(np.isfinite(columns).any() for columns in judged.columns):
        reason = "undefined for every condition"
        notes = [
            parse_note(note).get(metric.column)
            for one in bench.cohort.of("baseline", "model")
            for note in one.table["note"]
        ]
        common = Counter(note for note in notes if note).most_common(1)
        reason += f": {common[0][0]}" if common else ""
    elif not apart:
        reason = "a replicate of the real cells is not clearly better than control cells"
    elif not has_range:
        low = metric.negative.replace("_", " ")
        reason = (
            f"from the {low}, a replicate comes less than {LEAST:.0%} nearer to a perfect score"
        )
    return {
        "name": metric.name,
        "label": metric.label,
        "better": metric.better,
        "perfect": metric.perfect,
        "description": metric.description,
        "headline": metric.headline and has_range,
        "has_range": has_range,
        "dynamic_range": None
        if spanned is None
        else {
            "fraction": spanned.fraction,
            "negative": spanned.negative,
            **spanned.by_positive,
            "n": spanned.n,
            "undefined": spanned.undefined,
        },
        "reason": reason,
    }


def _best_baseline(bench: Bench, judged: Judged, seed: int | None) -> Contender | None:
    """The baseline with the best pooled mean; of its seeds the model's own, if there is one."""
    means: dict[str, list[float]] = {}
    for one in bench.cohort.of("baseline"):
        mean = judged.estimates[bench.number(one)].mean
        if math.isfinite(mean):
            means.setdefault(one.name, []).append(judged.sign * mean)
    if not means:
        return None
    best = max(sorted(means), key=lambda name: float(np.mean(means[name])))
    twins = [one for one in bench.cohort.of("baseline") if one.name == best]
    return next((one for one in twins if one.seed == seed), twins[0])


def _compare(bench: Bench, judged: Judged, one: Contender) -> dict[str, Any]:
    i, against = bench.number(one), _best_baseline(bench, judged, one.seed)
    out: dict[str, Any] = {
        "model": one.name,
        "seed": one.seed,
        "metric": judged.metric.name,
        "against": None if against is None else against.name,
        **dict.fromkeys(("difference", "low", "high", "wins", "p")),
        "n": int(np.isfinite(judged.values(i)).sum()),
        "unit": judged.pooling.unit.name,
        "call": "UNDECIDED",
        "reason": None,
        "scaled": None,
        "scaled_reason": None,
    }
    if against is None or not out["n"]:
        out["reason"] = (
            "there is no baseline to compare with" if out["n"] else "undefined for every condition"
        )
        return out
    j = bench.number(against)
    difference = bench.gap(judged, i, j)
    paired = judged.sign * (judged.values(i) - judged.values(j))
    known = paired[np.isfinite(paired)]
    low, high = difference.interval()
    out |= {
        "difference": difference.mean,
        "low": low,
        "high": high,
        "wins": float(((known > 0) + 0.5 * (known == 0)).mean()),
        "p": judged.pooling.sign_flip(paired, bench.settings.seed),
    }
    if low is None or high is None:
        out["reason"] = judged.pooling.unit.reason or "too few draws are defined"
    else:
        out["call"] = _call(judged, difference, bench.call_level)
        if out["call"] != _call(judged, difference, LEVEL):
            out["reason"] = "beyond 0 for one model alone, not for the best of all models here"
    ceiling = bench.end("ceiling")
    if bench.clearly_better(judged, ceiling, j) and ceiling is not None:
        there = np.isfinite(judged.values(ceiling))
        room = bench.gap(judged, ceiling, j).mean
        out["scaled"] = bench.gap(judged, i, j, there).mean / room
    else:
        out["scaled_reason"] = f"the ceiling is not clearly better than {against.name}"
    return out


def _call(judged: Judged, difference: Estimate, level: float) -> str:
    low, high = difference.interval(level)
    if low is None or high is None:
        return "UNDECIDED"
    ends = sorted((judged.sign * low, judged.sign * high))
    return "BETTER" if ends[0] > 0 else "WORSE" if ends[1] < 0 else "SAME"


def _strata(bench: Bench) -> list[dict[str, Any]]:
    """Models against the best baseline among conditions of weak, medium and strong real effect."""
    out = []
    for judged in bench.judged.values():
        if not judged.sign:
            continue
        for one in bench.cohort.of("model"):
            against = _best_baseline(bench, judged, one.seed)
            if against is None:
                continue
            i, j = bench.number(one), bench.number(against)
            for name, among in bench.strata.items():
                gap = bench.gap(judged, i, j, among)
                low, high = gap.interval()
                known = among & np.isfinite(judged.values(i)) & np.isfinite(judged.values(j))
                out.append(
                    {
                        "model": one.name,
                        "seed": one.seed,
                        "metric": judged.metric.name,
                        "against": against.name,
                        "stratum": name,
                        "n": int(known.sum()),
                        "difference": gap.mean,
                        "low": low,
                        "high": high,
                    }
                )
    return out


def _per_line(bench: Bench) -> list[dict[str, Any]]:
    """Mean of every contender in every line of every split (a ratio: of that line's sums)."""
    out = []
    for one in bench.cohort.contenders:
        for (split, line), part in one.table.groupby(["split", "line"], sort=True):
            metrics: dict[str, float] = {}
            for metric in METRICS:
                value = part[metric.column].mean()
                if metric.over:
                    both = part[[metric.column, metric.over]].dropna()
                    below = both[metric.over].sum()
                    value = both[metric.column].sum() / below if below > 0 else float("nan")
                metrics[metric.name] = float(value)
            out.append(
                {
                    "name": one.name,
                    "role": one.role,
                    "seed": one.seed,
                    "split": split,
                    "line": line,
                    "n": len(part),
                    "metrics": metrics,
                }
            )
    return out


def _leaderboard(rows: list[dict[str, Any]], comparisons: list[dict[str, Any]]) -> pd.DataFrame:
    judged = {(c["model"], c["seed"], c["metric"]): c for c in comparisons}
    extra = (
        "against",
        "difference",
        "low",
        "high",
        "wins",
        "p",
        "call",
        "reason",
        "scaled",
        "scaled_reason",
    )
    out = []
    for row in rows:
        for name, values in row["metrics"].items():
            found = (
                judged.get((row["name"], row["seed"], name), {}) if row["role"] == "model" else {}
            )
            compared = {
                f"difference_{key}" if key in ("low", "high") else key: found.get(key)
                for key in extra
            }
            own = {key: row[key] for key in ("name", "role", "kind", "seed")}
            out.append({**own, "metric": name, **values, **compared})
    return pd.DataFrame(out).astype({"seed": "Int64"})
