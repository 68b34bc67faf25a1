"""The header of an h5ad: labels, genes and shapes, read with h5py alone and checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from statetx import labels
from statetx.data.matrix import Matrix
from statetx.errors import DataError, did_you_mean
from statetx.provenance import no_room

if TYPE_CHECKING:
    from statetx.config import Dataset

_PIECE = 1 << 18
"""Labels handled at once: text takes some 60 bytes a cell while it is Python objects, and numpy widens
codes that it counts or looks up to 8."""


@dataclass(frozen=True)
class Column:
    """An obs column as codes into its labels.

    Attributes
    ----------
    codes
        [cells], of the smallest signed type that holds them; no cell is without a label.
    names
        Labels in use, sorted.
    """

    codes: np.ndarray
    names: list[str]

    def counts(self) -> dict[str, int]:
        """Number of cells per label."""
        found = _tally(self.codes, len(self.names))
        return {name: int(n) for name, n in zip(self.names, found, strict=True)}

    def values_at(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels of the given cells (objects)."""
        return np.asarray(self.names, dtype=object)[self.codes[rows]]


@dataclass
class Header:
    """What pack needs to know of a file before it reads a cell.

    Attributes
    ----------
    path, n_cells, genes
        The file, its rows and its columns in order.
    perturbation, line, batch
        obs columns; `batch` is ``all`` everywhere when no batch column is declared.
    totals
        ``total_counts_col`` as float64, or None.
    widths
        Columns of each declared obsm matrix.
    hvg
        Genes of ``expression_key``, or None.
    nonzeros
        Stored values of X; None when it is dense.
    cells, controls
        Cells, and control cells, of every line.
    """

    path: Path
    n_cells: int
    genes: list[str]
    perturbation: Column
    line: Column
    batch: Column
    totals: np.ndarray | None = None
    widths: dict[str, int] = field(default_factory=dict)
    hvg: list[str] | None = None
    nonzeros: int | None = None

    cells: dict[str, int] = field(default_factory=dict)
    controls: dict[str, int] = field(default_factory=dict)

    def without_cells(self) -> Header:
        """Return the same without what has an entry per cell: of all files, it would be large."""
        none = np.empty(0, dtype=np.int32)
        return replace(
            self,
            totals=None,
            perturbation=Column(none, self.perturbation.names),
            line=Column(none, self.line.names),
            batch=Column(none, self.batch.names),
        )


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open an h5ad for reading; whatever HDF5 cannot read inside the block is a DataError."""
    try:
        with h5py.File(path, "r") as file:
            if "obs" not in file or "var" not in file:
                raise DataError(
                    "this HDF5 file is no h5ad: it has no obs or no var",
                    where=path,
                    fix="write it with anndata",
                )
            yield file
    except OSError as error:
        if no_room(error):  # of a write inside the block: nothing is wrong with this file
            raise
        if not Path(path).exists():
            raise DataError(
                "the file does not exist", where=path, fix="correct the path"
            ) from error
        raise DataError(
            f"cannot read this file: {error}",
            where=path,
            fix="it is truncated, damaged or no h5ad: copy or write it again",
        ) from error


def _strings(item: h5py.Dataset, rows: slice = slice(None)) -> np.ndarray:
    if h5py.check_string_dtype(item.dtype) is not None:
        return item.asstr()[rows] if item.shape else np.asarray(item.asstr()[()], dtype=object)
    return np.asarray([str(value) for value in item[rows].tolist()], dtype=object)


def _index(frame: h5py.Group, path: Path) -> h5py.Dataset:
    if not isinstance(frame, h5py.Group):
        raise DataError(
            f"{frame.name!r} is stored the way anndata < 0.7 did",
            where=path,
            fix="read and write the file once with a current anndata",
        )
    item = frame[str(frame.attrs.get("_index", "_index"))]
    return item["values"] if isinstance(item, h5py.Group) else item


def barcodes(file: h5py.File, path: Path, rows: slice = slice(None)) -> np.ndarray:
    """Return the names of the cells (objects), of all or of some rows."""
    return _strings(_index(file["obs"], path), rows)


def genes(file: h5py.File, path: Path) -> list[str]:
    """Return the gene names in order.

    Raises
    ------
    DataError
        A name occurs twice.
    """
    names = _strings(_index(file["var"], path)).tolist()
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
        shown = ", ".join(repr(name) for name in twice[:5])
        raise DataError(
            f"{len(twice)} gene names occur more than once: {shown}",
            where=f"{path}, var_names",
            fix="sum or drop the repeated genes (adata.var_names_make_unique() only renames them)",
        )
    return names


def columns(file: h5py.File) -> list[str]:
    """Return the names of the obs columns."""
    obs = file["obs"]
    order = obs.attrs.get("column-order")
    return [str(name) for name in (obs.keys() if order is None else order)]


def column(file: h5py.File, path: Path, name: str, key: str = "") -> Column:
    """Read a label column of obs: categorical, strings or numbers (read as text).

    Parameters
    ----------
    file, path
        The open file and its path.
    name
        obs column.
    key
        Setting or option that named it, for the message.

    Raises
    ------
    DataError
        No such column, or cells without a label.
    """
    obs = file["obs"]
    if name not in obs:
        raise DataError(
            f"obs has no column {name!r}",
            where=path,
            fix=did_you_mean(name, columns(file))
            + (f" Name the right column with `{key}`" if key else ""),
        )
    item = obs[name]
    if isinstance(item, h5py.Dataset) and "categories" in item.attrs:
        raise DataError(
            f"obs[{name!r}] is stored the way anndata < 0.8 did",
            where=path,
            fix="read and write the file once with a current anndata",
        )
    missing = None
    if isinstance(item, h5py.Group) and "codes" in item:
        codes, names = item["codes"][()], _strings(item["categories"])
        missing = codes < 0
    elif isinstance(item, h5py.Group):  # nullable strings and numbers: values + mask
        codes, names = _factorised(item["values"])
        missing = item["mask"][()].astype(bool) if "mask" in item else None
    else:
        codes, names = _factorised(item)
    texts = [str(text) for text in names]
    empty = [i for i, text in enumerate(texts) if text.strip() in ("", "nan", "NaN", "<NA>")]
    lost = np.isin(codes, empty) if empty else np.zeros(len(codes), dtype=bool)
    if missing is not None:
        lost |= missing
    if lost.any():
        raise DataError(
            f"obs[{name!r}] has no label in {int(lost.sum())} of {len(lost)} cells, first in row "
            f"{int(np.argmax(lost))}",
            where=path,
            fix="label these cells or drop them: adata[adata.obs[...].notna()]",
        )
    used = sorted((texts[i], i) for i in np.flatnonzero(_tally(codes, len(texts))).tolist())
    place = np.zeros(len(texts), dtype=np.min_scalar_type(-max(1, len(used))))
    place[[i for _, i in used]] = np.arange(len(used))
    found = np.empty(len(codes), dtype=place.dtype)
    for piece in _pieces(len(codes)):
        found[piece] = place[codes[piece]]
    return Column(found, [text for text, _ in used])


def _pieces(n: int) -> Iterator[slice]:
    for start in range(0, n, _PIECE):
        yield slice(start, start + _PIECE)


def _tally(codes: np.ndarray, n_labels: int) -> np.ndarray:
    """Return how often each code occurs, int64 [n_labels]."""
    found = np.zeros(n_labels, dtype=np.int64)
    for piece in _pieces(len(codes)):
        found += np.bincount(codes[piece], minlength=n_labels)
    return found


def _factorised(item: h5py.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return codes, int32 [cells], and the labels that they point to, in order of appearance."""
    codes = np.empty(item.shape[0], dtype=np.int32)
    known: dict[str, int] = {}
    for piece in _pieces(len(codes)):
        names, here = np.unique(_strings(item, piece).astype(str), return_inverse=True)
        place = [known.setdefault(str(name), len(known)) for name in names]
        codes[piece] = np.asarray(place, dtype=np.int32)[here]
    return codes, np.asarray(list(known), dtype=object)


