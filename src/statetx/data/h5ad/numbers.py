"""Stored numbers in types that compiled code takes, and what the values of a matrix can be."""

from __future__ import annotations

import numpy as np

from statetx.core.errors import DataError

WHOLE = 1e-3
"""A value is whole when its fractional part is no larger (cell-eval's threshold)."""
EQUAL_SUMS = 1e-3
"""Sums that differ by a smaller share are equal: float32 rounds by less."""
FEW_ROWS = 3
"""Fewer rows may sum to the same by chance."""
CENTRED = 0.5
"""Share of the weight of positive values that negative ones reach in scaled or centred data, where
both weigh the same; the noise of a regression around zero weighs less."""


def native(values: np.ndarray) -> np.ndarray:
    """Return values in the byte order of the machine: compiled code takes no other."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def computable_type(kind: np.dtype) -> np.dtype:
    """Return the type in which stored values are computed with: scipy and compiled code take neither
    float16 nor another byte order, nor numbers longer than 8 bytes, and a boolean is a count.
    """
    if kind.itemsize > np.dtype(np.float64).itemsize:
        return np.dtype(np.float64)
    narrow = {"float16": np.float32, "bool": np.uint8}
    return np.dtype(narrow.get(kind.name, kind.newbyteorder("=")))


def computable(values: np.ndarray) -> np.ndarray:
    """Return values in their `computable_type`."""
    return values.astype(computable_type(values.dtype), copy=False)


def is_integral(values: np.ndarray) -> bool:
    """Whether all values are whole numbers."""
    return values.dtype.kind in "iub" or bool(np.all(values == np.rint(values)))


def is_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers but for rounding."""
    if is_integral(values):
        return True
    with np.errstate(invalid="ignore"):
        return not bool((np.abs(values - np.rint(values)) > WHOLE).any())


class RowSums:
    """Least and largest sum of the rows seen, of those that are not empty.

    Attributes
    ----------
    n, least, largest
        How many rows, and their sums.
    """

    def __init__(self) -> None:
        self.n, self.least, self.largest = 0, np.inf, 0.0

    def add(self, sums: np.ndarray) -> None:
        """Take in the sums of some rows."""
        some = sums[sums > 0]
        if some.size:
            self.n += int(some.size)
            self.least = min(self.least, float(some.min()))
            self.largest = max(self.largest, float(some.max()))

    def refuse_normalised(self, name: str, where: object) -> None:
        """Refuse decimals declared as counts whose rows all have the same sum.

        Parameters
        ----------
        name, where
            Matrix and file, for the message.

        Raises
        ------
        DataError
            They were divided by the total of their cell: what was counted is lost.
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
    """Whether negative values weigh so much that the values are no expression: scaled, centred.

    Parameters
    ----------
    below, above
        Sums of the negative values, without their sign, and of the positive ones.
    """
    return below > CENTRED * above


def mend_negative(below: float, above: float) -> str:
    """Return how to mend negative values: by clipping a few, or not at all; see `is_centred`."""
    if is_centred(below, above):
        return (
            "these are scaled (z-scored), centred or batch-corrected values, which cannot be used"
        )
    return (
        "values slightly below 0 come from models and corrections: set them to 0 with "
        "adata.X = adata.X.clip(0), of a sparse matrix adata.X.maximum(0)"
    )
