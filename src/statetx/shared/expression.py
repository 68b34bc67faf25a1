"""Upper bound of log1p expression, ln(1 + target_sum * count / total).

A count cannot exceed the total of its cell, so no value exceeds ln(1 + target_sum).
"""

from __future__ import annotations

import math

import numpy as np

from statetx.core.errors import DataError

TARGET_SUM = 10_000.0
"""Target sum of models that do not state one, in counts per cell."""
LARGEST_TARGET_SUM = 1_000_000.0
"""Counts per million, the largest target sum in use. Larger values cannot be log1p values."""
ROUNDING = 1e-4
"""Amount by which a stored value may exceed the bound: float32 values near 14 are 1e-6 apart."""


def largest_log1p(target_sum: float | None) -> float:
    """Return ln(1 + target_sum), the log1p value of a gene that has all counts of its cell.

    Parameters
    ----------
    target_sum
        Counts per cell after normalisation; None: unknown, so `LARGEST_TARGET_SUM` is used.
    """
    return math.log1p(LARGEST_TARGET_SUM if target_sum is None else target_sum)


def impossible(values: np.ndarray, target_sum: float | None) -> np.ndarray:
    """Return where log1p values exceed the bound.

    Parameters
    ----------
    values
        log1p expression, any shape.
    target_sum
        As in `largest_log1p`.

    Returns
    -------
    numpy.ndarray
        bool, the shape of `values`.
    """
    return values > largest_log1p(target_sum) + ROUNDING


def bounded(values: np.ndarray, target_sum: float | None) -> tuple[np.ndarray, int]:
    """Return log1p values clipped to the bound, and the number of clipped values.

    Parameters
    ----------
    values
        log1p expression, any shape.
    target_sum
        As in `largest_log1p`.
    """
    above = impossible(values, target_sum)
    number = int(above.sum())
    if not number:
        return values, 0
    return np.where(above, values.dtype.type(largest_log1p(target_sum)), values), number


def refuse_impossible(largest: float, target_sum: float, name: str, where: object) -> None:
    """Check that the largest log1p value is possible with the declared target sum.

    Parameters
    ----------
    largest
        Largest value of the matrix.
    target_sum
        Declared counts per cell after normalisation.
    name
        Name of the matrix, for the message.
    where
        The file, for the message.

    Raises
    ------
    DataError
        The value exceeds ln(1 + target_sum).
    """
    if largest > largest_log1p(target_sum) + ROUNDING:
        raise DataError(
            f"{name!r} contains log1p values up to {largest:.4g}; with the declared target_sum of "
            f"{target_sum:,.7g} no value exceeds ln(1 + target_sum) = "
            f"{largest_log1p(target_sum):.4g}",
            where=where,
            fix="declare the target_sum that these values were made with "
            "(`statetx inspect` shows it), or repair the values",
        )
