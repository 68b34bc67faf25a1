"""Rows of a CSC matrix on disk, read in bounded memory.

HDF5 can slice a CSC matrix by gene only. Its entries are copied once, in column order, into buckets
of consecutive rows in a temporary file. A bucket fits in memory and becomes a CSR matrix.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import h5py
import numpy as np
from scipy import sparse

from statetx.core.writes import scratch_file
from statetx.data.h5ad.numbers import computable_type, native

PIECE = 4 << 20
"""Entries that are read at once: 64 MB with their row and column numbers."""


class Buckets:
    """Rows of a CSC matrix of an open h5ad.

    Parameters
    ----------
    group
        Group with ``data``, ``indices`` (row numbers) and ``indptr`` (column pointers).
    shape
        Number of rows and columns.
    bucket_nonzeros
        Entries per bucket: a bucket ends with the row that reaches this number.
    directory
        Directory of the temporary file, which takes 9 bytes or more per entry. None: the temporary
        directory of the system. The file has no name and is removed with this object.

    Raises
    ------
    IndexError
        A row number is outside the matrix.
    OSError
        The disk is full.
    """

    def __init__(
        self,
        group: h5py.Group,
        shape: tuple[int, int],
        bucket_nonzeros: int,
        directory: Path | None = None,
    ) -> None:
        self.shape = shape
        per_row = np.zeros(shape[0], dtype=np.int64)
        indices, data = group["indices"], group["data"]
        for start in range(0, indices.shape[0], PIECE):
            rows = native(indices[start : start + PIECE]).astype(np.int64, copy=False)
            if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < shape[0]:
                raise IndexError(int(rows.max()))
            per_row += np.bincount(rows, minlength=shape[0])
        ends = np.cumsum(per_row)
        full = np.searchsorted(
            ends, np.arange(bucket_nonzeros, ends[-1] if len(ends) else 0, bucket_nonzeros)
        )
        self.first_row = np.unique(np.r_[0, full + 1, shape[0]])
        entries = np.r_[0, ends][self.first_row]
        self._kind = np.dtype(
            [("row", "<i4"), ("column", "<i4"), ("value", computable_type(data.dtype))]
        )
        self._offset = entries * self._kind.itemsize
        self._file = scratch_file(directory)
        self._held: tuple[int, sparse.csr_matrix] | None = None
        self._deal(group)

    def _deal(self, group: h5py.Group) -> None:
        indptr = group["indptr"][()].astype(np.int64)
        at = self._offset[:-1].copy()
        for start in range(0, int(indptr[-1]), PIECE):
            stop = min(start + PIECE, int(indptr[-1]))
            records = np.empty(stop - start, dtype=self._kind)
            records["row"] = group["indices"][start:stop]
            records["value"] = group["data"][start:stop]
            first = int(np.searchsorted(indptr, start, side="right")) - 1
            last = int(np.searchsorted(indptr, stop, side="left"))
            lengths = np.diff(np.clip(indptr[first : last + 1], start, stop))
            records["column"] = np.repeat(np.arange(first, last), lengths)
            bucket = np.searchsorted(self.first_row, records["row"], side="right") - 1
            order = np.argsort(bucket, kind="stable")
            records, bucket = records[order], bucket[order]
            edges = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1], True])
            for a, b in itertools.pairwise(edges):
                piece = records[a:b].tobytes()
                written = os.pwrite(self._file.fileno(), piece, int(at[bucket[a]]))
                if written != len(piece):
                    raise OSError(28, "No space left on device")
                at[bucket[a]] += written

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows [start, stop) as CSR; calls with rising `start` read each bucket once."""
        parts = []
        while start < stop:
            k = int(np.searchsorted(self.first_row, start, side="right")) - 1
            first, end = int(self.first_row[k]), min(stop, int(self.first_row[k + 1]))
            parts.append(self._bucket(k)[start - first : end - first])
            start = end
        if not parts:
            return sparse.csr_matrix((0, self.shape[1]), dtype=self._kind["value"])
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _bucket(self, k: int) -> sparse.csr_matrix:
        if self._held is None or self._held[0] != k:
            self._held = None
            length = int(self._offset[k + 1] - self._offset[k])
            raw = os.pread(self._file.fileno(), length, int(self._offset[k]))
            records = np.frombuffer(raw, dtype=self._kind)
            first, end = int(self.first_row[k]), int(self.first_row[k + 1])
            places = (records["row"] - first, records["column"])
            made = sparse.coo_matrix((records["value"], places), shape=(end - first, self.shape[1]))
            self._held = k, made.tocsr()
        return self._held[1]
