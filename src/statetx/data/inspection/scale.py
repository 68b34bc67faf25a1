"""Scale of the values of a matrix, with the evidence for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from statetx.data.h5ad.matrix import (
    CHUNK_NONZEROS,
    Matrix,
    check_values,
    looks_like,
    refuse_other_scale,
)
from statetx.data.h5ad.numbers import RowSums, is_whole

if TYPE_CHECKING:
    from scipy import sparse


@dataclass(frozen=True)
class Seen:
    """Summary of the finite values of some rows, or of all rows.

    Attributes
    ----------
    cells
        Number of rows; 0 for a CSC matrix, whose stored values are read without their rows.
    values
        Number of non-zero values.
    integral
        Whether all values are whole numbers, but for rounding.
    low, largest
        Smallest and largest value.
    zeros
        Share of zeros.
    sums
        Smallest, median and largest sum of the sampled rows that are not empty: of the values, or
        of exp(value) - 1 if they look like log1p. None without rows.
    empty
        Sampled rows without any value.
    largest_count
        Largest count: of the values themselves, or of the counts that are recovered from sampled
        log1p values (value = ln(1 + factor * count), one factor per row). None: no counts.
    """

    cells: int
    values: int
    integral: bool
    low: float
    largest: float
    zeros: float
    sums: tuple[float, float, float] | None = None
    empty: int = 0
    largest_count: float | None = None

    @property
    def scale(self) -> str:
        """Scale that the values look like: ``counts`` or ``log1p``."""
        return looks_like(self.integral, self.largest)

    @property
    def target_sum(self) -> float | None:
        """Median sum of the sampled rows if all sums agree to 0.1 %, or None."""
        if self.sums is None or self.sums[2] - self.sums[0] > 1e-3 * self.sums[1]:
            return None
        return self.sums[1]


def look(matrix: Matrix) -> Seen:
    """Summarise a sample of rows, in bounded memory for any size of the matrix."""
    rows: list[sparse.csr_matrix] = []
    known: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    for first_row, part in matrix.sample():
        stored = part if isinstance(part, np.ndarray) else part.data
        known.append(stored[np.isfinite(stored)])
        if first_row is not None:
            rows.append(part)
            numbers.append(np.arange(first_row, first_row + part.shape[0]))
    values = np.concatenate(known)
    cells = (
        len(np.unique(np.concatenate(numbers))) if numbers else 0
    )  # runs of a small file overlap
    filled = sum(part.nnz for part in rows) / max(1, sum(part.shape[0] for part in rows))
    if matrix.nonzeros is not None:
        filled = matrix.nonzeros / max(1, matrix.shape[0])
    seen = Seen(
        cells=cells,
        values=values.size,
        integral=is_whole(values),
        low=float(values.min(initial=0)),
        largest=float(values.max(initial=0)),
        zeros=1.0 - filled / max(1, matrix.shape[1]),
    )
    if seen.integral:
        seen = replace(seen, largest_count=seen.largest)
    if not rows or not values.size or seen.low < 0:
        return seen
    log1p = seen.scale == "log1p"
    if log1p:
        seen = replace(seen, largest_count=_count_behind(rows))
    exact = [part.astype(np.float64) for part in rows]
    sums = np.concatenate([_row_sums(part.expm1() if log1p else part) for part in exact])
    some = sums[np.isfinite(sums) & (sums > 0)]
    least, middle, most = (
        float(f(some)) if some.size else 0.0 for f in (np.min, np.median, np.max)
    )
    return replace(seen, sums=(least, middle, most), empty=int((sums == 0).sum()))


def _row_sums(part: sparse.csr_matrix) -> np.ndarray:
    """Return the sum of each row, float64 [n]."""
    return np.asarray(part.sum(axis=1), dtype=np.float64).ravel()


def _count_behind(rows: list[sparse.csr_matrix]) -> float | None:
    """Return the largest count that packing would recover from log1p values, or None."""
    from statetx.data.h5ad import count_kernels  # numba takes half a second to import

    most = 0
    for part in rows:
        counts, factor = np.empty(part.nnz, dtype=np.int32), np.empty(part.shape[0])
        if not count_kernels.recover_counts(
            part.indptr, part.data, int(np.iinfo(np.uint16).max), counts, factor
        ):
            return None
        most = max(most, int(counts.max(initial=0)))
    return float(most)


def check_every_value(
    matrix: Matrix, known: list[str] | None, scale: str | None, seen: Seen | None
) -> Seen | None:
    """Read a whole matrix in chunks, with a progress bar, and check its values as packing does.

    Parameters
    ----------
    matrix
        A matrix of an open file.
    known
        Gene names of an expression matrix; None: an embedding, which may be negative.
    scale
        Declared scale of expression, or None.
    seen
        Summary of a sample, or None.

    Returns
    -------
    Seen or None
        `seen`, updated with all rows.

    Raises
    ------
    DataError
        A value is not finite or negative expression, or the values contradict the declared scale.
    """
    low, largest, values, integral, sums = 0.0, 0.0, 0, True, RowSums()
    for first_row, part in _parts(matrix):
        check_values(part, matrix.path, matrix.name, first_row, known)
        stored = part if isinstance(part, np.ndarray) else part.data
        if stored.size:
            low, largest = min(low, float(stored.min())), max(largest, float(stored.max()))
            values, integral = values + stored.size, integral and is_whole(stored)
        if first_row is not None:
            sums.add(_row_sums(part))
    if scale is not None and values:
        refuse_other_scale(integral, largest, scale, matrix.name, matrix.path)
        if scale == "counts" and not integral:
            sums.refuse_normalised(matrix.name, matrix.path)
    if seen is None:
        return None
    return replace(
        seen,
        cells=matrix.shape[0],
        values=values,
        integral=integral,
        low=low,
        largest=largest,
        zeros=1.0 - values / max(1, matrix.shape[0] * matrix.shape[1]),
        largest_count=largest if integral else None if seen.integral else seen.largest_count,
    )


def _parts(matrix: Matrix) -> Iterator[tuple[int | None, sparse.csr_matrix | np.ndarray]]:
    """Yield (first row, rows) in chunks, or (None, stored values) for a CSC matrix.

    The values of a row of a CSC matrix are spread over the file.
    """
    from tqdm import tqdm

    title = f"check {matrix.path.name} {matrix.name}"
    if matrix.layout == "csc":
        matrix.check_pointers()
        n = matrix.nonzeros or 0
        with tqdm(total=n, unit="value", desc=title, disable=None) as bar:
            for start in range(0, n, CHUNK_NONZEROS):
                matrix.stored_rows(start, start + CHUNK_NONZEROS)
                part = matrix.stored_values(start, start + CHUNK_NONZEROS)
                yield None, part[part != 0]
                bar.update(len(part))
        return
    with tqdm(total=matrix.shape[0], unit="cell", desc=title, disable=None) as bar:
        for start, stop in matrix.chunks(matrix.shape[0]):
            yield start, matrix.rows(start, stop)
            bar.update(stop - start)
