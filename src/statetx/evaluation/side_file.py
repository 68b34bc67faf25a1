"""One side of a stand-alone comparison: somebody's h5ad file, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from scipy import sparse

from statetx.data.header import Column, column, genes, opened
from statetx.errors import DataError, did_you_mean
from statetx.evaluation.stored import StoredCells
from statetx.expression import impossible
from statetx.labels import controls

Scale = Literal["log1p", "counts"]

WHOLE = 1e-3
"""A value is whole when its fractional part is no larger (cell-eval's threshold)."""


@dataclass(frozen=True)
class Side:
    """One file.

    Attributes
    ----------
    path, genes
        The file and its gene names.
    cells
        Cells x genes as stored.
    labels, lines
        Perturbation and cell line of every cell (object arrays of str); aliases of the control
        are replaced by its first label.
    embedding
        float64 [n, D] or None.
    """

    path: Path
    genes: list[str]
    cells: StoredCells
    labels: np.ndarray
    lines: np.ndarray
    embedding: np.ndarray | None

    def of(self, line: str) -> np.ndarray:
        """Rows of a cell line."""
        return np.flatnonzero(self.lines == line)


def read_side(
    path: str | Path,
    pert_col: str,
    control_pert: str | Sequence[str],
    celltype_col: str | None,
    embed_key: str | None,
    scale: Scale,
) -> Side:
    """Read and check one file; see `standalone.evaluate_files`.

    Raises
    ------
    DataError
        Unreadable or without cells; a column or embedding is missing; NaN or empty labels; duplicate
        genes; values that are not finite, negative, or not on the declared scale.
    """
    path = Path(path)
    values = _Values(path)
    try:
        with opened(path) as file:
            names = genes(file, path)
            columns = {
                name: _spelt_out(column(file, path, name, option))
                for name, option in ((pert_col, "--pert-col"), (celltype_col, "--celltype-col"))
                if name
            }
            embedding = None if embed_key is None else _embedding(file, path, embed_key)
            cells = StoredCells.read(file, path, values.look)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"cannot read the cells: {error}", where=path, fix="is it a whole h5ad file?"
        ) from error
    n = len(columns[pert_col])
    if cells.shape != (n, len(names)):
        raise DataError(
            f"X is {cells.shape[0]} x {cells.shape[1]}, but there are {n} cells and "
            f"{len(names)} genes",
            where=path,
            fix="the file is damaged: write it again",
        )
    if not n or not names:
        raise DataError(
            "the file holds no cells" if not n else "the file holds no genes",
            where=path,
            fix="is it the right file? write it again, with cells and genes",
        )
    values.judge(scale)
    first, *aliases = controls(control_pert)
    labels = columns[pert_col].copy()
    labels[np.isin(labels, aliases)] = first
    lines = columns[celltype_col] if celltype_col else np.full(len(labels), "all", dtype=object)
    return Side(path, names, cells, labels, lines, embedding)


def _spelt_out(labels: Column) -> np.ndarray:
    return labels.values_at(np.arange(len(labels.codes)))


def _embedding(file: h5py.File, path: Path, key: str) -> np.ndarray:
    held = list(file["obsm"]) if "obsm" in file else []
    if key not in held:
        raise DataError(f"no obsm matrix {key!r}", where=path, fix=did_you_mean(key, held))
    import anndata  # a quarter of a second, which most calls do without

    matrix = np.asarray(anndata.io.read_elem(file["obsm"][key]), dtype=np.float64)
    broken = int((~np.isfinite(matrix)).sum())
    if broken:
        raise DataError(
            f"{broken} values are NaN or infinite",
            where=f"{path}, obsm matrix {key!r}",
            fix="make the embedding again, or score without it",
        )
    return matrix


class _Values:
    """What the stored values of a file show of its scale, chunk by chunk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n = self.broken = self.negative = 0
        self.least, self.largest, self.fractions = np.inf, -np.inf, False

    def look(self, values: np.ndarray) -> None:
        """Take in a chunk."""
        if not values.size:
            return
        low, high = values.min(), values.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            self.broken += int((~np.isfinite(values)).sum())
        if low < 0:
            self.negative += int((values < 0).sum())
        self.n += values.size
        self.least, self.largest = min(self.least, float(low)), max(self.largest, float(high))
        if not self.fractions and values.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                self.fractions = bool((np.abs(values - np.rint(values)) > WHOLE).any())

    def judge(self, scale: Scale) -> None:
        """Refuse values that are no expression, or not on the declared scale."""
        where = f"{self.path}, X"
        if self.broken:
            raise DataError(
                f"{self.broken} values are NaN or infinite",
                where=where,
                fix="a prediction with such values is broken: make it again",
            )
        if self.negative:
            raise DataError(
                f"{self.negative} values are negative, the least is {self.least:g}",
                where=where,
                fix="counts and log1p values are at least 0; scaled (z-scored) data cannot be scored",
            )
        if scale == "counts" and self.fractions:
            raise DataError(
                "these are no counts: some values are not whole",
                where=where,
                fix="say scale log1p if they are ln(1 + normalised counts)",
            )
        if (
            scale == "log1p"
            and self.n
            and (impossible(np.array(self.largest), None).item() or not self.fractions)
        ):
            what = "all values are whole"
            if self.fractions:
                what = f"the largest is {self.largest:g}"
            raise DataError(
                f"these are no log1p values: {what}",
                where=where,
                fix="say scale counts if they are raw counts; otherwise give ln(1 + normalised counts)",
            )


def median_total(totals: np.ndarray, is_sparse: bool) -> float:
    """Median counts per cell, as scanpy takes it: of a dense matrix, empty cells do not count.

    Parameters
    ----------
    totals
        float64 [n].
    is_sparse
        How the file stores them.
    """
    chosen = totals if is_sparse else totals[totals > 0]
    return float(np.median(chosen)) if len(chosen) else 0.0


def log_normalised(cells: Any, target: float) -> Any:
    """ln(1 + count / (total / target)), in scanpy's order of operations and precision.

    Ranks see the last digit: other roundings make or break ties, and moved U by up to 2.5.

    Parameters
    ----------
    cells
        Counts [n, G], sparse or dense; integers are taken as float32.
    target
        Total of every cell afterwards.
    """
    kind = cells.dtype if cells.dtype.kind == "f" else np.dtype(np.float32)
    totals = np.asarray(cells.sum(axis=1, dtype=np.float64)).ravel().astype(kind)
    scale = totals / kind.type(target)
    scale[scale == 0] = 1
    if sparse.issparse(cells):
        out = cells.tocsr().astype(kind, copy=True)
        out.data = np.log1p(out.data / np.repeat(scale, np.diff(out.indptr)))
        return out
    return np.log1p(cells.astype(kind) / scale[:, None])
