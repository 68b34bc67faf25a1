"""Second step of packing: one source file into a part, its cells sorted by line in runs.

A part is ``cells.bin``, a sequence of *segments*, and ``index.json``, which lists them. A segment
holds the cells of one line from one chunk of the file, sorted by (perturbation, batch): a record per
cell, then the places and values of the non-zero genes, then the obsm matrices; each array starts on
a cache line, so that the next step maps them. Memory is that of one chunk.
"""

from __future__ import annotations

import itertools
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from scipy import sparse
from tqdm import tqdm

from statetx.config import Dataset
from statetx.core.digests import digest
from statetx.core.errors import DataError
from statetx.core.text_files import write_json
from statetx.core.writes import sweep, whole
from statetx.data.h5ad import count_kernels
from statetx.data.h5ad.header import Header, barcodes, header, opened
from statetx.data.h5ad.identity import identity
from statetx.data.h5ad.matrix import Matrix, check_values, refuse_other_scale
from statetx.data.h5ad.numbers import RowSums, is_integral, is_whole
from statetx.data.pack import kernels
from statetx.data.pack.content import Content
from statetx.data.pack.survey import Survey, watched
from statetx.data.store.layout import ALIGNMENT
from statetx.shared.expression import refuse_impossible

log = logging.getLogger("statetx.pack")

CHUNK_ROWS = 1 << 16
"""Most rows of a chunk: their names are Python objects for a moment, some 100 bytes each."""
PART = ("cells.bin", "index.json")
"""Files of a part."""
LARGEST_COUNT = np.iinfo(np.uint16).max
"""Largest count looked for behind log1p values."""


def record_type(name_width: int) -> np.dtype:
    """Return the type of a segment's record per cell.

    Parameters
    ----------
    name_width
        Bytes of its longest cell name.
    """
    return np.dtype(
        [
            ("perturbation", "<i4"),
            ("batch", "<i4"),
            ("nonzeros", "<i4"),
            ("row", "<i8"),
            ("total", "<f8"),
            ("scale", "<f8"),
            ("name", f"S{name_width}"),
        ]
    )


@dataclass
class _Chunk:
    """Some rows of a source file, ready to be dealt out."""

    x: sparse.csr_matrix
    kind: str
    counts: bool
    total: np.ndarray
    scale: np.ndarray
    dense: dict[str, np.ndarray]


