"""Copy of all cells of an h5ad file on disk, read by rows.

The copy is in temporary files, so that only the cells of one label need memory at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from scipy import sparse

from statetx.core.errors import ResultsError
from statetx.core.writes import disk_full, scratch_file
from statetx.data.h5ad.matrix import Matrix
from statetx.data.h5ad.numbers import computable_type

CHUNK_ROWS = 2048
"""Number of rows that are read at once."""


@dataclass(frozen=True)
class StoredCells:
    """Cells x genes in temporary files, which are deleted together with this object.

    Sparse rows are stored as their values and the genes of these values.

    Attributes
    ----------
    shape
        Numbers of cells and genes.
    kind
        numpy type of the stored values.
    starts
        int64 [n + 1], where each sparse row begins; None for a dense matrix.
    totals
        float64 [n], sum of each cell.
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
        """Copy a matrix in chunks.

        Parameters
        ----------
        x
            Matrix of an open file.
        check
            Called with the stored values of each chunk; it may raise.
        clip
            Whether to copy negative values as 0.

        Raises
        ------
        DataError
            The matrix cannot be read, or is damaged.
        ResultsError
            There is not enough disk space for the copy.
        """
        kind = computable_type(x.dtype)
        dense = x.nonzeros is None
        starts = None if dense else np.zeros(x.shape[0] + 1, dtype=np.int64)
        totals = np.zeros(x.shape[0])
        values, places = scratch_file(), scratch_file()
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
                f"not enough disk space for a copy of the cells: {error.strerror}",
                where=tempfile.gettempdir(),
                fix="free disk space, or set TMPDIR to a directory with more space",
            ) from error
        return cls(x.shape, kind, starts, totals, values, places)

    @property
    def is_sparse(self) -> bool:
        """Whether the source matrix is sparse."""
        return self.starts is not None

    def rows(self, rows: np.ndarray) -> Any:
        """Read cells: CSR if the source matrix is sparse, else an array.

        Parameters
        ----------
        rows
            int64 [k], rows of these cells.
        """
        if self._row is not None:
            rows = self._row[rows]
        if self.starts is None:
            widths = np.full(len(rows), self.shape[1])
            dense = _gather(self._values, rows * self.shape[1], widths, self.kind)
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
        """Return a view of some cells, whose rows are counted from 0 again.

        Parameters
        ----------
        rows
            int64 [k], rows of these cells.
        """
        row = rows if self._row is None else self._row[rows]
        return replace(self, shape=(len(row), self.shape[1]), totals=self.totals[rows], _row=row)

    def reordered(self, order: np.ndarray) -> StoredCells:
        """Return a view of the same cells with gene ``order[i]`` at place i.

        Parameters
        ----------
        order
            int64 [G], a permutation of the genes as they are stored.
        """
        gene = np.empty(len(order), dtype=np.int32)
        gene[order] = np.arange(len(order))
        return replace(self, _gene=gene)


def _places_of(n_genes: int) -> np.dtype:
    """Return the type of gene numbers: two bytes up to 65,536 genes."""
    return np.dtype(np.uint16 if n_genes <= np.iinfo(np.uint16).max + 1 else np.int32)


def _gather(file: IO[bytes], begin: np.ndarray, lengths: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Read parts of a file of `kind` into one array; adjacent parts are read at once."""
    out = np.empty(int(lengths.sum()), dtype=kind)
    if not len(out):
        return out
    view = out.view(np.uint8).data
    breaks = np.flatnonzero(begin[1:] != begin[:-1] + lengths[:-1]) + 1
    firsts = np.concatenate([[0], breaks])
    sizes = np.add.reduceat(lengths, firsts) * kind.itemsize
    ends = np.cumsum(sizes)
    for offset, size, end in zip(
        (begin[firsts] * kind.itemsize).tolist(), sizes.tolist(), ends.tolist(), strict=True
    ):
        done = end - size
        while done < end:
            n_read = os.preadv(file.fileno(), [view[done:end]], offset + size - (end - done))
            if not n_read:
                raise OSError("the temporary copy of the cells is shorter than it was")
            done += n_read
    return out
