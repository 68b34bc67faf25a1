"""Third step of packing: write the segments of one line, from all parts, as one sorted h5ad.

The order of the rows is computed from small arrays (16 bytes per cell). Cells are then copied block
by block from the mapped parts to their rows, so memory is bounded by one block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from tqdm import tqdm

from statetx.config import Dataset
from statetx.core.errors import DataError, ResultsError
from statetx.core.writes import sweep, whole
from statetx.data.h5ad.matrix import refuse_other_scale
from statetx.data.h5ad.numbers import is_whole
from statetx.data.pack import kernels
from statetx.data.pack.line_obs import array, write_frame, write_names
from statetx.data.pack.scatter import index_type
from statetx.data.pack.segments import Cells, read_segments, sort_cells
from statetx.data.pack.survey import Survey
from statetx.data.store.layout import ALIGNMENT
from statetx.shared import labels

BLOCK_BYTES = 24 << 20
"""Most bytes of stored values, or of dense matrices, in one block."""


def gather(
    survey: Survey, parts: Sequence[str | Path], line: str, settings: Dataset, out: str | Path
) -> None:
    """Write the packed h5ad of one line.

    Parameters
    ----------
    survey
        Survey of the source files.
    parts
        Directories that `scatter` wrote, one per source file, in the order of the survey.
    line
        Name of the cell line.
    settings
        Settings of the data set.
    out
        File to write, whole or not at all.

    Raises
    ------
    ResultsError
        A part is missing, damaged or made from other data; no part holds a cell of the line; or the
        disk is full.
    DataError
        The values of the line are log1p although counts are declared, or a value of obsm does not
        fit into float16.
    """
    aliases = labels.controls(settings.control_pert)
    segments = list(read_segments(survey, parts, line))
    if not segments:
        raise ResultsError(
            f"no part holds a cell of line {line!r}", where=parts[0], fix="pack from the start"
        )
    cells = sort_cells(segments, line, aliases)
    sweep(out)
    with whole(out) as part, _created(part) as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        counts = all(segment.counts for segment in segments)
        _write(file, cells, survey, settings, line, counts)
        write_names(file["obs"], cells, aliases)
        write = anndata.io.write_elem
        write(file, "var", pd.DataFrame(index=pd.Index(survey.genes)))
        uns: dict[str, Any] = {"statetx": json.dumps({"counts": counts})}
        if survey.expression_genes is not None:
            uns["hvg_names"] = np.asarray(survey.expression_genes, dtype=object)
        write(file, "uns", uns)
        for empty in ("layers", "obsp", "varm", "varp"):
            write(file, empty, {})


def _created(path: Path) -> h5py.File:
    return h5py.File(path, "w", alignment_threshold=ALIGNMENT, alignment_interval=ALIGNMENT)


def _blocks(ends: np.ndarray, bytes_each: int, row_bytes: int) -> Iterator[slice]:
    """Yield runs of rows of at most `BLOCK_BYTES` of stored values and as many of dense matrices.

    A row that is larger is a run of its own.

    Parameters
    ----------
    ends
        Stored values up to and including each row, int64 [n].
    bytes_each
        Bytes of a stored value and its column number.
    row_bytes
        Bytes of a row of the dense matrices and label codes.
    """
    start, n = 0, len(ends)
    values = max(1, BLOCK_BYTES // bytes_each)
    most = max(1, BLOCK_BYTES // row_bytes)
    while start < n:
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + values, side="right"))
        stop = min(n, start + most, max(start + 1, stop))
        yield slice(start, stop)
        start = stop


@dataclass(frozen=True)
class _Arrays:
    """Arrays of the packed file that are filled block by block, with the positions of the rows.

    Attributes
    ----------
    lengths
        Stored values of each row, int32 [n].
    ends
        Stored values up to and including each row, int64 [n].
    indices, values
        Column and value of each stored value, [nnz].
    dense
        Matrices of obsm by key, float32 or float16 [n, width].
    obs
        Group with the float64 columns ``total_counts`` and ``scale``, [n].
    """

    lengths: np.ndarray
    ends: np.ndarray
    indices: h5py.Dataset
    values: h5py.Dataset
    dense: dict[str, h5py.Dataset]
    obs: h5py.Group

    def stored(self, rows: slice) -> slice:
        """Return the positions of the values of some rows in `indices` and `values`."""
        first = int(self.ends[rows.start] - self.lengths[rows.start])
        return slice(first, int(self.ends[rows.stop - 1]))


@dataclass(frozen=True)
class _Block:
    """Cells of a run of m rows of the store, in the order of the rows.

    Attributes
    ----------
    indices, values
        Column and value of each stored value, [nnz of the block].
    dense
        Matrices of obsm by key, float32 [m, width].
    total
        Total counts of each cell, float64 [m].
    scale
        Factor that turns counts into expression, float64 [m]; NaN where values are expression.
    """

    indices: np.ndarray
    values: np.ndarray
    dense: dict[str, np.ndarray]
    total: np.ndarray
    scale: np.ndarray


def _write(
    file: h5py.File,
    cells: Cells,
    survey: Survey,
    settings: Dataset,
    line: str,
    counts: bool,
) -> None:
    """Write X, obsm and the columns of obs that have a number or a code per cell."""
    arrays = _create_arrays(file, cells, survey, settings, line, counts)
    kind = arrays.values.dtype
    # One logged line among lines of counts: the file as a whole still looked like counts.
    unsure = counts and kind.kind == "f" and settings.scale == "counts"
    largest, whole_numbers = 0.0, True
    bytes_each = arrays.indices.dtype.itemsize + kind.itemsize
    row_bytes = 64 + 4 * sum(survey.widths.values())
    with tqdm(total=len(cells.order), unit="cell", desc=f"pack {line}", disable=None) as bar:
        for rows in _blocks(arrays.ends, bytes_each, row_bytes):
            block = _gather_block(cells, rows, arrays, survey.widths)
            if not counts:
                _as_expression(block.values, np.repeat(block.scale, arrays.lengths[rows]))
            if unsure:
                largest = max(largest, float(block.values.max(initial=0)))
                whole_numbers = whole_numbers and is_whole(block.values)
            _store_block(block, rows, arrays, line, counts)
            del block  # or two blocks would be in memory
            bar.update(rows.stop - rows.start)
    if unsure:
        refuse_other_scale(whole_numbers, largest, "counts", "X", f"cell line {line!r}")


def _create_arrays(
    file: h5py.File,
    cells: Cells,
    survey: Survey,
    settings: Dataset,
    line: str,
    counts: bool,
) -> _Arrays:
    """Create X, obsm and obs, and write the row pointers and label codes.

    Their order decides the layout of the file, and so its bytes.
    """
    n, genes = len(cells.order), len(survey.genes)
    lengths = cells.nonzeros[cells.order]
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1])
    x = file.create_group("X")
    x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    x.attrs["shape"] = np.asarray((n, genes), dtype=np.int64)
    x.create_dataset("indptr", data=np.r_[0, ends])
    indices = x.create_dataset("indices", total, index_type(genes))
    values = x.create_dataset("data", total, _value_type(cells, counts))
    obsm = file.create_group("obsm")
    obsm.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    dense = {
        key: array(obsm, key, (n, width), _dense_type(key, settings))
        for key, width in sorted(survey.widths.items())
    }
    return _Arrays(lengths, ends, indices, values, dense, write_frame(file, cells, line))


def _value_type(cells: Cells, counts: bool) -> np.dtype:
    """Return the type of the stored values: float32 unless all segments hold whole counts."""
    kind = np.result_type(*{segment.values.dtype for segment in cells.segments})
    return np.dtype(np.float32) if not counts or kind.kind == "f" else kind


def _gather_block(cells: Cells, rows: slice, arrays: _Arrays, widths: dict[str, int]) -> _Block:
    """Copy the cells of m rows from their segments into new arrays."""
    m, stored = rows.stop - rows.start, arrays.stored(rows)
    size = stored.stop - stored.start
    block = _Block(
        indices=np.empty(size, arrays.indices.dtype),
        values=np.empty(size, arrays.values.dtype),
        dense={key: np.empty((m, width), np.float32) for key, width in widths.items()},
        total=np.empty(m),
        scale=np.empty(m),
    )
    at = arrays.ends[rows] - arrays.lengths[rows] - stored.start  # int64 [m]
    for segment, inside, source, places in cells.taken(rows):
        kernels.take_rows(
            source.astype(np.int64),
            segment.records["nonzeros"][inside].astype(np.int64),
            segment.indices,
            segment.values,
            at[places],
            block.indices,
            block.values,
        )
        for key, matrix in segment.dense.items():
            block.dense[key][places] = matrix[inside]
        block.total[places] = segment.records["total"][inside]
        block.scale[places] = segment.records["scale"][inside] if segment.counts else np.nan
    return block


def _store_block(block: _Block, rows: slice, arrays: _Arrays, line: str, counts: bool) -> None:
    """Write a block into the file.

    Raises
    ------
    DataError
        A value of obsm does not fit into float16.
    """
    stored = arrays.stored(rows)
    arrays.indices[stored] = block.indices
    arrays.values[stored] = block.values
    for key, matrix in block.dense.items():
        _check_fits(matrix, arrays.dense[key].dtype, f"obsm[{key!r}]", line)
        arrays.dense[key][rows] = matrix
    arrays.obs["total_counts"][rows] = block.total
    arrays.obs["scale"][rows] = block.scale if counts else np.nan


def _as_expression(values: np.ndarray, scale: np.ndarray) -> None:
    """Replace counts by ln(1 + scale * count), in place.

    Parameters
    ----------
    values
        Stored values, [nnz].
    scale
        Factor of each value, [nnz]; NaN where the value is expression already.
    """
    known = ~np.isnan(scale)
    values[known] = np.log1p(values[known] * scale[known])


def _check_fits(values: np.ndarray, kind: np.dtype, name: str, line: str) -> None:
    """Check that no value overflows the type in which it is stored."""
    if kind != np.float16 or not values.size:
        return
    largest = max(float(values.max()), -float(values.min()))
    if largest > float(np.finfo(np.float16).max):
        raise DataError(
            f"a value of {name} of size {largest:g} does not fit into float16",
            where=f"cell line {line!r}",
            fix="set `embed_dtype: float32` of the data set",
        )


def _dense_type(key: str, settings: Dataset) -> np.dtype:
    """Return the type of a matrix of obsm: float32 for expression, `embed_dtype` for others."""
    return np.dtype("float32" if key == settings.expression_key else settings.embed_dtype)
