"""Which normalisation the values of some cells have, as the values themselves show it.

Three facts can be read from log values ``log(1 + factor * count)``, one factor per cell:

- Over all genes of a file, ``factor * count`` sums to the target sum in every cell, or in every cell of a
  part of the file.
- Behind chosen genes, whole counts can be recovered together with the factor of each cell. A factor is
  target_sum / total, so the ratios of factors are ratios of whole totals: the smallest totals that give
  them are the totals, and factor * total is the target sum. No sum over all genes is needed.
- No sum exceeds the target sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from statetx.data.h5ad.matrix import LARGEST_LOG1P
from statetx.data.h5ad.numbers import is_integral

BASES = {"ln(1 + x)": 1.0, "log2(1 + x)": math.log(2.0), "log10(1 + x)": math.log(10.0)}
"""Logarithms in use, and by what their values are multiplied to be natural ones."""
CONSTANT = 1e-3
"""Sums that differ by no more, relative to their median, are one sum: rounding makes 1e-5."""
FEWEST_SUMS = 3
"""Cells whose equal sums are evidence; two may agree by chance."""
FEWEST_COUNTS = 16
"""Cells with counts behind their values that are evidence: all of so many totals are even by chance once in
65,536 files, which would halve the sum."""
FULL = 20
"""Values of a cell from which its counts hardly have a common divisor, which would make its factor a multiple."""
MOST_MISFITS = 0.02
"""Share of cells that may be wrong."""
FEW = 0.1
"""Largest share of cells behind which no counts need be found."""
LARGEST_SMALLEST = 50
"""Largest count that the smallest value of a cell may stand for."""
DIVISORS = (2, 3, 5, 7)
"""That more totals have in common than chance allows where cells of two target sums stand together."""
LARGEST_TOTAL = 200_000
"""Of the least deep cell. From there on float32 values do not tell a whole total from a decimal one."""


@dataclass(frozen=True)
class Held:
    """What the values of some cells show.

    Attributes
    ----------
    log
        Key of `BASES`; None: the values are counts, or proportional to them.
    target_sum
        Exact sum that every cell was normalised to; None: not known.
    evidence
        What shows it, for messages.
    factor
        Of log values of counts that were not normalised, the one factor of all cells (1: raw counts); None
        of other values.
    parts
        Cells sum to a few values: parts of the file were normalised apart, each over all its genes.
    mixed
        Cells of several target sums, which nothing tells apart.
    """

    log: str | None
    target_sum: float | None
    evidence: str
    factor: float | None = None
    parts: bool = False
    mixed: bool = False

    def linear(self, values: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the values before the logarithm, float64."""
        out = values.astype(np.float64)
        if self.log is not None:
            out.data = np.expm1(out.data * BASES[self.log]) / (self.factor or 1.0)
        return out


def held(values: sparse.csr_matrix, whole: bool) -> Held:
    """Return what the values of some cells show.

    Parameters
    ----------
    values
        Finite, not negative, [cells, genes].
    whole
        Whether the columns may be all genes that were measured.
    """
    rows = values[np.diff(values.indptr) > 0].astype(np.float64)
    largest = float(rows.data.max(initial=0.0))
    if is_integral(rows.data):
        return Held(None, None, f"whole numbers up to {largest:g}")
    logs = {name: unit for name, unit in BASES.items() if largest * unit <= LARGEST_LOG1P}
    scaled = {name: Held(name, None, "").linear(rows) for name in logs}
    sums = {name: row_sums(part) for name, part in scaled.items()}
    for name, found in sums.items():
        if _constant(found):
            total = _rounded(float(np.median(found)))
            return Held(name, total, f"every cell sums to {total:,.7g} before the logarithm")
        if whole and _few_values(found):
            return Held(
                name,
                None,
                f"cells sum to a few values from {_span(found)} before the logarithm",
                parts=True,
            )
    if whole and _constant(row_sums(rows)):
        total = _rounded(float(np.median(row_sums(rows))))
        return Held(None, total, f"decimals that sum to {total:,.7g} in every cell, not logged")
    for name, part in scaled.items():
        factors = _factors(part)
        if factors is None:
            continue
        if np.ptp(factors) <= 1e-5 * factors.max():
            factor = float(np.median(factors))
            return Held(name, None, f"whole counts times {factor:.6g} in every cell", factor)
        target_sum, totals = target_sum_of(factors)
        common = _common_divisor(totals)
        if target_sum is not None and not common:
            return Held(name, target_sum, f"the counts behind the values give {target_sum:,.7g}")
        mixed = 0 < common < 1 - FEW
        what = f"before the logarithm cells sum to {_span(sums[name])}"
        return Held(name, None, what, mixed=mixed)
    if not logs:
        return Held(None, None, f"decimals up to {largest:g}, more than a logarithm reaches")
    return Held("ln(1 + x)", None, f"before the logarithm cells sum to {_span(sums['ln(1 + x)'])}")


def row_sums(values: sparse.csr_matrix) -> np.ndarray:
    """Return the sum of every row, float64 [n]."""
    return np.asarray(values.sum(axis=1), dtype=np.float64).ravel()