def totals(file: h5py.File, path: Path, name: str) -> np.ndarray:
    """Read `total_counts_col`, float64 [cells]; all positive.

    Raises
    ------
    DataError
        No such column, no numbers, or values that are not positive.
    """
    if name not in file["obs"]:
        raise DataError(
            f"obs has no column {name!r}",
            where=path,
            fix=f"{did_you_mean(name, columns(file))} Set `total_counts_col`, or null: row sums",
        )
    item = file["obs"][name]
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "iuf":
        raise DataError(
            f"obs[{name!r}] does not hold numbers", where=path, fix="store total counts there"
        )
    values = np.asarray(item[()], dtype=np.float64)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        at = int(np.argmax(bad))
        raise DataError(
            f"obs[{name!r}] is {values[at]:g} in row {at} ({int(bad.sum())} such cells)",
            where=path,
            fix="total counts are positive numbers: drop these cells or correct the column",
        )
    return values


def hvg_names(file: h5py.File, path: Path, key: str, width: int, names: list[str]) -> list[str]:
    """Return the genes of ``obsm[key]``: ``uns['hvg_names']``, or ``var['highly_variable']``.

    Raises
    ------
    DataError
        Neither is there, or their number is not the width of the matrix, or a name repeats.
    """
    if "uns" in file and "hvg_names" in file["uns"]:
        source, found = "uns['hvg_names']", _strings(file["uns/hvg_names"]).ravel().tolist()
    elif "highly_variable" in file["var"]:
        mask = np.asarray(file["var/highly_variable"][()], dtype=bool)
        source = "var['highly_variable']"
        found = [name for name, chosen in zip(names, mask, strict=True) if chosen]
    else:
        raise DataError(
            f"nothing says which genes the columns of obsm[{key!r}] are",
            where=path,
            fix=f"store the {width} names, in order, in uns['hvg_names'], or mark the genes in "
            "var['highly_variable']",
        )
    if len(found) != width:
        raise DataError(
            f"{source} names {len(found)} genes, obsm[{key!r}] has {width} columns",
            where=path,
            fix="name every column of the matrix once, in order",
        )
    if len(set(found)) < width:
        raise DataError(
            f"{source} names a gene twice: {next(n for n in found if found.count(n) > 1)!r}",
            where=path,
            fix="name every column of the matrix once, in order",
        )
    return [str(name) for name in found]


