"""Where a metric can tell good from poor on this data, and how much of that way a prediction goes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from statetx.evaluation.verdict.bootstrap import LEVEL, Estimate, over_seeds
from statetx.evaluation.verdict.pooled_scores import PooledMetric, PooledScores

LEAST = 0.05
"""A metric with a smaller dynamic range ranks nothing on this data."""
SMALL = 1e-6
FEWEST = 3
"""Fewer conditions have no spread: all of them must agree."""
POSITIVES = ("ceiling", "interpolated_duplicate")


@dataclass(frozen=True)
class DynamicRange:
    """The dynamic-range fraction of a metric.

    Per condition (positive - negative) / (perfect - negative), clipped to [-1, 1], 0 where the
    negative reference is perfect already; the median over conditions.

    Attributes
    ----------
    negative
        Name of the lower end.
    by_positive
        Upper end -> its fraction; NaN: defined for no condition.
    n, undefined
        Conditions behind the fractions, and those that one of the references leaves out.
    """

    negative: str
    by_positive: dict[str, float]
    n: int
    undefined: int

    @property
    def fraction(self) -> float:
        """The larger one: a replicate of half the size is noisy, an interpolated one is biased."""
        known = [value for value in self.by_positive.values() if math.isfinite(value)]
        return max(known, default=float("nan"))


def floor_and_ceiling_differ(pooled: PooledScores, pooled_metric: PooledMetric) -> bool:
    """Whether the ceiling is better than the floor beyond doubt, on the conditions at hand.

    The question is about these conditions, not about other drugs: drugs of unequal strength, each with a
    ceiling far above its floor, would have an interval over drugs that holds 0 (the demo's energy
    distance, four drugs, gaps from 0.3 to 3.0).

    Parameters
    ----------
    bench, judged
        All contenders, and the metric.
    """
    floor, ceiling = pooled.reference("floor"), pooled.reference("ceiling")
    if floor is None or ceiling is None or not pooled_metric.sign:
        return False
    gaps = pooled_metric.sign * (pooled_metric.values(ceiling) - pooled_metric.values(floor))
    gaps = gaps[np.isfinite(gaps)]
    if len(gaps) < FEWEST:
        return bool(len(gaps) and (gaps > 0).all())
    tail = float(t.ppf(1 - (1 - LEVEL) / 2, len(gaps) - 1))
    return bool(gaps.mean() > tail * gaps.std(ddof=1) / math.sqrt(len(gaps)))


def dynamic_range(pooled: PooledScores, pooled_metric: PooledMetric) -> DynamicRange | None:
    """Compute the dynamic range of a metric; None for a diagnostic or without references.

    Parameters
    ----------
    bench, judged
        All contenders, and the metric.
    """
    negative = pooled.reference(pooled_metric.metric.negative)
    positives = {name: at for name in POSITIVES if (at := pooled.reference(name)) is not None}
    if (
        not pooled_metric.sign
        or negative is None
        or pooled.reference("mean_response") is None
        or not positives
    ):
        return None
    low = pooled_metric.values(negative)
    room = pooled_metric.sign * (pooled_metric.metric.perfect - low)
    known = np.isfinite(room)
    for at in positives.values():
        known &= np.isfinite(pooled_metric.values(at))
    fractions = {}
    for name, at in positives.items():
        gain = pooled_metric.sign * (pooled_metric.values(at) - low)[known]
        share = np.where(room[known] > 0, gain / (np.maximum(room[known], 0.0) + SMALL), 0.0)
        clipped = np.clip(share, -1.0, 1.0)
        fractions[name] = float(np.median(clipped)) if len(clipped) else float("nan")
    first = pooled.number(pooled.cohort.with_role("baseline", "model")[0])
    undefined = int((np.isfinite(pooled_metric.values(first)) & ~known).sum())
    return DynamicRange(pooled_metric.metric.negative, fractions, int(known.sum()), undefined)


def explained(
    pooled: PooledScores, pooled_metric: PooledMetric, one: int
) -> tuple[Estimate, int] | None:
    """Share of the way from the floor (0) to the ceiling (1) that a contender goes.

    A ratio of sums over the conditions where all three are defined: single conditions of weak effect
    have floor and ceiling side by side, and ratios of theirs say nothing.

    Parameters
    ----------
    bench, judged
        All contenders, and the metric.
    one
        Position of the contender.

    Returns
    -------
    The share, and the number of the contender's conditions that floor or ceiling leave out; None where
    the ceiling is not clearly better than the floor.
    """
    floor, ceiling = pooled.reference("floor"), pooled.reference("ceiling")
    if floor is None or ceiling is None or not floor_and_ceiling_differ(pooled, pooled_metric):
        return None
    seeds = pooled.seeds_of(one) or [one]
    there = np.isfinite(pooled_metric.values(floor)) & np.isfinite(pooled_metric.values(ceiling))
    shares = []
    for i in seeds:
        among = there & np.isfinite(pooled_metric.values(i))
        # Both in the direction of better, so that the lower part is above zero.
        way = _turned(pooled.gap(pooled_metric, ceiling, floor, among), pooled_metric.sign)
        shares.append(
            _turned(pooled.gap(pooled_metric, i, floor, among), pooled_metric.sign).over(way)
        )
    share = shares[0] if len(shares) == 1 else over_seeds(shares, pooled.settings.seed)
    return share, int((np.isfinite(pooled_metric.values(one)) & ~there).sum())


def _turned(estimate: Estimate, sign: int) -> Estimate:
    draws = None if estimate.draws is None else sign * estimate.draws
    return Estimate(sign * estimate.mean, draws, estimate.clusters)
