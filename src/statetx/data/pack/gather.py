"""Third step of packing: the segments of one line, from all parts, into its sorted h5ad.

The order of the rows is found from small arrays (16 bytes per cell); cells are then copied block by
block from the mapped parts to where they belong, so that memory is that of one block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
"""Stored values, and dense matrices, that are copied at once."""


def gather(
    survey: Survey, parts: Sequence[str | Path], line: str, settings: Dataset, out: str | Path
) -> None:
    """Write the packed h5ad of one line.

    Parameters
    ----------
    survey
        What the files hold together.
    parts
        Directories that `scatter` wrote, one per source file, in the order of the survey.
    line
        Which line.
    settings
        What the columns mean.
    out
        File to write, whole or not at all.

    Raises
    ------
    ResultsError
        A part is missing, of other data, or holds no cell of the line; the disk is full.
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
    """Yield runs of rows that hold about `BLOCK_BYTES`.

    Parameters
    ----------
    ends
        Stored values up to each row of the store, int64 [n].
    bytes_each
        Of a stored value with its place.
    row_bytes
        Of a row's dense matrices and label codes.
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


def _write(
    file: h5py.File,
    cells: Cells,
    survey: Survey,
    settings: Dataset,
    line: str,
    counts: bool,
) -> None:
    """Write X, obsm and the columns of obs that have a number or a code per cell."""
    n, genes = len(cells.order), len(survey.genes)
    kind = np.result_type(*{segment.values.dtype for segment in cells.segments})
    if not counts or kind.kind == "f":
        kind = np.dtype(np.float32)
    lengths = cells.nonzeros[cells.order]
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1])
    x = file.create_group("X")
    x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    x.attrs["shape"] = np.asarray((n, genes), dtype=np.int64)
    x.create_dataset("indptr", data=np.r_[0, ends])
    indices = x.create_dataset("indices", total, index_type(genes))
    values = x.create_dataset("data", total, kind)
    obsm = file.create_group("obsm")
    obsm.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    dense = {
        key: array(obsm, key, (n, width), _dense_type(key, settings))
        for key, width in sorted(survey.widths.items())
    }
    obs = write_frame(file, cells, line)
    row_bytes = 64 + 4 * sum(survey.widths.values())
    largest, rounded = 0.0, True
    bar = tqdm(total=n, unit="cell", desc=f"pack {line}", disable=None)
    for rows in _blocks(ends, indices.dtype.itemsize + kind.itemsize, row_bytes):
        first = int(ends[rows.start] - lengths[rows.start])
        size = int(ends[rows.stop - 1]) - first
        block_indices, block_values = np.empty(size, indices.dtype), np.empty(size, kind)
        block_dense = {
            key: np.empty((rows.stop - rows.start, width), np.float32)
            for key, width in survey.widths.items()
        }
        at = ends[rows] - lengths[rows] - first
        numbers = {name: np.empty(rows.stop - rows.start) for name in ("total", "scale")}
        for segment, inside, source, places in cells.taken(rows):
            long = segment.records["nonzeros"][inside].astype(np.int64)
            kernels.take_rows(
                source.astype(np.int64),
                long,
                segment.indices,
                segment.values,
                at[places],
                block_indices,
                block_values,
            )
            for key, matrix in segment.dense.items():
                block_dense[key][places] = matrix[inside]
            for name, found in numbers.items():
                found[places] = segment.records[name][inside]
            if not segment.counts:
                numbers["scale"][places] = np.nan
        if not counts:
            _as_expression(block_values, np.repeat(numbers["scale"], lengths[rows]))
        largest = max(largest, float(block_values.max(initial=0)))
        rounded = rounded and is_whole(block_values)
        indices[first : first + size] = block_indices
        values[first : first + size] = block_values
        for key, block in block_dense.items():
            _fits(block, dense[key].dtype, f"obsm[{key!r}]", line)
            dense[key][rows] = block
        obs["total_counts"][rows] = numbers["total"]
        obs["scale"][rows] = numbers["scale"] if counts else np.nan
        del block_indices, block_values, block_dense, numbers  # or two blocks would lie in memory
        bar.update(rows.stop - rows.start)
    bar.close()
    if counts and kind.kind == "f" and settings.scale == "counts":
        # One logged line among lines of counts: the file as a whole still looked like counts.
        refuse_other_scale(rounded, largest, "counts", "X", f"cell line {line!r}")


def _as_expression(values: np.ndarray, scale: np.ndarray) -> None:
    """Turn counts into ln(1 + scale * count) in place; values without a scale are expression."""
    known = ~np.isnan(scale)
    values[known] = np.log1p(values[known] * scale[known])


def _fits(values: np.ndarray, kind: np.dtype, name: str, line: str) -> None:
    if kind != np.float16 or not values.size:
        return
    largest = max(float(values.max()), -float(values.min()))
    if largest > np.finfo(np.float16).max:
        raise DataError(
            f"a value of {name} of size {largest:g} does not fit into float16",
            where=f"cell line {line!r}",
            fix="set `embed_dtype: float32` of the data set",
        )


def _dense_type(key: str, settings: Dataset) -> np.dtype:
    """Expression stays as it was stored; embeddings may be narrowed."""
    return np.dtype("float32" if key == settings.expression_key else settings.embed_dtype)