def header(path: Path, settings: Dataset) -> Header:
    """Read and check everything of a file but its cells.

    Raises
    ------
    DataError
        Something declared is missing, or unusable: the message says what.
    """
    with opened(path) as file:
        names = genes(file, path)
        line = column(file, path, settings.cell_type_key, "cell_type_key")
        batch = Column(np.zeros(len(line.codes), dtype=np.int8), ["all"])
        if settings.batch_col is not None:
            batch = column(file, path, settings.batch_col, "batch_col")
        found = Header(
            path=path,
            n_cells=len(line.codes),
            genes=names,
            perturbation=column(file, path, settings.pert_col, "pert_col"),
            line=line,
            batch=batch,
            cells=line.counts(),
        )
        found.controls = _controls(found, labels.controls(settings.control_pert))
        if settings.total_counts_col is not None:
            found.totals = totals(file, path, settings.total_counts_col)
        for key in dict.fromkeys([settings.expression_key, *settings.embed_keys]):
            if key is not None:
                found.widths[key] = _obsm_width(file, path, key, found.n_cells)
        if settings.expression_key is not None:
            width = found.widths[settings.expression_key]
            found.hvg = hvg_names(file, path, settings.expression_key, width, names)
        x = Matrix(file, "X", path)
        found.nonzeros = x.nonzeros
        if x.shape != (found.n_cells, len(names)):
            raise DataError(
                f"X is {x.shape[0]} x {x.shape[1]}, but there are {found.n_cells} cells and "
                f"{len(names)} genes",
                where=path,
                fix="the file is damaged: write it again",
            )
    return found


def _controls(head: Header, declared: list[str]) -> dict[str, int]:
    control = np.isin(head.perturbation.names, declared)
    found = np.zeros(len(head.line.names), dtype=np.int64)
    for piece in _pieces(head.n_cells):
        lines = head.line.codes[piece][control[head.perturbation.codes[piece]]]
        found += np.bincount(lines, minlength=len(found))
    return {name: int(n) for name, n in zip(head.line.names, found, strict=True)}


def _obsm_width(file: h5py.File, path: Path, key: str, n_cells: int) -> int:
    keys = list(file["obsm"]) if "obsm" in file else []
    if key not in keys:
        raise DataError(
            f"obsm has no matrix {key!r}",
            where=path,
            fix=f"{did_you_mean(key, keys)} Set `expression_key` or `embed_keys` of the data set",
        )
    shape = Matrix(file, f"obsm/{key}", path).shape
    if shape[0] != n_cells:
        raise DataError(
            f"obsm[{key!r}] has {shape[0]} rows for {n_cells} cells",
            where=path,
            fix="the file is damaged: write it again",
        )
    return shape[1]
