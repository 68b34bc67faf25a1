"""An h5ad file of a stand-alone comparison, read and checked."""

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
    """Real or predicted cells of one h5ad file.

    Attributes
    ----------
    path, genes
        The file and its gene names.
    cells
        Cells x genes as stored.
    labels, lines
        [n], perturbation and cell line of each cell (object arrays of str). Aliases of the control
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
        """Return the rows of a cell line, int64.

        Parameters
        ----------
        line
            Name of the line.
        """
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
    """Read and check one h5ad file.

    Parameters
    ----------
    path
        The file.
    pert_col, control_pert, celltype_col, embed_key, scale
        As for `evaluate_files.evaluate_files`.
    clip
        Whether a few negative values become 0 instead of being refused.

    Raises
    ------
    DataError
        The file cannot be read or has no cells; a column or embedding is missing; labels are NaN or
        empty; genes occur twice; values are not finite, negative, or not on the declared scale.
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
                f"X is {x.shape[0]} x {x.shape[1]}, but the file has {n} cells and {len(names)} "
                "genes",
                where=path,
                fix="the file is damaged: write it again",
            )
        if not n or not names:
            raise DataError(
                "the file holds no cells" if not n else "the file holds no genes",
                where=path,
                fix="check that this is the right file, or write it again with cells and genes",
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
    names = members(file, "obsm", path)
    if key not in names:
        raise DataError(f"no obsm matrix {key!r}", where=path, fix=did_you_mean(key, names))
    where = f"{path}, obsm matrix {key!r}"
    with reading(path, f"obsm[{key!r}]"):
        item = child(file, f"obsm/{key}", path)
        if attribute(item, "encoding-type") == "dataframe":
            matrix = _frame(item, path)
        else:
            stored = Matrix(file, f"obsm/{key}", path)
            size, n_bytes = 8 * stored.shape[0] * stored.shape[1], file.id.get_filesize()
            if size > max(IN_MEMORY, RATIO * n_bytes):
                raise swollen(f"obsm/{key}", path, size, n_bytes)
            n = stored.shape[0]
            dense = stored.layout == "dense"
            rows = stored.stored_dense(0, n) if dense else stored.rows(0, n).toarray()
            matrix = rows.astype(np.float64)
    if matrix.ndim != 2 or len(matrix) != n_cells:
        raise DataError(
            f"the embedding has the shape {matrix.shape}, but the file has {n_cells} cells",
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
    import anndata  # takes a quarter of a second, and most calls do not need it

    for name in group:
        part = child(group, name, path)
        if isinstance(part, h5py.Dataset):
            in_memory(part, path)
    return np.asarray(anndata.io.read_elem(group), dtype=np.float64)


class _Values:
    """Range and kind of the stored values of a file, collected chunk by chunk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n = self.broken = self.negative = 0
        self.below = 0.0
        self.least, self.largest, self.fractions = np.inf, -np.inf, False

    def look(self, values: np.ndarray) -> None:
        """Add the values of a chunk.

        Parameters
        ----------
        values
            Stored values of any shape.
        """
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
        """Refuse values that are not expression, or not on the declared scale.

        Parameters
        ----------
        scale
            The declared scale.
        totals
            float64 [n], sum of each cell.
        clip
            Whether negative values were set to 0.

        Raises
        ------
        DataError
            They are refused.
        """
        where = f"{self.path}, X"
        if self.broken:
            raise DataError(
                f"{self.broken} values are NaN or infinite",
                where=where,
                fix="make the file again without such values",
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
                fix="Set scale to counts if they are raw counts; otherwise give ln(1 + normalised "
                "counts)",
            )

    def _judge_negative(self, where: str, total: float, clip: bool) -> None:
        above = total if clip else total + self.below
        scaled = is_centred(self.below, above)
        problem = f"{self.negative} values are negative, the least is {self.least:g}"
        if clip and not scaled:
            log.warning("%s: %s; they are set to 0", where, problem)
            return
        more = "" if scaled or clip else "; --clip-negative does this for a prediction"
        raise DataError(
            problem,
            where=where,
            fix=f"counts and log1p values are at least 0: {mend_negative(self.below, above)}{more}",
        )

    def _judge_decimals(self, where: str, totals: np.ndarray) -> None:
        if looks_like(False, self.largest) == "log1p":
            raise DataError(
                f"these are not counts: decimals up to {self.largest:g} look log-transformed",
                where=where,
                fix="Set scale to log1p if they are ln(1 + normalised counts); round them if they "
                "are corrected counts, which look the same when they are this small",
            )
        sums = RowSums()
        sums.add(totals)
        sums.refuse_normalised("X", self.path)
        log.info("%s holds decimals, which are taken as corrected counts", where)


def median_total(totals: np.ndarray, is_sparse: bool) -> float:
    """Return the median of counts per cell as scanpy computes it.

    Empty cells of a dense matrix are left out, those of a sparse matrix are not.

    Parameters
    ----------
    totals
        float64 [n], counts per cell.
    is_sparse
        Whether the file stores a sparse matrix.
    """
    chosen = totals if is_sparse else totals[totals > 0]
    return float(np.median(chosen)) if len(chosen) else 0.0


def log_normalised(cells: Any, target: float) -> Any:
    """Return ln(1 + count / (total / target)), with the operations and precision of scanpy.

    Ranks depend on the last digit. Other roundings create or break ties; they changed U by up to
    2.5.

    Parameters
    ----------
    cells
        Counts [n, G], sparse or dense; integers are converted to float32.
    target
        Counts per cell after normalisation.
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
