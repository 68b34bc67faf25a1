"""Alarms of a verdict: what was left out, and which predictions look odd."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from statetx.evaluation.scores.columns import FALLBACK, IMPOSSIBLE, REFERENCE, parse_note
from statetx.evaluation.verdict.cohort import Contender
from statetx.evaluation.verdict.metrics import METRICS
from statetx.evaluation.verdict.pooled_scores import PooledScores

COLLAPSED = 0.1
"""Predictions that vary less than this share of the truth are flagged."""
ALIKE = 0.5
"""Flagged: drugs correlate by more than so much of the way from the real correlation to 1."""
DRIFT = 3.0
"""Predicted effects this many times too large or too small are flagged."""


def undefined(pooled: PooledScores) -> list[dict[str, Any]]:
    """Count the conditions that each metric leaves out because the real cells do not define it."""
    found: Counter[tuple[str, str]] = Counter()
    for row in pooled.cohort.with_role("baseline", "model")[0].table.to_dict("records"):
        note = parse_note(row["note"])
        for metric in METRICS:
            if math.isnan(row[metric.column]):
                reason = note.get(metric.column, "undefined for the real cells")
                found[metric.name, reason] += 1
    return [
        {"metric": metric, "n": n, "reason": reason}
        for (metric, reason), n in sorted(found.items())
    ]


def flags(pooled: PooledScores) -> list[dict[str, Any]]:
    """List what a reader should know about a row before believing its numbers."""
    out: list[dict[str, Any]] = []

    def flag(one: Contender, message: str) -> None:
        out.append({"name": one.name, "seed": one.seed, "message": message})

    for one in pooled.cohort.with_role("baseline", "model"):
        if one.seed is None:
            continue  # the mean of seeds that are looked at one by one
        i, notes = pooled.number(one), one.table["note"].map(parse_note)
        impossible = [note[IMPOSSIBLE] for note in notes if IMPOSSIBLE in note]
        if impossible:
            flag(
                one,
                f"values that no cell can have in {len(impossible)} of {len(notes)} conditions: "
                f"{impossible[0]}; means and distances are not to be trusted",
            )
        fallbacks = [note[FALLBACK] for note in notes if FALLBACK in note]
        if fallbacks:
            flag(one, f"{len(fallbacks)} of {len(notes)} conditions: {fallbacks[0]}")
        variety = pooled.pooled_metric["variety"].estimates[i].mean
        predicted, real = _likeness(one)
        alike = f"predicted effects of different drugs correlate by {predicted:.2f}, real ones by {real:.2f}"
        if variety < COLLAPSED:
            flag(
                one,
                "predictions hardly differ between perturbations: the variance between predicted "
                f"deltas is {max(variety, 0):.2f} of the real one"
                + ("" if math.isnan(real) else f"; {alike}"),
            )
        elif predicted > real + ALIKE * max(0.0, 1 - real):
            flag(one, f"drugs are predicted to be too much alike: {alike}")
        spread = pooled.pooled_metric["spread_ratio"].estimates[i].mean
        if spread < COLLAPSED:
            flag(
                one,
                f"cells of one predicted condition hardly differ: {spread:.2f} of the real "
                "variance, so every small shift is significant",
            )
        length = pooled.pooled_metric["delta_norm_ratio"].estimates[i].mean
        if one.role == "model" and not 1 / DRIFT < length < DRIFT:
            flag(
                one,
                f"predicted effects are {length:.2g} times as large as real ones: correlations do not "
                "see that, errors and distances do",
            )
        for metric in METRICS:
            undefined = one.undefined(metric.column)
            if undefined:
                flag(one, f"{metric.label}: undefined for {undefined} conditions, scored 0")
    references = pooled.cohort.with_role("baseline", "model")[0].table["note"].map(parse_note)
    borrowed = [note[REFERENCE] for note in references if REFERENCE in note]
    if borrowed:
        message = f"perturbed reference in {len(borrowed)} of {len(references)} conditions: "
        out.append({"name": "reference", "seed": None, "message": message + borrowed[0]})
    return out


def _likeness(one: Contender) -> tuple[float, float]:
    """Mean correlation between drugs, predicted and real, over the conditions that have both."""
    columns = ["drug_correlation", "drug_correlation_real"]
    by_line = one.table[["line", *columns]].dropna().groupby("line").mean()
    predicted, real = by_line.mean()
    return float(predicted), float(real)
