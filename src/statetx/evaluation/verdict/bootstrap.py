"""Means over conditions, lines and folds, with intervals that respect who was drawn together.

A pooled value is the mean over conditions within a line, then the mean over lines: a line with
more conditions counts no more. Doses of one drug are not independent, and neither are cell lines
treated with it: the unit of every draw is a drug with all its doses in all lines. Drawn within each
line by itself, ten lines of four drugs, whose effects correlate by 0.7 between lines, gave 95 %
intervals that held the truth in 54 % of simulations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import norm, t

LEVEL = 0.95
LEAST_DRUGS = 3
"""Fewer drugs say nothing about how much drugs differ."""
LEAST_LINES = 5
N_FLIPS = 10_000
EXACT_CLUSTERS = 12
"""Up to so many clusters all 2^k sign patterns are tried."""


@dataclass(frozen=True)
class Unit:
    """What is drawn: ``drugs``, ``cell lines`` or None, with the reason."""

    name: str | None
    reason: str | None


def choose_unit(lines: np.ndarray, drugs: np.ndarray) -> Unit:
    """Choose the unit of the bootstrap from the line and drug of every condition."""
    n_drugs, n_lines = len(set(drugs)), len(set(lines))
    if n_drugs >= LEAST_DRUGS:
        return Unit("drugs", None)
    what = f"{n_drugs} drug{'' if n_drugs == 1 else 's'}"
    if n_lines >= LEAST_LINES:
        return Unit("cell lines", f"{what}: too few to draw from, so whole cell lines are drawn")
    return Unit(
        None,
        f"{what} in {n_lines} cell line{'' if n_lines == 1 else 's'}: an interval needs "
        f"{LEAST_DRUGS} drugs or {LEAST_LINES} cell lines",
    )


@dataclass(frozen=True)
class Estimate:
    """A pooled value.

    Attributes
    ----------
    mean
        The value; NaN when there is none.
    draws
        float64 [n_bootstrap], the value of every bootstrap draw; None without a unit.
    clusters
        How many clusters were drawn from: deviations from `mean` are stretched, see `Pooling`. Of a mean
        over seeds, how many would be as uncertain, see `over_seeds`.
    """

    mean: float
    draws: np.ndarray | None
    clusters: float

    def interval(self, level: float = LEVEL) -> tuple[float | None, float | None]:
        """Percentiles of the draws, stretched, at least Student's interval; (None, None): none.

        Few clusters have few different draws, whose percentiles end too early: of three or four, 7.5 %
        of such intervals alone miss a normal mean, with Student's 5 %. Student's alone misses more
        often where clusters are lopsided; there it is Hall's (see `_reach`).

        Parameters
        ----------
        level
            How often the interval is to hold the truth.
        """
        if self.draws is None or not np.isfinite(self.mean):
            return None, None
        known = self.draws[np.isfinite(self.draws)]
        if len(known) < 0.9 * len(self.draws):
            return None, None
        tail = (1 - level) / 2
        low, high = np.quantile(known, [tail, 1 - tail]) - self.mean
        student = float(t.ppf(1 - tail, max(self.clusters - 1, 1)))
        stretch = student / float(norm.ppf(1 - tail))
        below, above = _reach(known, student, self.clusters)
        return self.mean + min(stretch * low, -below), self.mean + max(stretch * high, above)

    def minus(self, other: Estimate) -> Estimate:
        """Paired difference: both must come from the same draws."""
        draws = None if self.draws is None or other.draws is None else self.draws - other.draws
        return Estimate(self.mean - other.mean, draws, self.clusters)

    def over(self, other: Estimate) -> Estimate:
        """Ratio of two values from the same draws; undefined unless `other` is above zero."""
        if not other.mean > 0:
            return Estimate(float("nan"), None, self.clusters)
        draws = None
        if self.draws is not None and other.draws is not None:
            below = np.where(other.draws > 0, other.draws, np.nan)
            draws = self.draws / below
        return Estimate(self.mean / other.mean, draws, self.clusters)


def _reach(draws: np.ndarray, student: float, clusters: float) -> tuple[float, float]:
    """How far Student's interval goes below and above the mean of `draws`, both positive.

    Where the draws are more lopsided than those of normal clusters are by chance (two standard deviations
    of a sample's skewness), the ends are those of Hall's transformation (1992, "On the removal of
    skewness by transformation", J. R. Stat. Soc. B 54). A model a little better on most drugs and
    far worse on a few is otherwise called BETTER too often, from samples that lack those few: of 40
    drugs with lognormal errors in 9 % of samples, here in 5 %. To correct every interval would cost
    a fifth of the power with four drugs, whose skewness cannot be told from chance.
    """
    spread, k = float(draws.std()), max(clusters, 3.0)
    # Draws are means of k - 1 clusters, and there are only so many of them.
    by_chance = 6 * (k - 2) / ((k + 1) * (k + 3) * (k - 1)) + 6 / len(draws)
    skewness = float(((draws - draws.mean()) ** 3).mean()) / spread**3 if spread > 0 else 0.0
    if abs(skewness) <= 2 * math.sqrt(by_chance):
        return student * spread, student * spread
    c = skewness / 3 * math.sqrt((k - 1) / k)

    def turned(x: float) -> float:
        return (math.cbrt(1 + 3 * c * (x - c / 2)) - 1) / c

    return spread * max(turned(student), student), spread * max(-turned(-student), student)


def over_seeds(estimates: Sequence[Estimate], seed: int) -> Estimate:
    """Mean over the seeds of a model, as uncertain as clusters and seeds make it.

    The variance between k seeds, over k, is added to the draws as normal noise, and the number of
    clusters becomes Welch and Satterthwaite's: two seeds say little about how much seeds differ.
    Seeds drawn with replacement give no more values than there are: where seeds differ as much as
    drugs do, 40 drugs, 25 % of such intervals miss the truth with two seeds and 13 % with three
    (here 12 % and 8 %), and they are wider than these where seeds do not differ.

    Parameters
    ----------
    estimates
        One per seed, from the same draws of clusters.
    seed
        Of the noise.
    """
    first, k = estimates[0], len(estimates)
    mean = float(np.mean([one.mean for one in estimates]))
    if any(one.draws is None for one in estimates) or k < 2:
        return Estimate(mean, first.draws if k == 1 else None, first.clusters)
    draws: np.ndarray = np.array([one.draws for one in estimates]).mean(axis=0)
    between = float(np.var([one.mean for one in estimates], ddof=1)) / k
    if not between > 0:
        return Estimate(mean, draws, first.clusters)
    within = float(np.nanvar(draws))
    freedom = (within + between) ** 2 / (
        within**2 / max(first.clusters - 1, 1) + between**2 / (k - 1)
    )
    noise = np.random.default_rng([seed, k]).normal(size=len(draws))
    return Estimate(mean, draws + np.sqrt(between) * noise, 1 + freedom)


class Pooling:
    """Pools values of conditions and draws clusters of them, the same clusters for every column.

    Of K clusters K - 1 are drawn with replacement (Rao & Wu 1988): drawing K makes the variance of
    a mean too small by (K - 1) / K, a quarter with four drugs. A draw is the weighted mean of the
    conditions of the drawn clusters; a condition keeps its weight, 1 / (lines x conditions of its
    line), so a cluster in many lines weighs more. Deviations are stretched by Student's over the
    normal quantile (3.18 / 1.96 for four drugs), since a variance estimated from few clusters is
    itself uncertain.

    Parameters
    ----------
    lines, drugs
        Line and drug of every condition [n].
    n_bootstrap, seed
        Number of draws and their seed.
    where
        bool [n], conditions that take part: unit and number of clusters are chosen from them. All
        by default.
    """

    def __init__(
        self,
        lines: np.ndarray,
        drugs: np.ndarray,
        n_bootstrap: int,
        seed: int,
        where: np.ndarray | None = None,
    ) -> None:
        self._where = np.ones(len(lines), dtype=bool) if where is None else where
        self.unit = choose_unit(lines[self._where], drugs[self._where])
        self._line = np.unique(lines, return_inverse=True)[1]
        self._n_lines = int(self._line.max()) + 1 if len(lines) else 0
        self._clusters, self._k = np.zeros(len(lines), dtype=np.int64), 0
        self._draws: np.ndarray | None = None
        if self.unit.name is None:
            return
        unit = drugs if self.unit.name == "drugs" else lines
        names, inside = np.unique(unit[self._where], return_inverse=True)
        self._clusters[self._where] = inside
        k = len(names)
        rng = np.random.default_rng(seed)
        self._draws = rng.multinomial(k - 1, np.full(k, 1 / k), n_bootstrap).astype(float)
        self._k = k

    def _weights(self, values: np.ndarray) -> np.ndarray:
        """Return the weight of each condition, [n]: 0 where unknown, 1 in all."""
        known = np.isfinite(values) & self._where
        number = np.bincount(self._line[known], minlength=self._n_lines)
        n_lines = max(int((number > 0).sum()), 1)
        return np.where(known, 1.0 / (n_lines * np.maximum(number[self._line], 1)), 0.0)

    def _sums(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per cluster: sum of the weighted values and of the weights."""
        weights = self._weights(values)
        weighted = weights * np.where(weights > 0, values, 0.0)
        return np.bincount(self._clusters, weighted), np.bincount(self._clusters, weights)

    def pool(self, values: np.ndarray) -> Estimate:
        """Mean over conditions within lines, then over lines; NaN values do not count.

        Parameters
        ----------
        values
            float64 [n], one per condition.
        """
        total, weight = self._sums(values)
        if not weight.sum() > 0:
            return Estimate(float("nan"), None, self._k)
        draws = None
        if self._draws is not None:
            below = self._draws @ weight
            draws = np.full(len(below), np.nan)
            np.divide(self._draws @ total, below, out=draws, where=below > 0)
        return Estimate(float(total.sum()), draws, self._k)

    def line_means(self, values: np.ndarray) -> np.ndarray:
        """Mean of every line, lines sorted; NaN where nothing is known."""
        known = np.isfinite(values) & self._where
        total = np.bincount(self._line[known], values[known], minlength=self._n_lines)
        number = np.bincount(self._line[known], minlength=self._n_lines)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def sign_flip(self, differences: np.ndarray, seed: int) -> float | None:
        """Two-sided p of the pooled difference under random signs of the clusters.

        Parameters
        ----------
        differences
            float64 [n], paired difference of every condition.
        seed
            Seed of the signs, where there are too many to try them all.

        Returns
        -------
        p, at least 2 / 2^k for k clusters; None without a unit.
        """
        if self.unit.name is None:
            return None
        shares = self._sums(differences)[0]
        shares = shares[shares != 0]
        if not len(shares):
            return 1.0
        observed = abs(shares.sum())
        if len(shares) <= EXACT_CLUSTERS:
            signs = np.array(list(product((-1.0, 1.0), repeat=len(shares))))
            extra = 0
        else:
            signs = np.random.default_rng(seed).choice((-1.0, 1.0), (N_FLIPS, len(shares)))
            extra = 1
        hits = int((np.abs(signs @ shares) >= observed * (1 - 1e-12)).sum())
        return (hits + extra) / (len(signs) + extra)
