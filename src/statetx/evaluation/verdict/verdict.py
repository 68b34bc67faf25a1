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
from statetx.core.writes import whole
from statetx.evaluation.scores.columns import parse_note
from statetx.evaluation.verdict.alarms import flags, undefined
from statetx.evaluation.verdict.bootstrap import LEVEL, Estimate
from statetx.evaluation.verdict.cohort import Contender, RefScores, RunScores, gather
from statetx.evaluation.verdict.contract import Verdict
from statetx.evaluation.verdict.dynamic_range import (
    LEAST,
    dynamic_range,
    explained,
    floor_and_ceiling_differ,
)
from statetx.evaluation.verdict.metrics import METRICS
from statetx.evaluation.verdict.pooled_scores import PooledMetric, PooledScores
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
    pooled = PooledScores(cohort, settings)
    named = {"experiment", "dataset", "checkpoint"}
    rows = [_row(pooled, one) for one in cohort.contenders]
    comparisons = [
        _compare(pooled, pooled_metric, one)
        for pooled_metric in pooled.pooled_metric.values()
        if pooled_metric.sign
        for one in cohort.with_role("model")
    ]
    document = {
        "format": Verdict.FORMAT,
        "experiment": meta.get("experiment"),
        "dataset": meta.get("dataset"),
        "splits": sorted({run.split for run in runs}),
        "checkpoint": meta.get("checkpoint"),
        "cohort": {
            "n_conditions": len(pooled.single),
            "n_lines": int(pooled.single["line"].nunique()),
            "n_drugs": int(pooled.single["drug"].nunique()),
            "dropped": cohort.dropped,
            "undefined": undefined(pooled),
        },
        "interval": {
            "unit": pooled.unit.name,
            "n_bootstrap": settings.n_bootstrap,
            "level": LEVEL,
            "call_level": pooled.call_level,
            "reason": pooled.unit.reason,
        },
        "metrics": [
            _metric(pooled, pooled_metric) for pooled_metric in pooled.pooled_metric.values()
        ],
        "rows": rows,
        "comparisons": comparisons,
        "per_line": _per_line(pooled),
        "strata": _strata(pooled),
        "flags": flags(pooled),
        "provenance": {
            **{key: value for key, value in meta.items() if key not in named},
            "seed": settings.seed,
            "versions": versions(),
        },
    }
    Verdict.model_validate(document).write(Path(out_dir) / "verdict.json")
    with whole(Path(out_dir) / "leaderboard.csv") as part:
        write_table(_leaderboard(rows, comparisons), part)


def _row(pooled: PooledScores, one: Contender) -> dict[str, Any]:
    i = pooled.number(one)
    metrics = {}
    for name, pooled_metric in pooled.pooled_metric.items():
        low, high = pooled_metric.estimates[i].interval()
        metrics[name] = {
            "mean": pooled_metric.estimates[i].mean,
            "low": low,
            "high": high,
            "n": int(np.isfinite(pooled_metric.values(i)).sum()),
            "undefined": one.undefined(pooled_metric.metric.column),
        }
        if pooled_metric.metric.explained:
            metrics[name] |= _explained(pooled, pooled_metric, i)
    return {
        "name": one.name,
        "role": one.role,
        "kind": one.kind,
        "seed": one.seed,
        "metrics": metrics,
    }


def _explained(pooled: PooledScores, pooled_metric: PooledMetric, one: int) -> dict[str, Any]:
    found = explained(pooled, pooled_metric, one)
    names = ("explained", "explained_low", "explained_high", "explained_undefined")
    if found is None:
        return dict.fromkeys(names)
    share, undefined = found
    return dict(zip(names, (share.mean, *share.interval(), undefined), strict=True))


