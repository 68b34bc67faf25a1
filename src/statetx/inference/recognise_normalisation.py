"""Recognise the normalisation of cells from their values.

Three facts can be derived from log values ``log(1 + factor * count)``, with one factor per cell:

- Over all genes of a file, ``factor * count`` sums to the target sum in all cells, or in all cells
  of a part of the file.
- From chosen genes only, whole counts can be recovered together with the factor of each cell. A
  factor is target_sum / total, so ratios of factors are ratios of whole totals. The smallest
  totals with these ratios are the totals, and factor * total is the target sum.
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
"""Logarithm -> factor that converts its values to natural logarithms."""
CONSTANT = 1e-3
"""Sums count as equal if they differ by at most this share of their median; rounding makes 1e-5."""
FEWEST_SUMS = 3
"""Equal sums are evidence from this number of cells on; two sums may agree by chance."""
FEWEST_COUNTS = 16
"""Recovered counts are evidence from this number of cells on. Totals that are all even by chance
would halve the sum; with 16 totals this happens once in 65,536 files."""
FULL = 20
"""Cells with this number of values rarely have counts with a common divisor, which would make the
factor a multiple."""
MOST_MISFITS = 0.02
"""Largest share of totals that may not be whole."""
FEW = 0.1
"""Largest share of cells for which no counts need to be found."""
LARGEST_SMALLEST = 50
"""Largest count that is tried for the smallest value of a cell."""
DIVISORS = (2, 3, 5, 7)
"""If cells have two target sums, more totals have one of these divisors than chance allows."""
LARGEST_TOTAL = 200_000
"""Largest total that is tried for the cell with the fewest counts. float32 values do not
distinguish larger whole totals from decimal ones."""


@dataclass(frozen=True)
class Recognised:
    """Normalisation of cells, as their values show it.

    Attributes
    ----------
    log
        Key of `BASES`; None: the values are counts, or proportional to counts.
    target_sum
        Exact sum to which all cells were normalised; None: unknown.
    evidence
        What shows this, for messages.
    factor
        For log values of counts that were not normalised, the common factor of all cells (1: raw
        counts); None for other values.
    parts
        Whether cells sum to a few values, because parts of the file were normalised separately,
        each over all its genes.
    mixed
        Whether cells have several target sums that cannot be separated.
    """

    log: str | None
    target_sum: float | None
    evidence: str
    factor: float | None = None
    parts: bool = False
    mixed: bool = False

    def linear(self, values: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the values before the logarithm, float64.

        Parameters
        ----------
        values
            [n, genes], values of these or of other cells of the file.
        """
        out = values.astype(np.float64)
        if self.log is not None:
            out.data = np.expm1(out.data * BASES[self.log]) / (self.factor or 1.0)
        return out


def recognise(values: sparse.csr_matrix, whole: bool) -> Recognised:
    """Recognise the normalisation of cells.

    Parameters
    ----------
    values
        [cells, genes], finite and not negative.
    whole
        Whether the columns may be all genes that were measured.
    """
    rows = values[np.diff(values.indptr) > 0].astype(np.float64)
    largest = float(rows.data.max(initial=0.0))
    if is_integral(rows.data):
        return Recognised(None, None, f"whole numbers up to {largest:g}")
    logs = {name: unit for name, unit in BASES.items() if largest * unit <= LARGEST_LOG1P}
    scaled = {name: Recognised(name, None, "").linear(rows) for name in logs}
    sums = {name: row_sums(matrix) for name, matrix in scaled.items()}
    for name, cell_sums in sums.items():
        if _constant(cell_sums):
            total = _rounded(float(np.median(cell_sums)))
            return Recognised(name, total, f"every cell sums to {total:,.7g} before the logarithm")
        if whole and _few_values(cell_sums):
            return Recognised(
                name,
                None,
                f"cells sum to a few values from {_span(cell_sums)} before the logarithm",
                parts=True,
            )
    if whole and _constant(row_sums(rows)):
        total = _rounded(float(np.median(row_sums(rows))))
        return Recognised(
            None, total, f"decimals that sum to {total:,.7g} in every cell, not logged"
        )
    for name, matrix in scaled.items():
        factors = _factors(matrix)
        if factors is None:
            continue
        if np.ptp(factors) <= 1e-5 * factors.max():
            factor = float(np.median(factors))
            return Recognised(name, None, f"whole counts times {factor:.6g} in every cell", factor)
        target_sum, totals = target_sum_of(factors)
        common = _common_divisor(totals)
        if target_sum is not None and not common:
            return Recognised(
                name, target_sum, f"the counts behind the values give {target_sum:,.7g}"
            )
        mixed = 0 < common < 1 - FEW
        what = f"before the logarithm cells sum to {_span(sums[name])}"
        return Recognised(name, None, what, mixed=mixed)
    if not logs:
        return Recognised(None, None, f"decimals up to {largest:g}, more than a logarithm reaches")
    return Recognised(
        "ln(1 + x)", None, f"before the logarithm cells sum to {_span(sums['ln(1 + x)'])}"
    )


