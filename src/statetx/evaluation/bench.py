"""All contenders of an experiment on one bench: every metric pooled over the same draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from statetx.config import Evaluation
from statetx.evaluation.bootstrap import Estimate, Pooling
from statetx.evaluation.cohort import Cohort, Contender
from statetx.evaluation.metrics import METRICS, Metric


@dataclass(frozen=True)
class Judged:
    """One metric over all contenders.

    Attributes
    ----------
    metric
        Which.
    values, estimates
        Contender number -> its values per condition (NaN outside the metric's cohort), pooled.
    sign
        +1 if higher is better, -1 if lower, 0 for a diagnostic.
    """

    metric: Metric
    values: list[np.ndarray]
    estimates: list[Estimate]
    sign: int


class Bench:
    """All contenders and metrics of an experiment, pooled."""

    def __init__(self, cohort: Cohort, settings: Evaluation) -> None:
        self.cohort = cohort
        self.settings = settings
        conditions = cohort.conditions
        # A condition that two splits test counts once: its scores are averaged first.
        self.single, self._place = _once(conditions)
        self.pooling = Pooling(
            self.single["line"].to_numpy(dtype=str),
            self.single["drug"].to_numpy(dtype=str),
            settings.n_bootstrap,
            settings.seed,
        )
        self.judged = {metric.name: self._judge(metric) for metric in METRICS}

    def _averaged(self, values: np.ndarray) -> np.ndarray:
        known = np.isfinite(values)
        total = np.bincount(self._place[known], values[known], minlength=len(self.single))
        number = np.bincount(self._place[known], minlength=len(self.single))
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def _judge(self, metric: Metric) -> Judged:
        columns = [metric.column, *([metric.over] if metric.over else [])]
        shared = np.ones(len(self.single), dtype=bool)
        rows = []
        for one in self.cohort.contenders:
            own = [self._averaged(one.table[name].to_numpy(dtype=float)) for name in columns]
            rows.append(own)
            if one.role in ("baseline", "model"):
                shared &= np.all(np.isfinite(own), axis=0)
        values, estimates = [], []
        for own in rows:
            both = shared & np.all(np.isfinite(own), axis=0)
            kept = [np.where(both, column, np.nan) for column in own]
            estimate = self.pooling.pool(kept[0])
            if metric.over:
                estimate = estimate.over(self.pooling.pool(kept[1]))
            values.append(kept[0])
            estimates.append(estimate)
        sign = {"higher": 1, "lower": -1}.get(metric.better, 0)
        return Judged(metric, values, estimates, sign)

    def number(self, one: Contender) -> int:
        """Position of a contender."""
        return next(i for i, other in enumerate(self.cohort.contenders) if other is one)

    def end(self, role: str) -> int | None:
        """Position of floor or ceiling."""
        found = self.cohort.of(role)
        return self.number(found[0]) if found else None

    def clearly_better(self, judged: Judged, one: int | None, other: int | None) -> bool:
        """Whether contender `one` is better than `other` beyond doubt in this metric."""
        if one is None or other is None:
            return False
        gap = judged.estimates[one].minus(judged.estimates[other])
        if not math.isfinite(gap.mean) or judged.sign * gap.mean <= 0:
            return False
        low, high = gap.interval()
        if low is not None and high is not None:
            return min(judged.sign * low, judged.sign * high) > 0
        by_line = self.pooling.line_means(judged.values[one] - judged.values[other])
        return bool((judged.sign * by_line[np.isfinite(by_line)] > 0).all())


def _once(conditions: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Distinct (line, perturbation) pairs, and which of them each condition is."""
    pair = conditions.groupby(["line", "perturbation"], sort=True)
    single = pair["drug"].first().reset_index()
    return single, pair.ngroup().to_numpy()
