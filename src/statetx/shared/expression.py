"""What log1p expression can be: ln(1 + target_sum * count / total), where no count exceeds the total."""

from __future__ import annotations

import math

import numpy as np

from statetx.core.errors import DataError

TARGET_SUM = 10_000.0
"""Of a model that does not state its own."""
LARGEST_TARGET_SUM = 1_000_000.0
"""Counts per million, the largest in use: what tells log1p values of an unknown target sum from counts."""
ROUNDING = 1e-4
"""By how much a stored value may exceed the bound: float32 values of 14 are 1e-6 apart."""


def largest_log1p(target_sum: float | None) -> float:
    """Return ln(1 + target_sum), the value of a gene that has all counts of its cell.

    Parameters
    ----------
    target_sum
        Counts per cell after normalisation; None: unknown, so that of counts per million.
    """
    return math.log1p(LARGEST_TARGET_SUM if target_sum is None else target_sum)


def impossible(values: np.ndarray, target_sum: float | None) -> np.ndarray:
    """Return where log1p values exceed the bound, bool of the same shape."""
    return values > largest_log1p(target_sum) + ROUNDING


def bounded(values: np.ndarray, target_sum: float | None) -> tuple[np.ndarray, int]:
    """Return log1p values with those above the bound set to it, and their number."""
    above = impossible(values, target_sum)
    number = int(above.sum())
    if not number:
        return values, 0
    return np.where(above, values.dtype.type(largest_log1p(target_sum)), values), number


def refuse_impossible(largest: float, target_sum: float, name: str, where: object) -> None:
    """Raise a DataError when the largest log1p value contradicts the declared target sum.

    Parameters
    ----------
    largest
        Largest value of the matrix.
    target_sum
        As declared.
    name, where
        Matrix and file, for the message.
    """
    if largest > largest_log1p(target_sum) + ROUNDING:
        raise DataError(
            f"{name!r} holds log1p values up to {largest:.4g}; with the declared target_sum of "
            f"{target_sum:,.7g} no value exceeds ln(1 + target_sum) = {largest_log1p(target_sum):.4g}",
            where=where,
            fix="declare the target_sum that these values were made with (`statetx inspect` shows it), "
            "or repair the values",
        )
