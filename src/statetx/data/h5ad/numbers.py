"""Types of numbers that compiled code accepts, and tests of the values of a matrix."""

from __future__ import annotations

import numpy as np

from statetx.core.errors import DataError

WHOLE = 1e-3
"""Largest distance of a value from a whole number that counts as rounding (as in cell-eval)."""
EQUAL_SUMS = 1e-3
"""Largest relative difference of equal sums: rounding of float32 is smaller."""
FEW_ROWS = 3
"""Fewest rows whose sums are compared: fewer may be equal by chance."""
CENTRED = 0.5
"""Sum of negative values, relative to that of positive ones, above which data count as centred.

In scaled or centred data both sums are about equal. Noise of a model around zero adds up to less.
"""


def native(values: np.ndarray) -> np.ndarray:
    """Return values in the byte order of the machine, which compiled code needs."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def computable_type(kind: np.dtype) -> np.dtype:
    """Return the type in which stored values are used in computations.

    scipy and compiled code accept neither float16, nor foreign byte orders, nor numbers longer than
    8 bytes. Booleans become uint8 counts.
    """
    if kind.itemsize > np.dtype(np.float64).itemsize:
        return np.dtype(np.float64)
    narrow = {"float16": np.float32, "bool": np.uint8}
    return np.dtype(narrow.get(kind.name, kind.newbyteorder("=")))


def computable(values: np.ndarray) -> np.ndarray:
    """Return values in their `computable_type`."""
    return values.astype(computable_type(values.dtype), copy=False)


def is_integral(values: np.ndarray) -> bool:
    """Return whether all values are whole numbers."""
    return values.dtype.kind in "iub" or bool(np.all(values == np.rint(values)))


def is_whole(values: np.ndarray) -> bool:
    """Return whether all values are within `WHOLE` of a whole number."""
    if is_integral(values):
        return True
    with np.errstate(invalid="ignore"):
        return not bool((np.abs(values - np.rint(values)) > WHOLE).any())


class RowSums:
    """Smallest and largest sum of the rows added so far, without empty rows.

    Attributes
    ----------
    n
        Number of rows with a positive sum.
    least, largest
        Smallest and largest sum.
    """

    def __init__(self) -> None:
        self.n, self.least, self.largest = 0, np.inf, 0.0

    def add(self, sums: np.ndarray) -> None:
        """Add the sums of some rows, [n]."""
        some = sums[sums > 0]
        if some.size:
            self.n += int(some.size)
            self.least = min(self.least, float(some.min()))
            self.largest = max(self.largest, float(some.max()))

    def refuse_normalised(self, name: str, where: object) -> None:
        """Refuse decimals declared as counts if all rows have the same sum.

        Parameters
        ----------
        name, where
            Matrix and file, for the message.

        Raises
        ------
        DataError
            The values were divided by the total of their cell, so the counts are lost.
        """
        if self.n < FEW_ROWS or self.largest - self.least > EQUAL_SUMS * self.largest:
            return
        raise DataError(
            f"{name!r} is declared as counts but is normalised: the values of every cell sum to "
            f"{self.largest:,.6g}",
            where=where,
            fix="give the raw counts (adata.raw, adata.layers), or log1p values: "
            "scanpy.pp.log1p(adata), declared as log1p",
        )


def is_centred(below: float, above: float) -> bool:
    """Return whether values look scaled or centred, so that they cannot be used as expression.

    Parameters
    ----------
    below
        Absolute sum of the negative values.
    above
        Sum of the positive values.
    """
    return below > CENTRED * above


def mend_negative(below: float, above: float) -> str:
    """Return how to fix negative values: clip them, or use other values if they are centred.

    The arguments are those of `is_centred`.
    """
    if is_centred(below, above):
        return (
            "these are scaled (z-scored), centred or batch-corrected values, which cannot be used"
        )
    return (
        "values slightly below 0 come from models and corrections: set them to 0 with "
        "adata.X = adata.X.clip(0), or adata.X.maximum(0) for a sparse matrix"
    )
