"""The header of an h5ad: labels, genes and shapes, read with h5py and checked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from statetx.core.errors import DataError, did_you_mean
from statetx.data.h5ad.matrix import Matrix
from statetx.data.h5ad.obs_columns import Column, column, columns, n_rows, pieces
from statetx.data.h5ad.obs_columns import names as names_of
from statetx.data.h5ad.open_h5ad import child, has, in_memory, members, opened, reading
from statetx.data.h5ad.stored_text import entries, stored
from statetx.shared import labels

if TYPE_CHECKING:
    from statetx.config import Dataset

__all__ = ["Column", "Header", "barcodes", "column", "columns", "genes", "header", "opened"]


@dataclass
class Header:
    """The labels, genes and shapes of a file, which packing reads before any cell.

    Attributes
    ----------
    path
        The file.
    n_cells
        Number of cells.
    genes
        Gene names in the order of the columns of X.
    perturbation, line, batch
        Columns of obs, [n_cells]. Without a declared batch column, `batch` is ``all`` for every
        cell.
    totals
        Column ``total_counts_col``, float64 [n_cells], or None.
    widths
        Columns of each declared obsm matrix.
    hvg
        Genes of ``expression_key``, or None.
    nonzeros
        Stored values of X; None for a dense matrix.
    cells
        Cells of each line.
    controls
        Control cells of each line.
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
        """Return a copy without arrays of length n_cells, which would add up over many files."""
        none = np.empty(0, dtype=np.int32)
        return replace(
            self,
            totals=None,
            perturbation=Column(none, self.perturbation.names),
            line=Column(none, self.line.names),
            batch=Column(none, self.batch.names),
        )


def barcodes(file: h5py.File, path: Path, rows: slice = slice(None)) -> np.ndarray:
    """Return the names of the cells, of all rows or of some, as an object array."""
    return names_of(file, "obs", path, rows)


def genes(file: h5py.File, path: Path) -> list[str]:
    """Return the gene names in order.

    Raises
    ------
    DataError
        A name occurs twice, is missing or cannot be read.
    """
    names: list[str] = names_of(file, "var", path).tolist()
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


def totals(file: h5py.File, path: Path, name: str) -> np.ndarray:
    """Read the column of total counts, float64 [cells].

    Parameters
    ----------
    file, path
        The open file and its path.
    name
        Column of obs, `total_counts_col` of the data set.

    Raises
    ------
    DataError
        The column is missing, does not hold numbers, has another length, or holds a value that is
        not positive.
    """
    obs = child(file, "obs", path)
    if not has(obs, name):
        raise DataError(
            f"obs has no column {name!r}",
            where=path,
            fix=f"{did_you_mean(name, columns(file))} Set `total_counts_col`; null uses row sums",
        )
    n = n_rows(file, "obs", path)
    with reading(path, f"obs[{name!r}]"):
        item = stored(child(obs, name, path), path)
        if item.categories is not None or item.values.dtype.kind not in "iuf":
            raise DataError(
                f"obs[{name!r}] does not hold numbers",
                where=path,
                fix="store the total counts in this column",
            )
        if item.length != n:
            raise DataError(
                f"obs[{name!r}] has {item.length} rows, but there are {n} cells",
                where=path,
                fix="the file is damaged: write it again",
            )
        values = np.asarray(in_memory(item.values, path)[()], dtype=np.float64)
        if item.mask is not None:
            values[item.mask[()] != 0] = np.nan
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

    Parameters
    ----------
    file, path
        The open file and its path.
    key
        Name of the obsm matrix.
    width
        Columns of the matrix.
    names
        Genes of X.

    Raises
    ------
    DataError
        The file has neither of them, their number is not `width`, or a name repeats.
    """
    if "hvg_names" in members(file, "uns", path):
        source = "uns['hvg_names']"
        with reading(path, source):
            found = entries(stored(child(file, "uns/hvg_names", path), path), path)[0].tolist()
    elif "highly_variable" in members(file, "var", path):
        source = "var['highly_variable']"
        with reading(path, source):
            item = stored(child(file, "var/highly_variable", path), path)
            if item.categories is not None or item.values.dtype.kind not in "biuf":
                raise DataError(
                    f"{source} does not hold True and False",
                    where=path,
                    fix="store it as booleans: adata.var['highly_variable'].astype(bool)",
                )
            mask = np.asarray(in_memory(item.values, path)[()], dtype=bool)
        if len(mask) != len(names):
            raise DataError(
                f"{source} has {len(mask)} rows, but there are {len(names)} genes",
                where=path,
                fix="the file is damaged: write it again",
            )
        found = [name for name, chosen in zip(names, mask, strict=True) if chosen]
    else:
        raise DataError(
            f"the file does not say which genes the columns of obsm[{key!r}] are",
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
    """Read and check the header of a file.

    Parameters
    ----------
    path
        The h5ad.
    settings
        Settings of the data set.

    Raises
    ------
    DataError
        A declared column or matrix is missing or unusable. The message names it.
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
    """Return the number of control cells of each line."""
    control = np.isin(head.perturbation.names, declared)  # [perturbations]
    counts = np.zeros(len(head.line.names), dtype=np.int64)  # [lines]
    for piece in pieces(head.n_cells):
        lines = head.line.codes[piece][control[head.perturbation.codes[piece]]]
        counts += np.bincount(lines, minlength=len(counts))
    return {name: int(n) for name, n in zip(head.line.names, counts, strict=True)}


def _obsm_width(file: h5py.File, path: Path, key: str, n_cells: int) -> int:
    """Return the columns of an obsm matrix, which must have `n_cells` rows."""
    keys = members(file, "obsm", path)
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