class _Part:
    """The two files of a part while they are written."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.segments: list[dict[str, Any]] = []
        self.checksum = 0
        self._offset = 0
        self._out: BinaryIO = open(home / "cells.bin", "wb")  # noqa: SIM115 (closed by `close`)

    def close(self) -> None:
        self._out.close()

    def add(self, array: np.ndarray) -> None:
        """Append an array, and fill up to the next cache line."""
        raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        gap = -len(raw) % ALIGNMENT
        for piece in (raw.data, bytes(gap)):
            self._out.write(piece)
            self.checksum = zlib.crc32(piece, self.checksum)
        self._offset += len(raw) + gap

    @property
    def n_bytes(self) -> int:
        """Bytes of ``cells.bin``."""
        return self._offset

    def begin(self, line: str, n_cells: int, nonzeros: int, width: int, chunk: _Chunk) -> None:
        """Note where the arrays of a segment start."""
        self.segments.append(
            {
                "line": line,
                "offset": self._offset,
                "n_cells": n_cells,
                "nonzeros": nonzeros,
                "name_width": width,
                "kind": chunk.kind,
                "counts": chunk.counts,
            }
        )


def scatter(survey: Survey, number: int, settings: Dataset, out: str | Path) -> None:
    """Deal the cells of one source file out by line.

    Parameters
    ----------
    survey
        What the files hold together.
    number
        Which file of the survey.
    settings
        What the columns mean.
    out
        Directory of the part; appears whole or not at all.

    Raises
    ------
    DataError
        The file changed since the survey, or holds values that cannot be what was declared.
    ResultsError
        The disk is full.
    """
    if number >= len(survey.sources):
        raise DataError(
            f"the survey knows {len(survey.sources)} files, this is number {number + 1}",
            where="the list of files changed after packing began",
            fix="start the same command again",
        )
    path = Path(survey.sources[number].path)
    if identity(path, watched(settings)) != survey.sources[number].identity:
        raise DataError(
            "the file changed while it was packed",
            where=path,
            fix="wait until it is complete, then pack again",
        )
    found = header(path, settings)
    sweep(out)
    with whole(out, own=PART) as home, opened(path) as file:
        home.mkdir()
        part = _Part(home)
        try:
            content = _deal(file, found, survey, settings, part)
        finally:
            part.close()
        index = {
            "survey": survey.digest,
            "source": survey.sources[number].identity,
            "content": content,
            "perturbations": found.perturbation.names,
            "batches": found.batch.names,
            "segments": part.segments,
            "bytes": part.n_bytes,
            "crc32": part.checksum,
        }
        write_json(home / "index.json", {**index, "digest": digest(index)})


def _deal(file: h5py.File, found: Header, survey: Survey, settings: Dataset, part: _Part) -> str:
    """Deal all cells out; return the digest of their content."""
    x = Matrix(file, "X", found.path, spill=part.home)
    obsm = {
        key: Matrix(file, f"obsm/{key}", found.path, spill=part.home)
        for key in sorted(found.widths)
    }
    select = None
    if found.genes != survey.genes:
        place = {name: i for i, name in enumerate(found.genes)}
        select = np.asarray([place[name] for name in survey.genes])
    most = min([CHUNK_ROWS, *(matrix.dense_chunk_rows for matrix in obsm.values())])
    seen: dict[str, Any] = {"whole": True, "largest": 0.0, "nonzeros": 0, "empty": 0}
    seen["sums"] = RowSums()
    name, content = found.path.stem, Content(found)
    with tqdm(total=found.n_cells, unit="cell", desc=f"pack {name}", disable=None) as bar:
        for start, stop in x.chunks(most):
            names = [text.encode() for text in barcodes(file, found.path, slice(start, stop))]
            values, dense = x.rows(start, stop), _dense(obsm, start, stop)
            content.add(values, dense, names)
            chunk = _chunk(found, settings, values, dense, select, start, seen)
            _write(part, found, chunk, np.asarray(names), start)
            # Or two chunks would lie in memory while the next is read.
            del values, dense, chunk, names
            bar.update(stop - start)
    if seen["nonzeros"]:  # the sample that the survey looked at may have missed some cells
        refuse_other_scale(seen["whole"], seen["largest"], settings.scale, "X", found.path)
        if settings.scale == "log1p":
            refuse_impossible(seen["largest"], settings.target_sum, "X", found.path)
        elif not seen["whole"]:
            seen["sums"].refuse_normalised("X", found.path)
    if seen["empty"]:
        log.info("%s: %d cells have no counts at all", found.path, seen["empty"])
    return content.hexdigest()


def _dense(obsm: dict[str, Matrix], start: int, stop: int) -> dict[str, np.ndarray]:
    return {key: matrix.dense_rows(start, stop) for key, matrix in obsm.items()}


def _chunk(
    found: Header,
    settings: Dataset,
    values: sparse.csr_matrix,
    dense: dict[str, np.ndarray],
    select: np.ndarray | None,
    start: int,
    seen: dict[str, Any],
) -> _Chunk:
    """Check rows; what they show of the scale is added to `seen`."""
    stop = start + values.shape[0]
    check_values(values, found.path, "X", start, found.genes)
    for key in dense:
        known = found.hvg if key == settings.expression_key else None
        check_values(dense[key], found.path, f"obsm/{key}", start, known)
        if known is not None:
            largest = float(dense[key].max(initial=0.0))
            refuse_impossible(largest, settings.target_sum, f"obsm/{key}", found.path)
    integral = is_integral(values.data)
    seen["whole"] = seen["whole"] and (integral or is_whole(values.data))
    if settings.scale == "counts" and not seen["whole"]:
        seen["sums"].add(np.asarray(values.sum(axis=1, dtype=np.float64)).ravel())
    seen["nonzeros"] += values.nnz
    seen["empty"] += int((np.diff(values.indptr) == 0).sum())
    if values.nnz:
        seen["largest"] = max(seen["largest"], float(values.data.max()))
    total = _totals(values, found, settings, start, stop)
    if select is not None:
        values = values[:, select]
        values.sort_indices()
    return _encoded(values, settings, integral, total, dense)


def _totals(
    values: sparse.csr_matrix, found: Header, settings: Dataset, start: int, stop: int
) -> np.ndarray:
    """Total counts per cell, float64 [n]: the declared column, or the row sum over all genes.

    With ``scale: log1p`` the row sum is that of exp(X) - 1: ``target_sum`` where no gene is missing.
    """
    if found.totals is not None:
        return found.totals[start:stop]
    exact = values.astype(np.float64)
    if settings.scale == "log1p":
        exact = exact.expm1()
    return np.asarray(exact.sum(axis=1), dtype=np.float64).ravel()


def _encoded(
    values: sparse.csr_matrix,
    settings: Dataset,
    integral: bool,
    total: np.ndarray,
    dense: dict[str, np.ndarray],
) -> _Chunk:
    """Store values in the smallest exact type, with the factor that turns them into expression."""
    counts = settings.scale == "counts"
    scale = np.zeros(len(total))
    if counts:
        np.divide(settings.target_sum, total, out=scale, where=total > 0)
    else:
        found = np.empty(values.nnz, dtype=np.int32)
        if count_kernels.recover_counts(values.indptr, values.data, LARGEST_COUNT, found, scale):
            counts = integral = True
            values = sparse.csr_matrix((found, values.indices, values.indptr), values.shape)
    largest = float(values.data.max()) if values.nnz else 0.0
    kind = "<f4"
    if counts and integral and largest <= np.iinfo(np.int32).max:
        kind = "u1" if largest < 2**8 else "<u2" if largest < 2**16 else "<i4"
    return _Chunk(values, kind, counts, total, scale, dense)


def _write(part: _Part, found: Header, chunk: _Chunk, names: np.ndarray, start: int) -> None:
    """Sort a chunk by (line, perturbation, batch) and append a segment per line."""
    rows = slice(start, start + chunk.x.shape[0])
    line, batch = found.line.codes[rows], found.batch.codes[rows]
    perturbation = found.perturbation.codes[rows]
    order = np.lexsort((batch, perturbation, line))
    lengths = np.diff(chunk.x.indptr)[order].astype(np.int64)
    ends = np.cumsum(lengths)
    indices = np.empty(chunk.x.nnz, dtype=index_type(chunk.x.shape[1]))
    values = np.empty(chunk.x.nnz, dtype=chunk.kind)
    kernels.take_rows(
        chunk.x.indptr[order].astype(np.int64),
        lengths,
        chunk.x.indices,
        chunk.x.data.astype(chunk.kind, copy=False),
        ends - lengths,
        indices,
        values,
    )
    records = np.empty(len(order), dtype=record_type(names.dtype.itemsize))
    records["perturbation"], records["batch"] = perturbation[order], batch[order]
    records["nonzeros"], records["row"] = lengths, order + start
    records["total"], records["scale"] = chunk.total[order], chunk.scale[order]
    records["name"] = names[order]
    sorted_line = line[order]
    edges = np.flatnonzero(np.r_[True, sorted_line[1:] != sorted_line[:-1], True])
    for a, b in itertools.pairwise(edges):
        first, last = int(ends[a] - lengths[a]), int(ends[b - 1])
        name = found.line.names[sorted_line[a]]
        part.begin(name, int(b - a), last - first, names.dtype.itemsize, chunk)
        part.add(records[a:b])
        part.add(indices[first:last])
        part.add(values[first:last])
        for key in sorted(chunk.dense):
            part.add(chunk.dense[key][order[a:b]])


def index_type(n_genes: int) -> np.dtype:
    """Return the type of column numbers."""
    return np.dtype(np.uint16 if n_genes < 2**16 else np.int32)
