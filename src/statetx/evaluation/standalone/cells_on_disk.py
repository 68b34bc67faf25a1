"""All cells of one h5ad, handed out by rows: in a temporary file, so that memory is that of a label."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from scipy import sparse

from statetx.core.errors import ResultsError
from statetx.core.writes import disk_full
from statetx.data.h5ad.matrix import Matrix
from statetx.data.h5ad.numbers import computable_type

CHUNK_ROWS = 2048
"""Rows that are read at once."""


@dataclass(frozen=True)
class StoredCells:
    """Cells x genes in files that vanish with it; of sparse rows, the values and their places.

    Attributes
    ----------
    shape
        Cells, genes.
    kind
        Type of the values, as in the source.
    starts
        Where each row begins, int64 [n + 1]; None of a dense matrix.
    totals
        Sum of every cell, float64 [n].
    """

    shape: tuple[int, int]
    kind: np.dtype
    starts: np.ndarray | None
    totals: np.ndarray
    _values: IO[bytes]
    _places: IO[bytes]
    _gene: np.ndarray | None = None
    _row: np.ndarray | None = None

    @classmethod
    def read(cls, x: Matrix, check: Callable[[np.ndarray], None], clip: bool) -> StoredCells:
        """Copy a matrix by chunks.

        Parameters
        ----------
        x
            Matrix of an open file.
        check
            Called with the stored values of every chunk.
        clip
            Whether to copy negative values as 0.

        Raises
        ------
        DataError
            The matrix cannot be read, or is damaged; whatever `check` raises.
        ResultsError
            There is no room for the copy.
        """
        kind = computable_type(x.dtype)
        dense = x.nonzeros is None
        starts = None if dense else np.zeros(x.shape[0] + 1, dtype=np.int64)
        totals = np.zeros(x.shape[0])
        values, places = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        try:
            for start, stop in x.chunks(CHUNK_ROWS):
                if starts is None:
                    rows = np.ascontiguousarray(x.stored_dense(start, stop))
                    check(rows)
                    if clip:
                        np.maximum(rows, 0, out=rows)
                    totals[start:stop] = rows.sum(axis=1, dtype=np.float64)
                    values.write(rows.data)
                    continue
                cells = x.rows(start, stop)
                check(cells.data)
                if clip:
                    cells = cells.maximum(0)
                totals[start:stop] = np.asarray(cells.sum(axis=1, dtype=np.float64)).ravel()
                starts[start : stop + 1] = starts[start] + cells.indptr
                values.write(cells.data.astype(kind, copy=False).data)
                places.write(cells.indices.astype(_places_of(x.shape[1])).data)
            values.flush()
            places.flush()
        except OSError as error:
            if not disk_full(error):
                raise
            raise ResultsError(
                f"no room for a copy of the cells: {error.strerror}",
                where=tempfile.gettempdir(),
                fix="free some, or set TMPDIR to a directory with more",
            ) from error
        return cls(x.shape, kind, starts, totals, values, places)

    @property
    def is_sparse(self) -> bool:
        """Whether the source held a sparse matrix."""
        return self.starts is not None

    def rows(self, rows: np.ndarray) -> Any:
        """Return some cells: CSR if the source was sparse, else an array."""
        if self._row is not None:
            rows = self._row[rows]
        if self.starts is None:
            each = np.full(len(rows), self.shape[1])
            dense = _gather(self._values, rows * self.shape[1], each, self.kind)
            dense = dense.reshape(len(rows), self.shape[1])
            return dense if self._gene is None else dense[:, np.argsort(self._gene)]
        begin = self.starts[rows]
        lengths = self.starts[rows + 1] - begin
        values = _gather(self._values, begin, lengths, self.kind)
        places = _gather(self._places, begin, lengths, _places_of(self.shape[1]))
        places = places.astype(np.int32) if self._gene is None else self._gene[places]
        pointers = np.concatenate([[0], np.cumsum(lengths)])
        return sparse.csr_matrix((values, places, pointers), shape=(len(rows), self.shape[1]))

    def chosen(self, rows: np.ndarray) -> StoredCells:
        """Return these cells only, which `rows` then counts from 0."""
        row = rows if self._row is None else self._row[rows]
        return replace(self, shape=(len(row), self.shape[1]), totals=self.totals[rows], _row=row)

    def reordered(self, order: np.ndarray) -> StoredCells:
        """Return the same cells with gene ``order[i]`` at place i."""
        gene = np.empty(len(order), dtype=np.int32)
        gene[order] = np.arange(len(order))
        return replace(self, _gene=gene)


def _places_of(n_genes: int) -> np.dtype:
    """Type of the places of values: two bytes up to 65,536 genes."""
    return np.dtype(np.uint16 if n_genes <= np.iinfo(np.uint16).max + 1 else np.int32)


def _gather(file: IO[bytes], begin: np.ndarray, lengths: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Read stretches of a file of `kind` one behind the other; neighbours in the file at once."""
    out = np.empty(int(lengths.sum()), dtype=kind)
    if not len(out):
        return out
    view = out.view(np.uint8).data
    apart = np.flatnonzero(begin[1:] != begin[:-1] + lengths[:-1]) + 1
    firsts = np.concatenate([[0], apart])
    sizes = np.add.reduceat(lengths, firsts) * kind.itemsize
    ends = np.cumsum(sizes)
    for offset, size, end in zip(
        (begin[firsts] * kind.itemsize).tolist(), sizes.tolist(), ends.tolist(), strict=True
    ):
        done = end - size
        while done < end:
            got = os.preadv(file.fileno(), [view[done:end]], offset + size - (end - done))
            if not got:
                raise OSError("the temporary copy of the cells is shorter than it was")
            done += got
    return out
