"""All cells of one h5ad, compact in memory, handed out by rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import sparse

from statetx.data.matrix import Matrix
from statetx.data.pack_kernels import take_rows

CHUNK_ROWS = 2048
"""Rows that are read at once."""


@dataclass(frozen=True)
class StoredCells:
    """Cells x genes; places take 2 bytes instead of 4 up to 65,536 genes.

    Attributes
    ----------
    shape
        Cells, genes.
    values
        Stored values [nnz], or [n, G] of a dense matrix, in the precision of the file.
    places, starts
        Gene of every value, and where each row begins [n + 1]; None of a dense matrix.
    """

    shape: tuple[int, int]
    values: np.ndarray
    places: np.ndarray | None = None
    starts: np.ndarray | None = None

    @classmethod
    def read(cls, file: h5py.File, path: Path, check: Callable[[np.ndarray], None]) -> StoredCells:
        """Read X by chunks.

        Parameters
        ----------
        file, path
            The open file, and its path for messages.
        check
            Called with the stored values of every chunk.

        Raises
        ------
        DataError
            X is missing, of an unknown layout, or damaged; whatever `check` raises.
        """
        x = Matrix(file, "X", path)
        kind = np.dtype(np.float32) if x.dtype == np.float16 else x.dtype
        if x.nonzeros is None:
            dense = np.empty(x.shape, dtype=kind)
            for start, stop in x.chunks(CHUNK_ROWS):
                dense[start:stop] = file["X"][start:stop]
                check(dense[start:stop])
            return cls(x.shape, dense)
        values = np.empty(x.nonzeros, dtype=kind)
        few = x.shape[1] <= np.iinfo(np.uint16).max + 1
        places = np.empty(x.nonzeros, dtype=np.uint16 if few else np.int32)
        starts = np.zeros(x.shape[0] + 1, dtype=np.int64)
        for start, stop in x.chunks(CHUNK_ROWS):
            rows = x.rows(start, stop)
            check(rows.data)
            first = starts[start]
            starts[start : stop + 1] = first + rows.indptr
            values[first : first + rows.nnz] = rows.data
            places[first : first + rows.nnz] = rows.indices
        return cls(x.shape, values[: starts[-1]], places[: starts[-1]], starts)

    @property
    def is_sparse(self) -> bool:
        """Whether the file held a sparse matrix."""
        return self.starts is not None

    def rows(self, rows: np.ndarray) -> Any:
        """Return some cells: CSR if the file was sparse, else an array."""
        if self.places is None or self.starts is None:
            return self.values[rows]
        begin = self.starts[rows]
        lengths = self.starts[rows + 1] - begin
        pointers = np.concatenate([[0], np.cumsum(lengths)])
        places = np.empty(pointers[-1], dtype=self.places.dtype)
        values = np.empty(pointers[-1], dtype=self.values.dtype)
        take_rows(begin, lengths, self.places, self.values, pointers[:-1], places, values)
        cells = (values, places.astype(np.int32), pointers)
        return sparse.csr_matrix(cells, shape=(len(rows), self.shape[1]))

    def reordered(self, order: np.ndarray) -> StoredCells:
        """Return the same cells with gene ``order[i]`` at place i."""
        if self.places is None:
            return StoredCells(self.shape, self.values[:, order])
        place = np.empty(len(order), dtype=self.places.dtype)
        place[order] = np.arange(len(order))
        return StoredCells(self.shape, self.values, place[self.places], self.starts)

    def totals(self) -> np.ndarray:
        """Sum of every cell, float64 [n]."""
        if self.starts is None:
            return self.values.sum(axis=1, dtype=np.float64)
        out = np.zeros(self.shape[0])
        some = np.flatnonzero(np.diff(self.starts))
        if len(some):
            # reduceat gives the next value instead of 0 for an empty row.
            out[some] = np.add.reduceat(self.values, self.starts[some], dtype=np.float64)
        return out
