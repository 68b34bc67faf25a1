"""Rows of a source file between reading and writing: their checks and their stored types."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from statetx.config import Dataset
from statetx.data.h5ad import count_kernels
from statetx.data.h5ad.header import Header
from statetx.data.h5ad.matrix import check_values, refuse_other_scale
from statetx.data.h5ad.numbers import RowSums, is_integral, is_whole
from statetx.shared.expression import refuse_impossible

LARGEST_COUNT = np.iinfo(np.uint16).max
"""Largest count that is recovered from log1p values."""


@dataclass
class Chunk:
    """Rows of a source file as they were read.

    Attributes
    ----------
    start
        Row number of the first one in the file.
    x
        Rows of X, CSR [n, genes of the file].
    dense
        Rows of the declared obsm matrices, float32 [n, width].
    names
        Cell names, UTF-8.
    """

    start: int
    x: sparse.csr_matrix
    dense: dict[str, np.ndarray]
    names: list[bytes]

    @property
    def rows(self) -> slice:
        """Row numbers in the file."""
        return slice(self.start, self.start + self.x.shape[0])

    @cached_property
    def integral(self) -> bool:
        """Whether all values of X are whole numbers."""
        return is_integral(self.x.data)


@dataclass
class Encoded:
    """X of a chunk, of the genes of the store, in the smallest exact type.

    Attributes
    ----------
    x
        Counts, or expression, CSR [n, genes of the store].
    kind
        Type in which the values are stored.
    counts
        Whether the values are counts.
    total
        Total counts of each cell, float64 [n].
    scale
        Factor that turns counts into expression, float64 [n].
    """

    x: sparse.csr_matrix
    kind: str
    counts: bool
    total: np.ndarray
    scale: np.ndarray


@dataclass
class Seen:
    """What all values of X show of their scale, added up chunk by chunk.

    The survey looks at a sample of cells, which may miss some values.

    Attributes
    ----------
    whole
        Whether all values are whole numbers, but for rounding.
    largest
        The largest value.
    nonzeros
        Number of stored values.
    empty
        Cells without any count.
    sums
        Row sums of all chunks from the first one with decimals on, where counts are declared.
    """

    whole: bool = True
    largest: float = 0.0
    nonzeros: int = 0
    empty: int = 0
    sums: RowSums = field(default_factory=RowSums)

    def add(self, chunk: Chunk, scale: str) -> None:
        """Add the values of a chunk of a file whose declared scale is `scale`."""
        x = chunk.x
        self.whole = self.whole and (chunk.integral or is_whole(x.data))
        if scale == "counts" and not self.whole:
            self.sums.add(np.asarray(x.sum(axis=1, dtype=np.float64)).ravel())
        self.nonzeros += x.nnz
        self.empty += int((np.diff(x.indptr) == 0).sum())
        if x.nnz:
            self.largest = max(self.largest, float(x.data.max()))

    def check(self, settings: Dataset, path: Path) -> None:
        """Check that the values agree with the declared scale.

        Raises
        ------
        DataError
            They look like another scale, are normalised, or cannot be expression.
        """
        if not self.nonzeros:
            return
        refuse_other_scale(self.whole, self.largest, settings.scale, "X", path)
        if settings.scale == "log1p":
            refuse_impossible(self.largest, settings.target_sum, "X", path)
        elif not self.whole:
            self.sums.refuse_normalised("X", path)


def check_chunk(chunk: Chunk, found: Header, settings: Dataset) -> None:
    """Refuse values that no expression, or no embedding, can have.

    Raises
    ------
    DataError
        A value is not finite, negative expression, or larger than log1p expression can be.
    """
    check_values(chunk.x, found.path, "X", chunk.start, found.genes)
    for key, rows in chunk.dense.items():
        genes = found.hvg if key == settings.expression_key else None
        check_values(rows, found.path, f"obsm/{key}", chunk.start, genes)
        if genes is not None:
            largest = float(rows.max(initial=0.0))
            refuse_impossible(largest, settings.target_sum, f"obsm/{key}", found.path)


def encode(chunk: Chunk, found: Header, settings: Dataset, columns: np.ndarray | None) -> Encoded:
    """Convert X to the smallest exact type and compute the factor that gives expression.

    Parameters
    ----------
    chunk
        Rows of the file.
    found
        Header of the file.
    settings
        Settings of the data set.
    columns
        Column of each gene of the store, [G]; None: all, in their order.
    """
    x, integral = chunk.x, chunk.integral
    total = _totals(chunk, found, settings)
    if columns is not None:
        x = x[:, columns]
        x.sort_indices()
    counts = settings.scale == "counts"
    scale = np.zeros(len(total))
    if counts:
        np.divide(settings.target_sum, total, out=scale, where=total > 0)
    else:
        recovered = np.empty(x.nnz, dtype=np.int32)
        if count_kernels.recover_counts(x.indptr, x.data, LARGEST_COUNT, recovered, scale):
            counts = integral = True
            x = sparse.csr_matrix((recovered, x.indices, x.indptr), x.shape)
    largest = float(x.data.max()) if x.nnz else 0.0
    kind = "<f4"
    if counts and integral and largest <= np.iinfo(np.int32).max:
        kind = "u1" if largest < 2**8 else "<u2" if largest < 2**16 else "<i4"
    return Encoded(x, kind, counts, total, scale)


def _totals(chunk: Chunk, found: Header, settings: Dataset) -> np.ndarray:
    """Return the total counts of each cell, float64 [n].

    They are the declared column, or else the row sums over all genes of the file. With ``scale:
    log1p`` the row sum is that of exp(X) - 1, which is ``target_sum`` if no gene is missing.
    """
    if found.totals is not None:
        return found.totals[chunk.rows]
    exact = chunk.x.astype(np.float64)
    if settings.scale == "log1p":
        exact = exact.expm1()
    return np.asarray(exact.sum(axis=1), dtype=np.float64).ravel()