def row_sums(values: sparse.csr_matrix) -> np.ndarray:
    """Return the sum of each row of a matrix [n, genes], float64 [n]."""
    return np.asarray(values.sum(axis=1), dtype=np.float64).ravel()


def _constant(sums: np.ndarray) -> bool:
    return len(sums) >= FEWEST_SUMS and bool(np.ptp(sums) <= CONSTANT * np.median(sums))


def _few_values(sums: np.ndarray) -> bool:
    """Return whether the sums form a few groups of equal sums."""
    ordered = np.sort(sums)
    starts = np.flatnonzero(np.r_[True, np.diff(ordered) > CONSTANT * ordered[:-1]])
    groups = np.split(ordered, starts[1:])
    return len(groups) <= len(sums) / 10 and all(_constant(group) for group in groups)


def _common_divisor(totals: np.ndarray) -> float:
    """Return the share of totals with a common divisor; 0 if chance explains that share.

    Cells with a smaller target sum than others get multiples of their totals. If nearly all totals
    are multiples, the other cells are misfits, and the target sum is a multiple as well.
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
    """Return the nearest whole or half number, if float32 rounding explains the difference.

    Target sums that are chosen are whole, and medians of counts are whole or half numbers.
    """
    near = round(2 * total) / 2
    return near if abs(near - total) <= 1e-5 * total else total


def _factors(scaled: sparse.csr_matrix) -> np.ndarray | None:
    """Return the factor of each cell with recovered counts; None if too few cells have counts."""
    sizes = np.diff(scaled.indptr)
    if (sizes >= FULL).sum() >= FEWEST_COUNTS:
        scaled = scaled[sizes >= FULL]
    factors, n_evident = [], 0
    for start, stop in zip(scaled.indptr[:-1].tolist(), scaled.indptr[1:].tolist(), strict=True):
        factor, different = _factor(np.sort(scaled.data[start:stop]))
        if factor is not None:
            factors.append(factor)
            n_evident += different > 1  # a single count explains any value
    enough = n_evident >= FEWEST_COUNTS and len(factors) >= (1 - FEW) * scaled.shape[0]
    return np.asarray(factors) if enough else None


def _factor(values: np.ndarray) -> tuple[float | None, int]:
    """Find whole counts that explain sorted values; return their factor and how many differ.

    The smallest value of deep cells in chosen genes may be a large count. More counts than the 1, 2
    and 3 of packing are therefore tried for it.
    """
    sample = values[np.linspace(0, len(values) - 1, 60).astype(int)] / values[0]
    trials = np.arange(1, LARGEST_SMALLEST + 1)
    for trial in trials[_misfits(trials[:, None] * sample) == 0].tolist():
        counts = np.rint(trial * values / values[0])
        factor = float((values / counts).mean())
        logged = np.log1p(values)
        if (np.abs(np.log1p(factor * counts) - logged) <= 1e-6 * np.maximum(1.0, logged)).all():
            return factor, len(np.unique(counts))
    return None, 0


def target_sum_of(factors: np.ndarray) -> tuple[float | None, np.ndarray]:
    """Recover the target sum and the whole totals of cells from their factors.

    Parameters
    ----------
    factors
        float64 [cells], target_sum / total of each cell, exact to 1e-6.

    Returns
    -------
    target_sum : float or None
        None: the totals are not whole, or do not differ enough.
    totals : numpy.ndarray
        float64 [cells], the smallest first; empty if `target_sum` is None.
    """
    order = np.sort(factors)[::-1]  # the cell with the smallest total first
    solutions: list[tuple[float, np.ndarray]] = []
    # A reference cell that is a misfit gives a multiple, so the smallest of several sums is right.
    for reference in order[[0, len(order) // 2, -1]].tolist():
        ratios = reference / order
        screen = ratios[np.linspace(0, len(ratios) - 1, 24).astype(int)]
        for start in range(1, LARGEST_TOTAL, 20_000):
            totals = np.arange(start, start + 20_000, dtype=np.float64)
            candidates = totals[_misfits(totals[:, None] * screen) <= 2 * MOST_MISFITS]
            fits = (total for total in candidates.tolist() if _whole(total * ratios))
            if (total := next(fits, None)) is not None:
                solutions.append((_rounded(total * reference), total * ratios))
                break
    return min(solutions, key=lambda pair: pair[0]) if solutions else (None, factors[:0])


def _whole(totals: np.ndarray) -> bool:
    """Return whether totals are whole, and differ enough for that to be evidence."""
    different = len(np.unique(np.rint(totals)))
    return different >= FEWEST_COUNTS // 2 and float(_misfits(totals)) <= MOST_MISFITS


def _misfits(totals: np.ndarray) -> np.ndarray:
    """Return the share of totals that are not whole, along the last axis."""
    tolerance = np.minimum(0.05, 1e-3 + 1e-6 * totals)  # rounding of float32 values
    return (np.abs(totals - np.rint(totals)) > tolerance).mean(axis=-1)
