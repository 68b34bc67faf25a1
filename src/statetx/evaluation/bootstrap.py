"""Means over conditions, lines and folds, with intervals that respect who was drawn together.

A pooled value is the mean over conditions within a line, then the mean over lines: a line with
more conditions counts no more. Doses of one drug are not independent, so the unit of every draw is
a drug with all its doses within a line, or a whole line.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import norm, t

LEVEL = 0.95
LEAST_DRUGS = 3
"""Fewer drugs in a line say nothing about how much drugs differ."""
LEAST_LINES = 5
N_FLIPS = 10_000
EXACT_CLUSTERS = 12
"""Up to so many clusters all 2^k sign patterns are tried."""


@dataclass(frozen=True)
class Unit:
    """What is drawn: ``drugs within cell lines``, ``cell lines`` or None, with the reason."""

    name: str | None
    reason: str | None


def choose_unit(lines: np.ndarray, drugs: np.ndarray) -> Unit:
    """Choose the unit of the bootstrap from the line and drug of every condition."""
    sizes = {line: len(set(drugs[lines == line])) for line in sorted(set(lines))}
    if sizes and min(sizes.values()) >= LEAST_DRUGS:
        return Unit("drugs within cell lines", None)
    poorest = min(sizes, key=lambda line: (sizes[line], line), default=None)
    why = f"cell line {poorest!r} has {sizes[poorest]} drug(s)" if poorest else "no conditions"
    if len(sizes) >= LEAST_LINES:
        return Unit("cell lines", f"{why}: too few to draw from, so whole cell lines are drawn")
    return Unit(
        None,
        f"{why} and there are {len(sizes)} cell lines: an interval needs {LEAST_DRUGS} drugs in "
        f"every line, or {LEAST_LINES} lines",
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
    factor
        By how much deviations from `mean` are stretched, see `Pooling`.
    """

    mean: float
    draws: np.ndarray | None
    factor: float

    def interval(self) -> tuple[float | None, float | None]:
        """95 % interval: percentiles of the draws, stretched; (None, None) where there is none."""
        if self.draws is None or not np.isfinite(self.mean):
            return None, None
        known = self.draws[np.isfinite(self.draws)]
        if len(known) < 0.9 * len(self.draws):
            return None, None
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(known, [tail, 1 - tail]) - self.mean
        return self.mean + self.factor * float(low), self.mean + self.factor * float(high)

    def minus(self, other: Estimate) -> Estimate:
        """Paired difference: both come from the same draws."""
        draws = None if self.draws is None or other.draws is None else self.draws - other.draws
        return Estimate(self.mean - other.mean, draws, self.factor)

    def over(self, other: Estimate) -> Estimate:
        """Ratio of two values from the same draws; undefined unless `other` is above zero."""
        if not other.mean > 0:
            return Estimate(float("nan"), None, self.factor)
        draws = None
        if self.draws is not None and other.draws is not None:
            below = np.where(other.draws > 0, other.draws, np.nan)
            draws = self.draws / below
        return Estimate(self.mean / other.mean, draws, self.factor)


class Pooling:
    """Pools values of conditions and draws clusters of them, the same clusters for every column.

    Of K clusters K - 1 are drawn with replacement (Rao & Wu 1988): drawing K makes the variance of
    a mean too small by (K - 1) / K, a quarter with four drugs. Deviations are stretched by
    Student's over the normal quantile (2.45 / 1.96 for two lines of four drugs), since a variance
    estimated from few clusters is itself uncertain.

    Parameters
    ----------
    lines, drugs
        Line and drug of every condition [n].
    n_bootstrap, seed
        Number of draws and their seed.
    """

    def __init__(self, lines: np.ndarray, drugs: np.ndarray, n_bootstrap: int, seed: int) -> None:
        self.unit = choose_unit(lines, drugs)
        self._members: list[np.ndarray] = []
        self._drugs: list[np.ndarray] = []
        for line in sorted(set(lines)):
            here = np.flatnonzero(lines == line)
            self._members.append(here)
            self._drugs.append(np.unique(drugs[here], return_inverse=True)[1])
        rng = np.random.default_rng(seed)
        sizes = [int(drug.max()) + 1 for drug in self._drugs]
        self._weights: list[np.ndarray] | None = None
        self._line_weights: np.ndarray | None = None
        freedom = 0
        if self.unit.name == "drugs within cell lines":
            self._weights = [
                rng.multinomial(k - 1, np.full(k, 1 / k), n_bootstrap).astype(float) for k in sizes
            ]
            freedom = sum(sizes) - len(sizes)
        elif self.unit.name == "cell lines":
            k = len(sizes)
            self._line_weights = rng.multinomial(k - 1, np.full(k, 1 / k), n_bootstrap).astype(
                float
            )
            freedom = k - 1
        quantile = 1 - (1 - LEVEL) / 2
        self._factor = float(t.ppf(quantile, freedom) / norm.ppf(quantile)) if freedom else 1.0

    def _sums(self, values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per line: sum and number of the known values of every drug."""
        out = []
        for members, drug in zip(self._members, self._drugs, strict=True):
            own = values[members]
            known = np.isfinite(own)
            k = int(drug.max()) + 1
            out.append(
                (
                    np.bincount(drug[known], own[known], minlength=k),
                    np.bincount(drug[known], minlength=k).astype(float),
                )
            )
        return out

    def pool(self, values: np.ndarray) -> Estimate:
        """Mean over conditions within lines, then over lines; NaN values do not count.

        Parameters
        ----------
        values
            float64 [n], one per condition.
        """
        sums = self._sums(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.array([total.sum() / number.sum() for total, number in sums])
            known = np.isfinite(means)
            if not known.any():
                return Estimate(float("nan"), None, self._factor)
            draws = None
            if self._weights is not None:
                drawn = np.array(
                    [
                        (weight @ total) / (weight @ number)
                        for weight, (total, number) in zip(self._weights, sums, strict=True)
                    ]
                )[known]
                there = np.isfinite(drawn)
                draws = np.where(there, drawn, 0).sum(axis=0) / there.sum(axis=0)
            elif self._line_weights is not None:
                weight = self._line_weights[:, known]
                draws = (weight @ means[known]) / weight.sum(axis=1)
        return Estimate(float(means[known].mean()), draws, self._factor)

    def line_means(self, values: np.ndarray) -> np.ndarray:
        """Mean of every line, lines sorted; NaN where nothing is known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.array([total.sum() / number.sum() for total, number in self._sums(values)])

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
        p, or None without a unit.
        """
        if self.unit.name is None:
            return None
        parts = [total / max(number.sum(), 1) for total, number in self._sums(differences)]
        if self.unit.name == "cell lines":
            shares = np.array([part.sum() for part in parts])
        else:
            shares = np.concatenate(parts)
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
