"""Description of one h5ad from samples of its rows, without knowledge of its columns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from statetx.core.errors import DataError
from statetx.data.h5ad.header import barcodes, genes
from statetx.data.h5ad.matrix import Matrix
from statetx.data.h5ad.numbers import native
from statetx.data.h5ad.obs_columns import columns, n_rows
from statetx.data.h5ad.open_h5ad import attribute, child, has, members, opened, readable, reading
from statetx.data.h5ad.stored_text import Stored, codes_of, number_text, stored, texts
from statetx.data.inspection.scale import Seen, look

LABEL_ROWS = 1 << 16
"""Rows that are read of a column of text or numbers: text takes a microsecond per label."""
LABELS_READ = 1 << 16
"""Most categories that are read of a column. A column with more holds cell names, not labels."""


@dataclass(frozen=True)
class ObsColumn:
    """A column of obs.

    Attributes
    ----------
    kind
        ``labels`` (categorical), ``text``, or the type of its numbers.
    n_labels
        Number of different values; 0 for decimals.
    complete
        Whether all values are known. False: a sample was read, and the column may have more.
    names
        Labels, sorted by the number of sampled cells, largest first; empty for decimals.
    low, high
        Range of the numbers.
    """

    kind: str
    n_labels: int = 0
    complete: bool = True
    names: tuple[str, ...] = ()
    low: float = float("nan")
    high: float = float("nan")


@dataclass
class FileReport:
    """The content of a file.

    Attributes
    ----------
    path
        The file.
    bytes
        Size of the file.
    n_cells, n_genes
        Rows and columns of X.
    genes
        Names of the genes; empty if they are unusable.
    layout
        Layout of X: ``csr``, ``csc`` or ``dense``.
    dtype
        Type of the values of X.
    nonzeros
        Stored values of X; estimated from a sample of rows if X is dense.
    seen
        What a sample of X, or all of X, shows.
    obs
        Columns of obs.
    obsm
        Width and type of each obsm matrix; width 0 if the element is not a matrix.
    uns
        Keys of uns, with the number of entries of lists.
    layers
        Layers, and ``raw`` if it exists. Packing reads X only.
    unread
        Elements of obs, obsm and uns that could not be read, with the reason.
    """

    path: Path
    bytes: int
    n_cells: int
    n_genes: int
    layout: str
    dtype: str
    nonzeros: int
    seen: Seen
    genes: list[str] = field(default_factory=list)
    obs: dict[str, ObsColumn] = field(default_factory=dict)
    obsm: dict[str, tuple[int, str]] = field(default_factory=dict)
    uns: dict[str, int | None] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def looks_like(self) -> str:
        """Scale that X looks like: ``counts`` or ``log1p``."""
        return self.seen.scale


def describe(path: Path) -> FileReport:
    """Describe a file from samples, which takes seconds for any size.

    Parameters
    ----------
    path
        The h5ad.

    Raises
    ------
    DataError
        The file is unreadable or not an h5ad, or X is not a matrix.
    """
    with opened(path) as file:
        for rows in _sampled(n_rows(file, "obs", path)):
            barcodes(file, path, rows)
        x = Matrix(file, "X", path)
        seen = look(x)
        filled = round((1.0 - seen.zeros) * x.shape[0] * x.shape[1])
        report = FileReport(
            path=path,
            bytes=path.stat().st_size,
            n_cells=x.shape[0],
            n_genes=x.shape[1],
            layout=x.layout,
            dtype=str(x.dtype),
            nonzeros=filled if x.nonzeros is None else x.nonzeros,
            seen=seen,
            layers=[*members(file, "layers", path), *(["raw"] if has(file, "raw") else [])],
        )
        for name in columns(file):
            with _noting(report, f"obs[{name!r}]"):
                report.obs[readable(name)] = _obs_column(file, name, path)
        for name in members(file, "obsm", path):
            with _noting(report, f"obsm[{name!r}]"):
                report.obsm[readable(name)] = _width(file, name, path)
        for name in members(file, "uns", path):
            with _noting(report, f"uns[{name!r}]"):
                report.uns[readable(name)] = _length(child(file, f"uns/{name}", path))
    return report


@contextlib.contextmanager
def _noting(report: FileReport, element: str) -> Iterator[None]:
    """Record an element that cannot be read instead of failing: packing may not need it."""
    try:
        with reading(report.path, element):
            yield
    except DataError as error:
        report.unread[element] = error.what


def gene_names(path: Path) -> list[str]:
    """Return the genes of a file in order.

    Raises
    ------
    DataError
        A name occurs twice, is missing or cannot be read.
    """
    with opened(path) as file:
        return genes(file, path)


def _width(file: h5py.File, name: str, path: Path) -> tuple[int, str]:
    """Return width and type of an element of obsm; width 0 if it is not a matrix."""
    item = child(file, f"obsm/{name}", path)
    kind = str(attribute(item, "encoding-type") or "")
    if isinstance(item, h5py.Group) and kind not in ("csr_matrix", "csc_matrix"):
        return 0, kind or "other"  # such as a data frame, which cannot be packed
    if isinstance(item, h5py.Dataset) and (item.shape is None or item.ndim != 2):
        return 0, kind or "other"
    matrix = Matrix(file, f"obsm/{name}", path)
    return matrix.shape[1], str(matrix.dtype)


def _length(item: Any) -> int | None:
    """Return the number of entries of an array, or None."""
    listed = isinstance(item, h5py.Dataset) and item.shape
    return int(item.shape[0]) if listed else None


def _obs_column(file: h5py.File, name: str, path: Path) -> ObsColumn:
    """Describe a column of obs."""
    found = stored(child(file, f"obs/{name}", path), path)
    n = n_rows(file, "obs", path)
    if found.length != n:
        raise DataError(f"obs[{name!r}] has {found.length} rows, but there are {n} cells")
    if found.categories is not None:
        return _labels(found, path)
    item, complete = found.values, found.length <= LABEL_ROWS
    text = h5py.check_string_dtype(item.dtype) is not None
    if text or h5py.check_enum_dtype(item.dtype) is not None:
        values = np.concatenate([texts(item, path, rows) for rows in _sampled(found.length)])
        names, n_each = np.unique(values.astype(str), return_counts=True)
        order = np.argsort(-n_each, kind="stable")
        return ObsColumn("text", len(names), complete, tuple(names[order].tolist()))
    values = np.concatenate([native(item[rows]) for rows in _sampled(found.length)])
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if values.dtype.kind not in "iufb" or not known.size:
        return ObsColumn(str(item.dtype), complete=complete)
    low, high = float(known.min()), float(known.max())
    if values.dtype.kind == "f" and not np.array_equal(known, np.rint(known)):
        return ObsColumn(str(item.dtype), complete=complete, low=low, high=high)
    numbers, n_each = np.unique(known, return_counts=True)
    order = np.argsort(-n_each, kind="stable")
    shown = tuple(number_text(number) for number in numbers[order].tolist())
    return ObsColumn(str(item.dtype), len(shown), complete, shown, low, high)


def _labels(found: Stored, path: Path) -> ObsColumn:
    """Describe a column of categories."""
    assert found.categories is not None
    n = int(found.categories.shape[0])
    names = texts(found.categories, path, slice(0, LABELS_READ)).tolist()
    codes = np.concatenate([codes_of(found, path, rows) for rows in _sampled(found.length)])
    n_each = np.bincount(codes[codes >= 0], minlength=n)[: len(names)]
    order = np.argsort(-n_each, kind="stable")
    return ObsColumn("labels", n, len(names) == n, tuple(names[i] for i in order))


def _sampled(n: int) -> list[slice]:
    """Return slices with at most `LABEL_ROWS` rows, in up to four runs spread over n rows."""
    run = LABEL_ROWS // 4
    if n <= LABEL_ROWS:
        return [slice(0, n)]
    starts = [int((n - run) * part / 3) for part in range(4)]
    return [slice(start, start + run) for start in starts]
