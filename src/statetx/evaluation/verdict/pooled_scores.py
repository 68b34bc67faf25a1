"""Scores of all models, baselines and references, pooled over the same bootstrap draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from statetx.config import Evaluation
from statetx.evaluation.verdict.bootstrap import LEVEL, Estimate, Pooling, over_seeds
from statetx.evaluation.verdict.cohort import Cohort, Contender
from statetx.evaluation.verdict.metrics import METRICS, Metric


@dataclass(frozen=True)
class PooledMetric:
    """One metric over all contenders.

    Attributes
    ----------
    metric
        Which.
    columns
        Contender number -> float64 [1 or 2, n], its column and the one to divide by, per condition
        (both NaN where either is, and outside the metric's cohort).
    estimates
        The same, each pooled over the conditions where it is defined.
    pooling
        Pools the conditions on which baselines and models are judged in this metric.
    sign
        +1 if higher is better, -1 if lower, 0 for a diagnostic.
    """

    metric: Metric
    columns: list[np.ndarray]
    estimates: list[Estimate]
    pooling: Pooling
    sign: int

    def values(self, number: int) -> np.ndarray:
        """Values of a contender, [n]."""
        values: np.ndarray = self.columns[number][0]
        return values


class PooledScores:
    """All contenders and metrics of an experiment, pooled."""

    def __init__(self, cohort: Cohort, settings: Evaluation) -> None:
        self.cohort = cohort
        self.settings = settings
        # A condition that two splits test counts once: its scores are averaged first.
        self.single, self._place = _once(cohort.conditions)
        self._lines = self.single["line"].to_numpy(dtype=str)
        self._drugs = self.single["drug"].to_numpy(dtype=str)
        self._poolings: dict[bytes, Pooling] = {}
        self._seeds = {
            i: [j for j, two in enumerate(cohort.contenders) if two.is_seed_of(one)]
            for i, one in enumerate(cohort.contenders)
            if one.role == "model" and one.seed is None
        }
        self.unit = self._pooling(np.ones(len(self.single), dtype=bool)).unit
        self.pooled_metric = {metric.name: self._judge(metric) for metric in METRICS}
        pooled_metric = cohort.with_role("baseline", "model")[0].table
        strength = self._averaged(pooled_metric["mse_control"].to_numpy(dtype=float))
        self.strata = _terciles(strength)
        models = {one.name for one in cohort.with_role("model")}
        self.call_level = 1 - (1 - LEVEL) / max(1, len(models))

    def _pooling(self, where: np.ndarray) -> Pooling:
        """Return the pooling of some conditions: equal conditions share their draws."""
        key = where.tobytes()
        if key not in self._poolings:
            number, seed = self.settings.n_bootstrap, self.settings.seed
            self._poolings[key] = Pooling(self._lines, self._drugs, number, seed, where)
        return self._poolings[key]

    def _averaged(self, values: np.ndarray) -> np.ndarray:
        known = np.isfinite(values)
        total = np.bincount(self._place[known], values[known], minlength=len(self.single))
        number = np.bincount(self._place[known], minlength=len(self.single))
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def _judge(self, metric: Metric) -> PooledMetric:
        names = [metric.column, *([metric.over] if metric.over else [])]
        shared = np.ones(len(self.single), dtype=bool)
        rows = []
        for one in self.cohort.contenders:
            own = [self._averaged(one.table[name].to_numpy(dtype=float)) for name in names]
            rows.append(np.array(own))
            if one.role in ("baseline", "model"):
                shared &= np.all(np.isfinite(own), axis=0)
        columns = [np.where(shared & np.isfinite(own).all(axis=0), own, np.nan) for own in rows]
        estimates = [self._pool(own, np.isfinite(own[0])) for own in columns]
        for i, seeds in self._seeds.items():
            estimates[i] = over_seeds([estimates[j] for j in seeds], self.settings.seed)
        return PooledMetric(
            metric,
            columns,
            estimates,
            self._pooling(shared),
            {"higher": 1, "lower": -1}.get(metric.better, 0),
        )

    def _pool(self, columns: np.ndarray, where: np.ndarray) -> Estimate:
        pooling = self._pooling(where)
        estimate = pooling.pool(columns[0])
        return estimate.over(pooling.pool(columns[1])) if len(columns) > 1 else estimate

    def number(self, one: Contender) -> int:
        """Position of a contender."""
        return next(i for i, other in enumerate(self.cohort.contenders) if other is one)

    def reference(self, role: str) -> int | None:
        """Position of a reference."""
        found = self.cohort.with_role(role)
        return self.number(found[0]) if found else None

    def gap(
        self, pooled_metric: PooledMetric, one: int, other: int, among: np.ndarray | None = None
    ) -> Estimate:
        """`one` minus `other`, pooled over the conditions where both are defined.

        Floor and ceiling need more real cells than a model does: pooled over conditions of their
        own they would be compared with another cohort.

        Parameters
        ----------
        judged, one, other
            Metric, and positions of the contenders.
        among
            bool [n], conditions to look at; all by default.
        """
        if one in self._seeds:
            gaps = [self.gap(pooled_metric, i, other, among) for i in self._seeds[one]]
            return over_seeds(gaps, self.settings.seed)
        where = np.isfinite(pooled_metric.values(one)) & np.isfinite(pooled_metric.values(other))
        if among is not None:
            where = where & among
        return self._pool(pooled_metric.columns[one], where).minus(
            self._pool(pooled_metric.columns[other], where)
        )

    def seeds_of(self, one: int) -> list[int]:
        """Return positions of the seeds whose mean contender `one` is; empty: it is not a mean."""
        return self._seeds.get(one, [])

    def clearly_better(
        self, pooled_metric: PooledMetric, one: int | None, other: int | None
    ) -> bool:
        """Whether contender `one` is better than `other` beyond doubt in this metric."""
        if one is None or other is None:
            return False
        gap = self.gap(pooled_metric, one, other)
        if not math.isfinite(gap.mean) or pooled_metric.sign * gap.mean <= 0:
            return False
        low, high = gap.interval()
        if low is not None and high is not None:
            return min(pooled_metric.sign * low, pooled_metric.sign * high) > 0
        by_line = pooled_metric.pooling.line_means(
            pooled_metric.values(one) - pooled_metric.values(other)
        )
        return bool((pooled_metric.sign * by_line[np.isfinite(by_line)] > 0).all())


def _terciles(strength: np.ndarray) -> dict[str, np.ndarray]:
    """Conditions by strength of the real effect, bool [n] each; empty with fewer than nine."""
    known = np.isfinite(strength)
    if known.sum() < 9:
        return {}
    edges = np.quantile(strength[known], [1 / 3, 2 / 3])
    place = np.searchsorted(edges, strength, side="right")
    return {name: known & (place == i) for i, name in enumerate(("weak", "medium", "strong"))}


def _once(conditions: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Distinct (line, perturbation) pairs, and which of them each condition is."""
    pair = conditions.groupby(["line", "perturbation"], sort=True)
    single = pair["drug"].first().reset_index()
    return single, pair.ngroup().to_numpy()
