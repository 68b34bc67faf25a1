"""Read a matrix of an h5ad in row chunks, and refuse values that cannot be expression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from statetx.errors import DataError
from statetx.expression import ROUNDING, largest_log1p

if TYPE_CHECKING:
    from scipy import sparse

    from statetx.data.transpose import Buckets

CHUNK_BYTES = 64 << 20
"""Dense bytes behind one chunk of rows of a dense matrix: bounds memory, whatever its width."""
CHUNK_NONZEROS = 4 << 20
"""Stored values behind one chunk of rows of a sparse matrix: 48 MB with their places."""
SAMPLE_ROWS = 1024
LARGEST_LOG1P = largest_log1p(None) + ROUNDING
"""Decimals above it are not log1p values, whatever their target sum."""


class Matrix:
    """A CSR, CSC or dense matrix of an open h5ad, read by rows.

    Attributes
    ----------
    layout
        ``csr``, ``csc`` or ``dense``. CSC is dealt into runs of rows in a temporary file at the
        first read, because HDF5 can only slice it by gene.
    shape
        Cells, features.
    dtype
        Of the stored values.

    Parameters
    ----------
    file, name, path
        The open file, the name of the matrix in it, and the path for messages.
    spill
        Directory of the temporary file; the system's choice without it.
    """

    def __init__(self, file: h5py.File, name: str, path: Path, spill: Path | None = None) -> None:
        self.path, self.name, self._spill = path, name, spill
        if name not in file:
            raise DataError(
                f"there is no {name!r}", where=path, fix="write the file with anndata >= 0.8"
            )
        self._item = file[name]
        if isinstance(self._item, h5py.Dataset):
            self.layout = "dense"
            if self._item.ndim != 2:
                raise DataError(
                    f"{name!r} has {self._item.ndim} dimensions instead of 2",
                    where=path,
                    fix="store one row per cell, one column per feature",
                )
            self.shape = (int(self._item.shape[0]), int(self._item.shape[1]))
            self.dtype = self._item.dtype
        else:
            kind = str(self._item.attrs.get("encoding-type", ""))
            if kind not in ("csr_matrix", "csc_matrix"):
                raise DataError(
                    f"{name!r} is stored as {kind or 'an unknown kind of group'!r}",
                    where=path,
                    fix="store it as a CSR, CSC or dense matrix",
                )
            self.layout = kind[:3]
            n_rows, n_columns = self._item.attrs["shape"]
            self.shape = (int(n_rows), int(n_columns))
            self._refuse_damaged()
            self.dtype = self._item["data"].dtype
        self._buckets: Buckets | None = None
        self._indptr: np.ndarray | None = None

    def _refuse_damaged(self) -> None:
        """Refuse arrays that do not fit together: reading them would fail anywhere."""
        item, what = self._item, ""
        lacking = [part for part in ("data", "indices", "indptr") if part not in item]
        if lacking:
            what = f"it has no {lacking[0]!r}"
        else:
            values, places, pointers = (len(item[part]) for part in ("data", "indices", "indptr"))
            wanted = self.shape[0 if self.layout == "csr" else 1] + 1
            if values != places:
                what = f"{values:,} values have {places:,} places"
            elif pointers != wanted:
                what = f"'indptr' has {pointers:,} entries instead of {wanted:,}"
            elif int(item["indptr"][-1]) != values:
                what = f"'indptr' ends at {int(item['indptr'][-1]):,} of {values:,} values"
        if what:
            raise DataError(
                f"{self.name!r} is damaged: {what}",
                where=self.path,
                fix="copy or write the file again",
            )

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
        """Rows per chunk that is made dense."""
        return min(self.chunk_rows, max(1, CHUNK_BYTES // (8 * max(1, self.shape[1]))))

    def chunks(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield [start, stop) of runs of at most `most` rows that fit in memory, in order."""
        start = 0
        while start < self.shape[0]:
            stop = min(self.shape[0], start + min(most, self.chunk_rows))
            if self.layout == "csr":  # rows may differ in length: by their stored values instead
                indptr = self._row_pointers()
                full = int(np.searchsorted(indptr, indptr[start] + CHUNK_NONZEROS, "right")) - 1
                stop = min(self.shape[0], start + most, max(start + 1, full))
            yield start, stop
            start = stop

    def _row_pointers(self) -> np.ndarray:
        if self._indptr is None:
            self._indptr = self._item["indptr"][()].astype(np.int64, copy=False)
            if self._indptr[0] != 0 or (np.diff(self._indptr) < 0).any():
                raise DataError(
                    f"{self.name!r} is damaged: its row pointers do not rise from 0",
                    where=self.path,
                    fix="copy or write the file again",
                )
        return self._indptr

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows [start, stop) as CSR, values as stored, duplicates summed, zeros dropped.

        Raises
        ------
        DataError
            An index beyond the shape of the matrix.
        """
        from scipy import sparse  # reading obs at parse time must not pay for it

        if self.layout == "dense":
            return sparse.csr_matrix(_computable(self._item[start:stop]))
        if self.layout == "csc":
            return _clean(self._row_buckets().rows(start, stop))
        pointers = self._row_pointers()
        first, last = int(pointers[start]), int(pointers[stop])
        indices = self._item["indices"][first:last]
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < self.shape[1]:
            raise self._beyond("column", self.shape[1])
        indptr = pointers[start : stop + 1] - first
        values = (
            _computable(self._item["data"][first:last]),
            indices.astype(np.int32, copy=False),
            indptr,
        )
        return _clean(sparse.csr_matrix(values, shape=(stop - start, self.shape[1])))

    def _row_buckets(self) -> Buckets:
        if self._buckets is None:
            from statetx.data.transpose import Buckets

            try:
                self._buckets = Buckets(self._item, self.shape, CHUNK_NONZEROS, self._spill)
            except (IndexError, ValueError) as error:
                raise self._beyond("row", self.shape[0]) from error
        return self._buckets

    def _beyond(self, what: str, limit: int) -> DataError:
        return DataError(
            f"{self.name!r} has a {what} index outside its {limit} {what}s",
            where=self.path,
            fix="the file is damaged: write it again",
        )

    def dense_rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop) as dense float32."""
        if self.layout == "dense":
            return np.asarray(self._item[start:stop], dtype=np.float32)
        return np.asarray(self.rows(start, stop).toarray(), dtype=np.float32)

    def sample(self) -> Iterator[tuple[int | None, sparse.csr_matrix | np.ndarray]]:
        """Yield (first row, rows): up to `SAMPLE_ROWS` rows in four runs spread over the file.

        Of a CSC matrix, (None, stored values), about as many: its rows lie all over the file.
        """
        n, run = self.shape[0], SAMPLE_ROWS // 4
        if self.layout == "csc":
            stored = self.nonzeros or 0
            run = -(-run * stored // max(1, n))
            n = stored
        starts = {0, *(max(0, int(n * f) - run) for f in (1 / 3, 2 / 3, 1.0))}
        for start in sorted(starts):
            if self.layout == "csc":
                yield None, self._item["data"][start : start + run]
            else:
                yield start, self.rows(start, min(n, start + run))


def _computable(values: np.ndarray) -> np.ndarray:
    """Widen float16: scipy has no sparse matrices of it."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _clean(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def is_integral(values: np.ndarray) -> bool:
    """Whether all values are whole numbers."""
    return values.dtype.kind in "iub" or bool(np.all(values == np.rint(values)))


def check_values(
    values: sparse.csr_matrix | np.ndarray,
    path: Path,
    name: str,
    first_row: int | None,
    columns: list[str] | None,
) -> None:
    """Refuse values that are not finite, and negative ones where `columns` are genes.

    Parameters
    ----------
    values
        Rows of the matrix, [n, features]; stored values alone, [n], where `first_row` is None.
    path, name
        File and matrix, for the message.
    first_row
        Row number of the first of `values` in the file.
    columns
        Gene names: the matrix is expression. None: it is an embedding, which may be negative.

    Raises
    ------
    DataError
        NaN, infinite or negative value, with its row and gene.
    """
    flat = values if isinstance(values, np.ndarray) else values.data
    if flat.dtype.kind in "ub" or not flat.size:
        return
    # Two reductions instead of three masks: NaN and inf spread into min and max.
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
    what = "negative" if value < 0 and np.isfinite(value) else "not finite"
    feature = f"column {column}" if columns is None else f"gene {columns[column]!r}"
    place = "" if row is None or first_row is None else f" in row {first_row + row}, {feature}"
    raise DataError(
        f"{name!r} holds values that are {what}: {value:g}{place}"
        f" ({int(bad.sum())} such values in this part of the file)",
        where=path,
        fix="expression is never negative and never missing: repair or drop these cells; scaled or"
        " batch-corrected values cannot be used"
        if columns is not None
        else "repair or drop these cells",
    )


def check_scale(matrix: Matrix, scale: str, columns: list[str]) -> Evidence:
    """Refuse a matrix whose sampled values contradict the declared scale; return what they show.

    Counts are whole numbers, or decimals beyond what a logarithm can reach (corrected counts);
    log1p values are decimals below `LARGEST_LOG1P`.

    Parameters
    ----------
    matrix
        X, or an obsm matrix of expression.
    scale
        ``counts`` or ``log1p``, as declared.
    columns
        Gene names.

    Raises
    ------
    DataError
        The values look like the other scale, or are no expression at all.
    """
    for first_row, part in matrix.sample():  # a NaN would pass for a decimal below
        check_values(part, matrix.path, matrix.name, first_row, columns)
    seen = evidence(matrix)
    if seen.n:
        refuse_other_scale(seen.integral, seen.largest, scale, matrix.name, matrix.path)
    return seen


def looks_like(integral: bool, largest: float) -> str:
    """Return the scale that values look like: ``counts`` or ``log1p``."""
    return "log1p" if not integral and largest <= LARGEST_LOG1P else "counts"


def refuse_other_scale(
    integral: bool, largest: float, scale: str, name: str, where: object
) -> None:
    """Raise a DataError when values do not look like the declared scale.

    Parameters
    ----------
    integral, largest
        Whether all values are whole numbers, and the largest.
    scale
        As declared.
    name, where
        Matrix and file, for the message.
    """
    if looks_like(integral, largest) == scale:
        return
    values = f"{'whole numbers' if integral else 'decimals'} up to {largest:g}"
    if scale == "counts":
        raise DataError(
            f"{name!r} is declared as counts but looks log-transformed: {values}",
            where=where,
            fix="give the raw counts; or, in a data set of your own, declare `scale: log1p`",
        )
    raise DataError(
        f"{name!r} is declared as log1p but looks like counts: {values}",
        where=where,
        fix="give ln(1 + target_sum * count / total); or, in a data set of your own, declare "
        "`scale: counts`"
        if name == "X"
        else "store ln(1 + target_sum * count / total) there",
    )


@dataclass(frozen=True)
class Evidence:
    """What a sample of rows says about a matrix.

    Attributes
    ----------
    n
        Non-zero values seen.
    integral
        All of them are whole numbers.
    largest
        The largest.
    zeros
        Share of zeros.
    scale
        The scale that the values look like.
    """

    n: int
    integral: bool
    largest: float
    zeros: float
    scale: str


def evidence(matrix: Matrix) -> Evidence:
    """Look at a sample of rows.

    Parameters
    ----------
    matrix
        X, or an obsm matrix of expression.
    """
    n, cells, integral, largest = 0, 0, True, 0.0
    for _, part in matrix.sample():
        values = part if isinstance(part, np.ndarray) else part.data
        cells += part.shape[0]
        n += values.size
        if values.size:
            integral &= is_integral(values)
            largest = max(largest, float(values.max()))
    stored = matrix.nonzeros
    filled = n / max(1, cells * matrix.shape[1])
    if stored is not None:
        filled = stored / max(1, matrix.shape[0] * matrix.shape[1])
    return Evidence(n, integral, largest, 1.0 - filled, looks_like(integral, largest))
