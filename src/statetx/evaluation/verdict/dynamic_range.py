"""Where a metric can tell good from poor on this data, and how much of that way a prediction goes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from statetx.evaluation.verdict.bootstrap import LEVEL, Estimate, over_seeds
from statetx.evaluation.verdict.pooled_scores import Bench, Judged

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


def ends_differ(bench: Bench, judged: Judged) -> bool:
    """Whether the ceiling is better than the floor beyond doubt, on the conditions at hand.

    The question is about these conditions, not about other drugs: drugs of unequal strength, each with a
    ceiling far above its floor, would have an interval over drugs that holds 0 (the demo's energy
    distance, four drugs, gaps from 0.3 to 3.0).

    Parameters
    ----------
    bench, judged
        All contenders, and the metric.
    """
    floor, ceiling = bench.end("floor"), bench.end("ceiling")
    if floor is None or ceiling is None or not judged.sign:
        return False
    gaps = judged.sign * (judged.values(ceiling) - judged.values(floor))
    gaps = gaps[np.isfinite(gaps)]
    if len(gaps) < FEWEST:
        return bool(len(gaps) and (gaps > 0).all())
    tail = float(t.ppf(1 - (1 - LEVEL) / 2, len(gaps) - 1))
    return bool(gaps.mean() > tail * gaps.std(ddof=1) / math.sqrt(len(gaps)))


def dynamic_range(bench: Bench, judged: Judged) -> DynamicRange | None:
    """Compute the dynamic range of a metric; None for a diagnostic or without references.

    Parameters
    ----------
    bench, judged
        All contenders, and the metric.
    """
    negative = bench.end(judged.metric.negative)
    positives = {name: at for name in POSITIVES if (at := bench.end(name)) is not None}
    if not judged.sign or negative is None or bench.end("mean_response") is None or not positives:
        return None
    low = judged.values(negative)
    room = judged.sign * (judged.metric.perfect - low)
    known = np.isfinite(room)
    for at in positives.values():
        known &= np.isfinite(judged.values(at))
    fractions = {}
    for name, at in positives.items():
        gain = judged.sign * (judged.values(at) - low)[known]
        share = np.where(room[known] > 0, gain / (np.maximum(room[known], 0.0) + SMALL), 0.0)
        clipped = np.clip(share, -1.0, 1.0)
        fractions[name] = float(np.median(clipped)) if len(clipped) else float("nan")
    first = bench.number(bench.cohort.of("baseline", "model")[0])
    undefined = int((np.isfinite(judged.values(first)) & ~known).sum())
    return DynamicRange(judged.metric.negative, fractions, int(known.sum()), undefined)


def explained(bench: Bench, judged: Judged, one: int) -> tuple[Estimate, int] | None:
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
    floor, ceiling = bench.end("floor"), bench.end("ceiling")
    if floor is None or ceiling is None or not ends_differ(bench, judged):
        return None
    seeds = bench.seeds_of(one) or [one]
    there = np.isfinite(judged.values(floor)) & np.isfinite(judged.values(ceiling))
    shares = []
    for i in seeds:
        among = there & np.isfinite(judged.values(i))
        # Both in the direction of better, so that the lower part is above zero.
        way = _turned(bench.gap(judged, ceiling, floor, among), judged.sign)
        shares.append(_turned(bench.gap(judged, i, floor, among), judged.sign).over(way))
    share = shares[0] if len(shares) == 1 else over_seeds(shares, bench.settings.seed)
    return share, int((np.isfinite(judged.values(one)) & ~there).sum())


def _turned(estimate: Estimate, sign: int) -> Estimate:
    draws = None if estimate.draws is None else sign * estimate.draws
    return Estimate(sign * estimate.mean, draws, estimate.clusters)
