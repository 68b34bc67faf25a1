"""What one h5ad holds, whatever its columns mean: read with h5py from samples, never as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from statetx.data.header import barcodes, columns, genes, opened
from statetx.data.matrix import Matrix
from statetx.data.scale import Seen, look
from statetx.errors import DataError

LABEL_ROWS = 1 << 16
"""Rows of a column of text or numbers that are looked at: text takes a microsecond a label."""
LABELS_READ = 1 << 16
"""Categories of a column that are read; more than so many are names of cells, not labels."""


@dataclass(frozen=True)
class ObsColumn:
    """A column of obs.

    Attributes
    ----------
    kind
        ``labels`` (categorical), ``text``, or the type of its numbers.
    n_labels
        Different values; of a column of decimals 0.
    complete
        Whether all of them are known; otherwise there may be more.
    names
        Labels, those with most sampled cells first; empty for decimals.
    low, high
        Range of numbers.
    old
        Whether it is stored the way anndata < 0.8 did: numbers that point into a list elsewhere.
    """

    kind: str
    n_labels: int = 0
    complete: bool = True
    names: tuple[str, ...] = ()
    low: float = float("nan")
    high: float = float("nan")
    old: bool = False


@dataclass
class FileReport:
    """What a file holds.

    Attributes
    ----------
    path, bytes
        The file and its size.
    n_cells, n_genes
        Rows and columns of X.
    genes
        Names of the genes; empty where they are unusable.
    layout, dtype
        Of X: csr, csc or dense; type of its values.
    nonzeros
        Stored values of X; of a dense one, estimated from a sample of rows.
    seen
        What a sample of X shows, or all of it.
    obs
        Columns of obs.
    obsm
        Width and type of each obsm matrix; width 0: it is no matrix.
    uns
        Keys of uns, with the number of entries of lists.
    layers
        Layers, and ``raw`` where it exists. Packing reads X only.
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

    @property
    def looks_like(self) -> str:
        """The scale that X looks like: ``counts`` or ``log1p``."""
        return self.seen.scale


def describe(path: Path) -> FileReport:
    """Look into a file. Takes seconds, whatever its size.

    Raises
    ------
    DataError
        Unreadable file, no h5ad, or an X that is no matrix.
    """
    with opened(path) as file:
        barcodes(
            file, path, slice(0, 0)
        )  # refuses files of anndata < 0.7, which are read otherwise
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
            obs={name: _obs_column(file, name) for name in columns(file)},
            obsm={name: _width(file, name, path) for name in file.get("obsm", {})},
            uns={name: _length(item) for name, item in file.get("uns", {}).items()},
            layers=[*file.get("layers", {}), *(["raw"] if "raw" in file else [])],
        )
    return report


def gene_names(path: Path) -> list[str]:
    """Return the genes of a file in order.

    Raises
    ------
    DataError
        A name occurs twice.
    """
    with opened(path) as file:
        return genes(file, path)


def _width(file: h5py.File, name: str, path: Path) -> tuple[int, str]:
    try:
        matrix = Matrix(file, f"obsm/{name}", path)
    except DataError:  # a data frame, or more dimensions: nothing that could be packed
        return 0, str(file["obsm"][name].attrs.get("encoding-type", "other"))
    return matrix.shape[1], str(matrix.dtype)


def _length(item: Any) -> int | None:
    listed = isinstance(item, h5py.Dataset) and item.shape
    return int(item.shape[0]) if listed else None


def _obs_column(file: h5py.File, name: str) -> ObsColumn:
    item = file["obs"][name]
    if isinstance(item, h5py.Group) and "codes" in item:
        return _labels(item["codes"], item["categories"])
    if isinstance(item, h5py.Group):  # nullable strings and numbers: values + mask
        item = item["values"]
    if "categories" in item.attrs:
        return _labels(item, file[item.attrs["categories"]], old=True)
    values = _sampled(item)
    complete = len(values) == item.shape[0]
    if h5py.check_string_dtype(item.dtype) is not None:
        names, n = np.unique(values.astype(str), return_counts=True)
        order = np.argsort(-n, kind="stable")
        return ObsColumn("text", len(names), complete, tuple(names[order].tolist()))
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if values.dtype.kind not in "iufb" or not known.size:
        return ObsColumn(str(item.dtype), complete=complete)
    low, high = float(known.min()), float(known.max())
    if values.dtype.kind == "f" and not np.array_equal(known, np.rint(known)):
        return ObsColumn(str(item.dtype), complete=complete, low=low, high=high)
    numbers, n = np.unique(known, return_counts=True)
    order = np.argsort(-n, kind="stable")
    texts = tuple(str(number) for number in numbers[order].tolist())
    return ObsColumn(str(item.dtype), len(texts), complete, texts, low, high)


def _labels(codes: h5py.Dataset, categories: h5py.Dataset, old: bool = False) -> ObsColumn:
    listed = categories[:LABELS_READ]
    if h5py.check_string_dtype(categories.dtype) is not None:
        listed = categories.asstr()[:LABELS_READ]
    names = [str(value) for value in listed.tolist()]
    sampled = _sampled(codes)
    n = np.bincount(sampled[sampled >= 0], minlength=categories.shape[0])[: len(names)]
    order = np.argsort(-n, kind="stable")
    found = tuple(names[i] for i in order)
    return ObsColumn("labels", categories.shape[0], len(names) == len(categories), found, old=old)


def _sampled(item: h5py.Dataset) -> np.ndarray:
    """Return up to `LABEL_ROWS` values in four runs spread over the column."""
    source = item.asstr() if h5py.check_string_dtype(item.dtype) is not None else item
    n, run = item.shape[0], LABEL_ROWS // 4
    if n <= LABEL_ROWS:
        return np.asarray(source[:])
    starts = [int((n - run) * part / 3) for part in range(4)]
    return np.concatenate([source[start : start + run] for start in starts])