def _metric(pooled: PooledScores, pooled_metric: PooledMetric) -> dict[str, Any]:
    metric = pooled_metric.metric
    reason = None
    apart = floor_and_ceiling_differ(pooled, pooled_metric)
    spanned = dynamic_range(pooled, pooled_metric)
    # An unknown range (no training conditions, so no mean response) does not grey a metric.
    has_range = apart and not (spanned and spanned.fraction < LEAST)
    if not pooled_metric.sign:
        reason = "a diagnostic: neither more nor less of it is better"
    elif not any(np.isfinite(columns).any() for columns in pooled_metric.columns):
        reason = "undefined for every condition"
        notes = [
            parse_note(note).get(metric.column)
            for one in pooled.cohort.with_role("baseline", "model")
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


def _best_baseline(
    pooled: PooledScores, pooled_metric: PooledMetric, seed: int | None
) -> Contender | None:
    """Return the baseline with the best pooled mean, with the seed of the model if it has that."""
    means: dict[str, list[float]] = {}
    for one in pooled.cohort.with_role("baseline"):
        mean = pooled_metric.estimates[pooled.number(one)].mean
        if math.isfinite(mean):
            means.setdefault(one.name, []).append(pooled_metric.sign * mean)
    if not means:
        return None
    best = max(sorted(means), key=lambda name: float(np.mean(means[name])))
    twins = [one for one in pooled.cohort.with_role("baseline") if one.name == best]
    return next((one for one in twins if one.seed == seed), twins[0])


def _compare(pooled: PooledScores, pooled_metric: PooledMetric, one: Contender) -> dict[str, Any]:
    i, against = pooled.number(one), _best_baseline(pooled, pooled_metric, one.seed)
    out: dict[str, Any] = {
        "model": one.name,
        "seed": one.seed,
        "metric": pooled_metric.metric.name,
        "against": None if against is None else against.name,
        **dict.fromkeys(("difference", "low", "high", "wins", "p")),
        "n": int(np.isfinite(pooled_metric.values(i)).sum()),
        "unit": pooled_metric.pooling.unit.name,
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
    j = pooled.number(against)
    difference = pooled.gap(pooled_metric, i, j)
    paired = pooled_metric.sign * (pooled_metric.values(i) - pooled_metric.values(j))
    known = paired[np.isfinite(paired)]
    low, high = difference.interval()
    out |= {
        "difference": difference.mean,
        "low": low,
        "high": high,
        "wins": float(((known > 0) + 0.5 * (known == 0)).mean()),
        "p": pooled_metric.pooling.sign_flip(paired, pooled.settings.seed),
    }
    if low is None or high is None:
        out["reason"] = pooled_metric.pooling.unit.reason or "too few draws are defined"
    else:
        out["call"] = _call(pooled_metric, difference, pooled.call_level)
        if out["call"] != _call(pooled_metric, difference, LEVEL):
            out["reason"] = "beyond 0 for one model alone, not for the best of all models here"
    ceiling = pooled.reference("ceiling")
    if pooled.clearly_better(pooled_metric, ceiling, j) and ceiling is not None:
        there = np.isfinite(pooled_metric.values(ceiling))
        room = pooled.gap(pooled_metric, ceiling, j).mean
        out["scaled"] = pooled.gap(pooled_metric, i, j, there).mean / room
    else:
        out["scaled_reason"] = f"the ceiling is not clearly better than {against.name}"
    return out


def _call(pooled_metric: PooledMetric, difference: Estimate, level: float) -> str:
    low, high = difference.interval(level)
    if low is None or high is None:
        return "UNDECIDED"
    ends = sorted((pooled_metric.sign * low, pooled_metric.sign * high))
    return "BETTER" if ends[0] > 0 else "WORSE" if ends[1] < 0 else "SAME"


def _strata(pooled: PooledScores) -> list[dict[str, Any]]:
    """Models against the best baseline among conditions of weak, medium and strong real effect."""
    out = []
    for pooled_metric in pooled.pooled_metric.values():
        if not pooled_metric.sign:
            continue
        for one in pooled.cohort.with_role("model"):
            against = _best_baseline(pooled, pooled_metric, one.seed)
            if against is None:
                continue
            i, j = pooled.number(one), pooled.number(against)
            for name, among in pooled.strata.items():
                gap = pooled.gap(pooled_metric, i, j, among)
                low, high = gap.interval()
                known = (
                    among
                    & np.isfinite(pooled_metric.values(i))
                    & np.isfinite(pooled_metric.values(j))
                )
                out.append(
                    {
                        "model": one.name,
                        "seed": one.seed,
                        "metric": pooled_metric.metric.name,
                        "against": against.name,
                        "stratum": name,
                        "n": int(known.sum()),
                        "difference": gap.mean,
                        "low": low,
                        "high": high,
                    }
                )
    return out


def _per_line(pooled: PooledScores) -> list[dict[str, Any]]:
    """Return means of every row in every line of every split (a ratio: of that line's sums)."""
    out = []
    for one in pooled.cohort.contenders:
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
    pooled_metric = {(c["model"], c["seed"], c["metric"]): c for c in comparisons}
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
                pooled_metric.get((row["name"], row["seed"], name), {})
                if row["role"] == "model"
                else {}
            )
            compared = {
                f"difference_{key}" if key in ("low", "high") else key: found.get(key)
                for key in extra
            }
            own = {key: row[key] for key in ("name", "role", "kind", "seed")}
            out.append({**own, "metric": name, **values, **compared})
    return pd.DataFrame(out).astype({"seed": "Int64"})
