"""Second step of packing: write the cells of one source file into a part, sorted by line.

A part is ``cells.bin``, a sequence of *segments*, and ``index.json``, which lists them. A segment
holds the cells of one line from one chunk of the file, sorted by (perturbation, batch). Its arrays
are a record per cell, the columns and the values of the non-zero genes, and the obsm matrices. Each
array starts on a cache line, so that the next step can map it. Memory is bounded by one chunk.
"""

from __future__ import annotations

import itertools
import logging
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from tqdm import tqdm

from statetx.config import Dataset
from statetx.core.digests import digest
from statetx.core.errors import DataError
from statetx.core.text_files import write_json
from statetx.core.writes import sweep, whole
from statetx.data.h5ad.header import Header, barcodes, header, opened
from statetx.data.h5ad.identity import identity
from statetx.data.h5ad.matrix import Matrix
from statetx.data.pack import kernels
from statetx.data.pack.chunks import Chunk, Encoded, Seen, check_chunk, encode
from statetx.data.pack.content import Content
from statetx.data.pack.survey import Survey, watched
from statetx.data.store.layout import ALIGNMENT

log = logging.getLogger("statetx.pack")

CHUNK_ROWS = 1 << 16
"""Most rows of a chunk. Each cell name is a Python object of about 100 bytes until it is stored."""
PART = ("cells.bin", "index.json")
"""File names of a part."""


def record_type(name_width: int) -> np.dtype:
    """Return the type of a segment's record per cell.

    Parameters
    ----------
    name_width
        Bytes of the longest cell name.
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


class _Part:
    """Writer of the two files of a part."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.segments: list[dict[str, Any]] = []
        self.checksum = 0
        self._offset = 0
        self._out: BinaryIO = open(home / "cells.bin", "wb")  # noqa: SIM115 (closed by `close`)

    def close(self) -> None:
        """Close ``cells.bin``."""
        self._out.close()

    def add(self, array: np.ndarray) -> None:
        """Append an array, padded with zeros to the next cache line."""
        raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        gap = -len(raw) % ALIGNMENT
        for piece in (raw.data, bytes(gap)):
            self._out.write(piece)
            self.checksum = zlib.crc32(piece, self.checksum)
        self._offset += len(raw) + gap

    @property
    def n_bytes(self) -> int:
        """Bytes of ``cells.bin`` so far."""
        return self._offset

    def begin(self, line: str, n_cells: int, nonzeros: int, width: int, x: Encoded) -> None:
        """Begin a segment: list it in the index, with the offset of its first array."""
        self.segments.append(
            {
                "line": line,
                "offset": self._offset,
                "n_cells": n_cells,
                "nonzeros": nonzeros,
                "name_width": width,
                "kind": x.kind,
                "counts": x.counts,
            }
        )


def scatter(survey: Survey, number: int, settings: Dataset, out: str | Path) -> None:
    """Write the cells of one source file into a part, sorted by line.

    Parameters
    ----------
    survey
        Survey of the source files.
    number
        Index of the file in the survey.
    settings
        Settings of the data set.
    out
        Directory of the part; it appears whole or not at all.

    Raises
    ------
    DataError
        The file changed since the survey, or its values contradict what was declared.
    ResultsError
        The disk is full.
    """
    if number >= len(survey.sources):
        raise DataError(
            f"the survey lists {len(survey.sources)} files, but file {number + 1} was asked for",
            where="the list of source files",
            fix="the list changed after packing began: run the same command again",
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
    """Write all cells of a file into a part; return the digest of their content."""
    x = Matrix(file, "X", found.path, spill=part.home)
    obsm = {
        key: Matrix(file, f"obsm/{key}", found.path, spill=part.home)
        for key in sorted(found.widths)
    }
    columns = _columns(found.genes, survey.genes)
    most = min([CHUNK_ROWS, *(matrix.dense_chunk_rows for matrix in obsm.values())])
    seen, content = Seen(), Content(found)
    bar = tqdm(total=found.n_cells, unit="cell", desc=f"pack {found.path.stem}", disable=None)
    with bar:
        for start, stop in x.chunks(most):
            names = barcodes(file, found.path, slice(start, stop))
            chunk = Chunk(
                start,
                x.rows(start, stop),
                {key: matrix.dense_rows(start, stop) for key, matrix in obsm.items()},
                [name.encode() for name in names],
            )
            content.add(chunk.x, chunk.dense, chunk.names)
            check_chunk(chunk, found, settings)
            seen.add(chunk, settings.scale)
            _append(part, found, chunk, encode(chunk, found, settings, columns))
            del chunk, names  # or two chunks would be in memory while the next one is read
            bar.update(stop - start)
    seen.check(settings, found.path)
    if seen.empty:
        log.info("%s: %d cells have no counts at all", found.path, seen.empty)
    return content.hexdigest()


def _columns(genes: list[str], wanted: list[str]) -> np.ndarray | None:
    """Return the column of each gene of the store, int64 [G]; None if the genes are equal."""
    if genes == wanted:
        return None
    column = {name: i for i, name in enumerate(genes)}
    return np.asarray([column[name] for name in wanted])


def _append(part: _Part, found: Header, chunk: Chunk, encoded: Encoded) -> None:
    """Sort a chunk by (line, perturbation, batch) and append one segment per line to the part."""
    x, line = encoded.x, found.line.codes[chunk.rows]
    batch, perturbation = found.batch.codes[chunk.rows], found.perturbation.codes[chunk.rows]
    order = np.lexsort((batch, perturbation, line))  # [n]
    lengths = np.diff(x.indptr)[order].astype(np.int64)  # [n]
    ends = np.cumsum(lengths)  # [n]
    indices = np.empty(x.nnz, dtype=index_type(x.shape[1]))
    values = np.empty(x.nnz, dtype=encoded.kind)
    kernels.take_rows(
        x.indptr[order].astype(np.int64),
        lengths,
        x.indices,
        x.data.astype(encoded.kind, copy=False),
        ends - lengths,
        indices,
        values,
    )
    names = np.asarray(chunk.names)
    records = np.empty(len(order), dtype=record_type(names.dtype.itemsize))
    records["perturbation"], records["batch"] = perturbation[order], batch[order]
    records["nonzeros"], records["row"] = lengths, order + chunk.start
    records["total"], records["scale"] = encoded.total[order], encoded.scale[order]
    records["name"] = names[order]
    sorted_line = line[order]
    edges = np.flatnonzero(np.r_[True, sorted_line[1:] != sorted_line[:-1], True])
    for a, b in itertools.pairwise(edges):
        first, last = int(ends[a] - lengths[a]), int(ends[b - 1])
        name = found.line.names[sorted_line[a]]
        part.begin(name, int(b - a), last - first, names.dtype.itemsize, encoded)
        part.add(records[a:b])
        part.add(indices[first:last])
        part.add(values[first:last])
        for key in sorted(chunk.dense):
            part.add(chunk.dense[key][order[a:b]])


def index_type(n_genes: int) -> np.dtype:
    """Return the smallest type of column numbers: uint16, or int32 for 65,536 genes or more."""
    return np.dtype(np.uint16 if n_genes < 2**16 else np.int32)
