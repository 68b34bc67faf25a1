"""One side of a stand-alone comparison: somebody's h5ad file, read and checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from scipy import sparse

from statetx.core.errors import DataError, did_you_mean
from statetx.data.h5ad.header import genes
from statetx.data.h5ad.matrix import Matrix, looks_like
from statetx.data.h5ad.numbers import RowSums, is_centred, is_whole, mend_negative
from statetx.data.h5ad.obs_columns import Column, column
from statetx.data.h5ad.open_h5ad import (
    IN_MEMORY,
    RATIO,
    attribute,
    child,
    in_memory,
    members,
    opened,
    reading,
    swollen,
)
from statetx.evaluation.standalone.cells_on_disk import StoredCells
from statetx.shared.expression import impossible
from statetx.shared.labels import controls

log = logging.getLogger(__name__)

Scale = Literal["log1p", "counts"]


@dataclass(frozen=True)
class CellsFile:
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

    def rows_of_line(self, line: str) -> np.ndarray:
        """Rows of a cell line."""
        return np.flatnonzero(self.lines == line)


def read_cells_file(
    path: str | Path,
    pert_col: str,
    control_pert: str | Sequence[str],
    celltype_col: str | None,
    embed_key: str | None,
    scale: Scale,
    clip: bool = False,
) -> CellsFile:
    """Read and check one file; see `standalone.evaluate_files`.

    Parameters
    ----------
    path
        The file.
    pert_col, control_pert, celltype_col, embed_key, scale
        As for `standalone.evaluate_files`.
    clip
        Whether a few negative values become 0 instead of being refused.

    Raises
    ------
    DataError
        Unreadable or without cells; a column or embedding is missing; NaN or empty labels; duplicate
        genes; values that are not finite, negative, or not on the declared scale.
    """
    path = Path(path)
    values = _Values(path)
    with opened(path) as file:
        names = genes(file, path)
        columns = {
            name: _spelt_out(column(file, path, name, option))
            for name, option in ((pert_col, "--pert-col"), (celltype_col, "--celltype-col"))
            if name
        }
        n = len(columns[pert_col])
        embedding = None if embed_key is None else _embedding(file, path, embed_key, n)
        x = Matrix(file, "X", path)
        if x.shape != (n, len(names)):
            raise DataError(
                f"X is {x.shape[0]} x {x.shape[1]}, but there are {n} cells and {len(names)} genes",
                where=path,
                fix="the file is damaged: write it again",
            )
        if not n or not names:
            raise DataError(
                "the file holds no cells" if not n else "the file holds no genes",
                where=path,
                fix="is it the right file? write it again, with cells and genes",
            )
        cells = StoredCells.read(x, values.look, clip)
    values.judge(scale, cells.totals, clip)
    first, *aliases = controls(control_pert)
    labels = columns[pert_col].copy()
    labels[np.isin(labels, aliases)] = first
    lines = columns[celltype_col] if celltype_col else np.full(len(labels), "all", dtype=object)
    return CellsFile(path, names, cells, labels, lines, embedding)


def _spelt_out(labels: Column) -> np.ndarray:
    return labels.values_at(np.arange(len(labels.codes)))


def _embedding(file: h5py.File, path: Path, key: str, n_cells: int) -> np.ndarray:
    held = members(file, "obsm", path)
    if key not in held:
        raise DataError(f"no obsm matrix {key!r}", where=path, fix=did_you_mean(key, held))
    where = f"{path}, obsm matrix {key!r}"
    with reading(path, f"obsm[{key!r}]"):
        item = child(file, f"obsm/{key}", path)
        if attribute(item, "encoding-type") == "dataframe":
            matrix = _frame(item, path)
        else:
            stored = Matrix(file, f"obsm/{key}", path)
            size, held = 8 * stored.shape[0] * stored.shape[1], file.id.get_filesize()
            if size > max(IN_MEMORY, RATIO * held):
                raise swollen(f"obsm/{key}", path, size, held)
            n = stored.shape[0]
            dense = stored.layout == "dense"
            rows = stored.stored_dense(0, n) if dense else stored.rows(0, n).toarray()
            matrix = rows.astype(np.float64)
    if matrix.ndim != 2 or len(matrix) != n_cells:
        raise DataError(
            f"the embedding has the shape {matrix.shape}, but there are {n_cells} cells",
            where=where,
            fix="store one row per cell",
        )
    broken = int((~np.isfinite(matrix)).sum())
    if broken:
        raise DataError(
            f"{broken} values are NaN or infinite",
            where=where,
            fix="make the embedding again, or score without it",
        )
    return matrix


def _frame(group: h5py.Group, path: Path) -> np.ndarray:
    import anndata  # a quarter of a second, which most calls do without

    for name in group:
        part = child(group, name, path)
        if isinstance(part, h5py.Dataset):
            in_memory(part, path)
    return np.asarray(anndata.io.read_elem(group), dtype=np.float64)


class _Values:
    """What the stored values of a file show of its scale, chunk by chunk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n = self.broken = self.negative = 0
        self.below = 0.0
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
            self.below -= float(values[values < 0].sum(dtype=np.float64))
        self.n += values.size
        self.least, self.largest = min(self.least, float(low)), max(self.largest, float(high))
        self.fractions = self.fractions or not is_whole(values)

    def judge(self, scale: Scale, totals: np.ndarray, clip: bool) -> None:
        """Refuse values that are no expression, or not on the declared scale."""
        where = f"{self.path}, X"
        if self.broken:
            raise DataError(
                f"{self.broken} values are NaN or infinite",
                where=where,
                fix="a prediction with such values is broken: make it again",
            )
        if self.negative:
            self._judge_negative(where, float(totals.sum()), clip)
        if scale == "counts" and self.fractions:
            self._judge_decimals(where, totals)
        if (
            scale == "log1p"
            and self.n
            and (impossible(np.array(self.largest), None).item() or not self.fractions)
        ):
            what = "all values are whole"
            if self.fractions:
                what = f"the largest is {self.largest:g}"
            raise DataError(
                f"these are not log1p values: {what}",
                where=where,
                fix="say scale counts if they are raw counts; otherwise give ln(1 + normalised counts)",
            )

    def _judge_negative(self, where: str, total: float, clip: bool) -> None:
        above = total if clip else total + self.below
        scaled = is_centred(self.below, above)
        told = f"{self.negative} values are negative, the least is {self.least:g}"
        if clip and not scaled:
            log.warning("%s: %s; they are set to 0", where, told)
            return
        more = "" if scaled or clip else "; --clip-negative does so with a prediction"
        raise DataError(
            told,
            where=where,
            fix=f"counts and log1p values are at least 0: {mend_negative(self.below, above)}{more}",
        )

    def _judge_decimals(self, where: str, totals: np.ndarray) -> None:
        if looks_like(False, self.largest) == "log1p":
            raise DataError(
                f"these are not counts: decimals up to {self.largest:g} look log-transformed",
                where=where,
                fix="say scale log1p if they are ln(1 + normalised counts); corrected counts as small "
                "as these look the same: round them",
            )
        sums = RowSums()
        sums.add(totals)
        sums.refuse_normalised("X", self.path)
        log.info("%s holds decimals, which are taken as corrected counts", where)


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
