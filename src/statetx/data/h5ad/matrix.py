"""Matrices of an h5ad, read in chunks of rows, with checks of their values."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from statetx.core.errors import DataError
from statetx.data.h5ad.matrix_layout import layout_of, pointers
from statetx.data.h5ad.numbers import RowSums, computable, is_whole, mend_negative, native
from statetx.data.h5ad.open_h5ad import reading
from statetx.shared.expression import ROUNDING, largest_log1p

if TYPE_CHECKING:
    from scipy import sparse

    from statetx.data.h5ad.csc_rows import Buckets

log = logging.getLogger("statetx.data")

CHUNK_BYTES = 64 << 20
"""Bytes of one chunk of rows of a dense matrix, as float64. Bounds memory for any width."""
CHUNK_NONZEROS = 4 << 20
"""Stored values in one chunk of rows of a sparse matrix: 48 MB with their column numbers."""
SAMPLE_ROWS = 1024
"""Rows in the sample of a matrix."""
LARGEST_LOG1P = largest_log1p(None) + ROUNDING
"""Decimals above this are not log1p values for any target sum."""


class Matrix:
    """A CSR, CSC or dense matrix of an open h5ad, read by rows.

    Attributes
    ----------
    layout
        ``csr``, ``csc`` or ``dense``. The first read copies CSC into runs of rows in a temporary
        file, because HDF5 can only slice it by gene.
    shape
        Number of cells and features.
    dtype
        Type of the stored values.

    Parameters
    ----------
    file
        The open file.
    name
        Name of the matrix in the file, such as ``X`` or ``obsm/X_pca``.
    path
        Path of the file, for messages.
    spill
        Directory of the temporary file; None: the temporary directory of the system.
    """

    def __init__(self, file: h5py.File, name: str, path: Path, spill: Path | None = None) -> None:
        self.path, self.name, self._spill = path, name, spill
        with reading(path, repr(name)):
            self._item, self.layout, self.shape, self.dtype = layout_of(file, name, path)
        self._buckets: Buckets | None = None
        self._indptr: np.ndarray | None = None

    @property
    def nonzeros(self) -> int | None:
        """Number of stored values; None for a dense matrix."""
        return None if self.layout == "dense" else int(self._item["data"].shape[0])

    @property
    def chunk_rows(self) -> int:
        """Rows per chunk."""
        if self.nonzeros is None:
            return max(1, CHUNK_BYTES // (8 * max(1, self.shape[1])))
        return max(1, int(CHUNK_NONZEROS * self.shape[0] / max(1, self.nonzeros)))

    @property
    def dense_chunk_rows(self) -> int:
        """Rows per chunk where the rows are converted to dense."""
        return min(self.chunk_rows, max(1, CHUNK_BYTES // (8 * max(1, self.shape[1]))))

    def chunks(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield [start, stop) of consecutive runs of at most `most` rows that fit in memory."""
        start = 0
        while start < self.shape[0]:
            stop = min(self.shape[0], start + min(most, self.chunk_rows))
            if self.layout == "csr":  # rows may differ in length, so count their stored values
                indptr = self._row_pointers()
                full = int(np.searchsorted(indptr, indptr[start] + CHUNK_NONZEROS, "right")) - 1
                stop = min(self.shape[0], start + most, max(start + 1, full))
            yield start, stop
            start = stop

    def _row_pointers(self) -> np.ndarray:
        if self._indptr is None:
            self._indptr = pointers(self._item, self.name, self.path)
        return self._indptr

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows [start, stop) as CSR, with duplicates summed and zeros dropped.

        Raises
        ------
        DataError
            The rows cannot be read, or an index is outside the matrix.
        """
        with reading(self.path, f"{self.name!r}, rows {start} to {stop}"):
            return self._rows(start, stop)

    def _rows(self, start: int, stop: int) -> sparse.csr_matrix:
        from scipy import sparse  # slow to import, and commands that only read obs do not need it

        if self.layout == "dense":
            return sparse.csr_matrix(computable(self._item[start:stop]))
        if self.layout == "csc":
            return _clean(self._row_buckets().rows(start, stop))
        pointers = self._row_pointers()
        first, last = int(pointers[start]), int(pointers[stop])
        indices = native(self._item["indices"][first:last])
        self._check_places(indices, "column", self.shape[1])
        indptr = pointers[start : stop + 1] - first
        values = (
            computable(self._item["data"][first:last]),
            indices.astype(np.int32, copy=False),
            indptr,
        )
        return _clean(sparse.csr_matrix(values, shape=(stop - start, self.shape[1])))

    def check_pointers(self) -> None:
        """Check that the row or column pointers of a sparse matrix rise from 0."""
        with reading(self.path, f"{self.name}/indptr"):
            pointers(self._item, self.name, self.path)

    def _row_buckets(self) -> Buckets:
        if self._buckets is None:
            from statetx.data.h5ad.csc_rows import Buckets

            self.check_pointers()
            try:
                self._buckets = Buckets(self._item, self.shape, CHUNK_NONZEROS, self._spill)
            except IndexError as error:
                raise self._beyond("row", self.shape[0]) from error
        return self._buckets

    def stored_rows(self, first: int, last: int) -> np.ndarray:
        """Return the checked row numbers of stored values [first, last) of a CSC matrix."""
        with reading(self.path, f"{self.name}/indices"):
            indices = native(self._item["indices"][first:last])
        self._check_places(indices, "row", self.shape[0])
        return indices

    def stored_values(self, first: int, last: int) -> np.ndarray:
        """Return stored values [first, last) of a sparse matrix."""
        with reading(self.path, f"{self.name}/data"):
            return computable(self._item["data"][first:last])

    def _check_places(self, indices: np.ndarray, what: str, limit: int) -> None:
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < limit:
            raise self._beyond(what, limit)

    def _beyond(self, what: str, limit: int) -> DataError:
        return DataError(
            f"{self.name!r} has a {what} index outside its {limit} {what}s",
            where=self.path,
            fix="the file is damaged: write it again",
        )

    def dense_rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop) as dense float32."""
        if self.layout == "dense":
            return np.asarray(self.stored_dense(start, stop), dtype=np.float32)
        return np.asarray(self.rows(start, stop).toarray(), dtype=np.float32)

    def stored_dense(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop) of a dense matrix as stored."""
        with reading(self.path, f"{self.name!r}, rows {start} to {stop}"):
            return computable(self._item[start:stop])

    def sample(self) -> Iterator[tuple[int | None, sparse.csr_matrix | np.ndarray]]:
        """Yield (first row, rows) of up to four runs spread over the file.

        The runs have `SAMPLE_ROWS` rows in all, and overlap in a small file. The values of a row of
        a CSC matrix are spread over the file, so a CSC matrix yields (None, stored values) instead,
        with about the same number of values.
        """
        n, run = self.shape[0], SAMPLE_ROWS // 4
        if self.layout == "csc":
            stored = self.nonzeros or 0
            run = -(-run * stored // max(1, n))
            n = stored
        starts = {0, *(max(0, int(n * f) - run) for f in (1 / 3, 2 / 3, 1.0))}
        for start in sorted(starts):
            if self.layout == "csc":
                self.stored_rows(start, start + run)
                yield None, self.stored_values(start, start + run)
            else:
                yield start, self.rows(start, min(n, start + run))


def _clean(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def check_values(
    values: sparse.csr_matrix | np.ndarray,
    path: Path,
    name: str,
    first_row: int | None,
    columns: list[str] | None,
) -> None:
    """Refuse values that are not finite, and negative expression.

    Parameters
    ----------
    values
        Rows of the matrix, [n, features]; or only stored values, [n], if `first_row` is None.
    path, name
        File and matrix, for the message.
    first_row
        Row number of the first row in the file; None: not known.
    columns
        Gene names of an expression matrix; None: an embedding, which may be negative.

    Raises
    ------
    DataError
        A value is NaN, infinite, or negative expression. The message gives its row and gene.
    """
    flat = values if isinstance(values, np.ndarray) else values.data
    if flat.dtype.kind in "ub" or not flat.size:
        return
    # Two reductions instead of three masks, because NaN and inf propagate into min and max.
    low, high = flat.min(), flat.max()
    if np.isfinite(low) and np.isfinite(high) and (columns is None or low >= 0):
        return
    bad = ~np.isfinite(flat)
    if columns is not None:
        bad |= flat < 0
    at = np.argwhere(bad)[0]
    if first_row is None:
        row, column, value = None, -1, float(flat[at[0]])
    elif isinstance(values, np.ndarray):
        row, column, value = int(at[0]), int(at[1]), float(values[at[0], at[1]])
    else:
        row = int(np.searchsorted(values.indptr, at[0], side="right")) - 1
        column, value = int(values.indices[at[0]]), float(flat[at[0]])
    negative = value < 0 and np.isfinite(value)
    feature = f"column {column}" if columns is None else f"gene {columns[column]!r}"
    place = "" if row is None or first_row is None else f" in row {first_row + row}, {feature}"
    below, above = -flat[flat < 0].sum(dtype=float), flat[flat > 0].sum(dtype=float)
    raise DataError(
        f"{name!r} holds values that are {'negative' if negative else 'not finite'}: {value:g}{place}"
        f" ({int(bad.sum())} such values in this part of the file)",
        where=path,
        fix=f"expression is never negative: {mend_negative(below, above)}"
        if negative
        else "repair or drop these cells: a missing value cannot be read",
    )


def check_scale(matrix: Matrix, scale: str, columns: list[str]) -> Evidence:
    """Check that sampled values agree with the declared scale, and return what they show.

    log1p values are decimals below `LARGEST_LOG1P`. Counts are whole numbers, or decimals with
    larger values (corrected counts) whose row sums differ between cells.

    Parameters
    ----------
    matrix
        X, or an obsm matrix of expression.
    scale
        Declared scale, ``counts`` or ``log1p``.
    columns
        Gene names.

    Raises
    ------
    DataError
        The values look like the other scale, are normalised, or cannot be expression.
    """
    for first_row, part in matrix.sample():  # NaN would count as a decimal in `evidence`
        check_values(part, matrix.path, matrix.name, first_row, columns)
    seen = evidence(matrix)
    if seen.n:
        refuse_other_scale(seen.integral, seen.largest, scale, matrix.name, matrix.path)
        if scale == "counts" and not seen.integral:
            seen.sums.refuse_normalised(matrix.name, matrix.path)
    return seen


def note_decimals(seen: Evidence, scale: str, name: str, where: object) -> None:
    """Log that decimals are taken as counts, as ambient-RNA removal or ambiguous reads give."""
    if scale == "counts" and not seen.integral:
        log.info("%s: %s holds decimals, which are taken as corrected counts", where, name)


def looks_like(integral: bool, largest: float) -> str:
    """Return the scale that values look like: ``counts`` or ``log1p``."""
    return "log1p" if not integral and largest < LARGEST_LOG1P else "counts"


def refuse_other_scale(
    integral: bool, largest: float, scale: str, name: str, where: object
) -> None:
    """Check that values look like the declared scale.

    Parameters
    ----------
    integral
        Whether all values are whole numbers.
    largest
        The largest value.
    scale
        Declared scale, ``counts`` or ``log1p``.
    name, where
        Matrix and file, for the message.

    Raises
    ------
    DataError
        The values look like the other scale.
    """
    if looks_like(integral, largest) == scale:
        return
    values = f"{'whole numbers' if integral else 'decimals'} up to {largest:g}"
    if scale == "counts":
        raise DataError(
            f"{name!r} is declared as counts but looks log-transformed: {values}",
            where=where,
            fix="give the raw counts; or, for a data set of a configuration, declare `scale: log1p`. "
            "Corrected counts as small as these look the same: round them",
        )
    raise DataError(
        f"{name!r} is declared as log1p but looks like counts: {values}",
        where=where,
        fix="give ln(1 + target_sum * count / total); or, for a data set of a configuration, declare "
        "`scale: counts`"
        if name == "X"
        else "store ln(1 + target_sum * count / total) in this matrix",
    )


@dataclass(frozen=True)
class Evidence:
    """What a sample of rows shows of a matrix.

    Attributes
    ----------
    n
        Number of non-zero values in the sample.
    integral
        Whether all of them are whole numbers, but for rounding.
    largest
        The largest value.
    zeros
        Share of zeros in the matrix.
    scale
        Scale that the values look like, ``counts`` or ``log1p``.
    sums
        Sums of the sampled rows; without rows for a CSC matrix.
    """

    n: int
    integral: bool
    largest: float
    zeros: float
    scale: str
    sums: RowSums


def evidence(matrix: Matrix) -> Evidence:
    """Summarise a sample of rows of X, or of an obsm matrix of expression."""
    n, cells, integral, largest, sums = 0, 0, True, 0.0, RowSums()
    for first, part in matrix.sample():
        values = part if isinstance(part, np.ndarray) else part.data
        cells += part.shape[0]
        n += values.size
        if values.size:
            integral = integral and is_whole(values)
            largest = max(largest, float(values.max()))
        if first is not None:
            sums.add(np.asarray(part.sum(axis=1, dtype=np.float64)).ravel())
    stored = matrix.nonzeros
    filled = n / max(1, cells * matrix.shape[1])
    if stored is not None:
        filled = stored / max(1, matrix.shape[0] * matrix.shape[1])
    return Evidence(n, integral, largest, 1.0 - filled, looks_like(integral, largest), sums)