def _constant(sums: np.ndarray) -> bool:
    return len(sums) >= FEWEST_SUMS and bool(np.ptp(sums) <= CONSTANT * np.median(sums))


def _few_values(sums: np.ndarray) -> bool:
    """Whether the sums lie in groups of several that are equal."""
    ordered = np.sort(sums)
    starts = np.flatnonzero(np.r_[True, np.diff(ordered) > CONSTANT * ordered[:-1]])
    groups = np.split(ordered, starts[1:])
    return len(groups) <= len(sums) / 10 and all(_constant(group) for group in groups)


def _common_divisor(totals: np.ndarray) -> float:
    """Return the share of totals that have a divisor in common; 0 if it is one of chance.

    The totals of a part that has a smaller target sum than others come out as multiples. Where nearly all
    do, the others are misfits, and the target sum is a multiple as well.
    """
    for divisor in DIVISORS if totals.size else ():
        expected = 1 / divisor
        most = expected + 4 * math.sqrt(expected * (1 - expected) / len(totals))
        share = float((np.rint(totals) % divisor == 0).mean())
        if share > most:
            return share
    return 0.0


def _span(sums: np.ndarray) -> str:
    return f"{sums.min():,.4g} to {sums.max():,.4g}"


def _rounded(total: float) -> float:
    """Return the half or whole number that float32 values leave open, as people choose or medians give."""
    near = round(2 * total) / 2
    return near if abs(near - total) <= 1e-5 * total else total


def _factors(scaled: sparse.csr_matrix) -> np.ndarray | None:
    """Return the factor of every cell behind which whole counts are found; None: too few."""
    sizes = np.diff(scaled.indptr)
    if (sizes >= FULL).sum() >= FEWEST_COUNTS:
        scaled = scaled[sizes >= FULL]
    found, several = [], 0
    for start, stop in zip(scaled.indptr[:-1].tolist(), scaled.indptr[1:].tolist(), strict=True):
        factor, different = _factor(np.sort(scaled.data[start:stop]))
        if factor is not None:
            found.append(factor)
            several += different > 1  # one count alone lies behind any value
    enough = several >= FEWEST_COUNTS and len(found) >= (1 - FEW) * scaled.shape[0]
    return np.asarray(found) if enough else None


def _factor(values: np.ndarray) -> tuple[float | None, int]:
    """Return the factor of whole counts behind sorted values, and how many different counts there are.

    Unlike packing, which wants the counts of every cell, this tries more than 1, 2, 3 for the smallest:
    chosen genes of deep cells lack ones.
    """
    some = values[np.linspace(0, len(values) - 1, 60).astype(int)] / values[0]
    trials = np.arange(1, LARGEST_SMALLEST + 1)
    for trial in trials[_misfits(trials[:, None] * some) == 0].tolist():
        counts = np.rint(trial * values / values[0])
        factor = float((values / counts).mean())
        logged = np.log1p(values)
        if (np.abs(np.log1p(factor * counts) - logged) <= 1e-6 * np.maximum(1.0, logged)).all():
            return factor, len(np.unique(counts))
    return None, 0


def target_sum_of(factors: np.ndarray) -> tuple[float | None, np.ndarray]:
    """Return target sum and totals of cells with whole totals, from the factor target_sum / total of each.

    Parameters
    ----------
    factors
        float64 [cells], exact to 1e-6.

    Returns
    -------
    float or None
        None: the totals are not whole, or do not differ enough.
    numpy.ndarray
        The totals, float64 [cells], the smallest first.
    """
    order = np.sort(factors)[::-1]  # the least deep cell first
    found: list[tuple[float, np.ndarray]] = []
    # A reference that is a misfit itself gives a multiple, so that of several the least sum is right.
    for reference in order[[0, len(order) // 2, -1]].tolist():
        ratios = reference / order
        screen = ratios[np.linspace(0, len(ratios) - 1, 24).astype(int)]
        for start in range(1, LARGEST_TOTAL, 20_000):
            totals = np.arange(start, start + 20_000, dtype=np.float64)
            candidates = totals[_misfits(totals[:, None] * screen) <= 2 * MOST_MISFITS]
            fits = (total for total in candidates.tolist() if _whole(total * ratios))
            if (total := next(fits, None)) is not None:
                found.append((_rounded(total * reference), total * ratios))
                break
    return min(found, key=lambda pair: pair[0]) if found else (None, factors[:0])


def _whole(totals: np.ndarray) -> bool:
    """Whether totals are whole and differ enough to say so."""
    different = len(np.unique(np.rint(totals)))
    return different >= FEWEST_COUNTS // 2 and float(_misfits(totals)) <= MOST_MISFITS


def _misfits(totals: np.ndarray) -> np.ndarray:
    """Return the share of totals that are not whole, along the last axis."""
    tolerance = np.minimum(0.05, 1e-3 + 1e-6 * totals)  # of float32 values
    return (np.abs(totals - np.rint(totals)) > tolerance).mean(axis=-1)
