"""One side of a stand-alone comparison: somebody's h5ad file, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import numpy as np
from scipy import sparse

from statetx.errors import DataError, did_you_mean
from statetx.labels import controls

Scale = Literal["log1p", "counts"]

LARGEST_LOG = 15.0
"""No log1p value reaches this (3 million per 10,000); cell-eval has the same limit."""

WHOLE = 1e-3
"""A value is whole when its fractional part is no larger (cell-eval's threshold)."""


@dataclass(frozen=True)
class Side:
    """One file.

    Attributes
    ----------
    path, genes
        The file and its gene names.
    matrix
        Cells x genes as stored, dense or CSR.
    labels, lines
        Perturbation and cell line of every cell (object arrays of str); aliases of the control
        are replaced by its first label.
    embedding
        float64 [n, D] or None.
    """

    path: Path
    genes: list[str]
    matrix: Any
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
        Unreadable; a column or embedding is missing; NaN labels; duplicate genes; values that are
        not finite, negative, or not on the declared scale.
    """
    path = Path(path)
    try:
        data = ad.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"cannot read the cells: {error}", where=path, fix="is it a whole h5ad file?"
        ) from error
    columns = {}
    for column in [pert_col, *([celltype_col] if celltype_col else [])]:
        if column not in data.obs:
            raise DataError(
                f"no obs column {column!r}", where=path, fix=did_you_mean(column, data.obs.columns)
            )
        if data.obs[column].isna().any():
            raise DataError(
                f"{int(data.obs[column].isna().sum())} cells have no label",
                where=f"{path}, obs column {column!r}",
                fix="label these cells or leave them out",
            )
        columns[column] = data.obs[column].astype(str).to_numpy(dtype=object)
    genes = [str(gene) for gene in data.var_names]
    if len(set(genes)) < len(genes):
        twice = next(gene for i, gene in enumerate(genes) if gene in genes[:i])
        raise DataError(
            f"gene {twice!r} stands twice", where=path, fix="make gene names unique, on both sides"
        )
    embedding = None
    if embed_key is not None:
        if embed_key not in data.obsm:
            raise DataError(
                f"no obsm matrix {embed_key!r}", where=path, fix=did_you_mean(embed_key, data.obsm)
            )
        embedding = np.asarray(data.obsm[embed_key], dtype=np.float64)
    matrix = data.X.tocsr() if sparse.issparse(data.X) else np.asarray(data.X)
    if matrix.dtype == np.float16:
        matrix = matrix.astype(np.float32)
    _check_values(matrix, path, scale)
    first, *aliases = controls(control_pert)
    labels = columns[pert_col].copy()
    labels[np.isin(labels, aliases)] = first
    lines = columns[celltype_col] if celltype_col else np.full(len(labels), "all", dtype=object)
    return Side(path, genes, matrix, labels, lines, embedding)


def _check_values(matrix: Any, path: Path, scale: Scale) -> None:
    values = matrix.data if sparse.issparse(matrix) else matrix.ravel()
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} values are NaN or infinite",
            where=f"{path}, X",
            fix="a prediction with such values is broken: make it again",
        )
    if values.size and values.min() < 0:
        raise DataError(
            f"{int((values < 0).sum())} values are negative, the least is {values.min():g}",
            where=f"{path}, X",
            fix="counts and log1p values are at least 0; scaled (z-scored) data cannot be scored",
        )
    fractions = bool((np.abs(values - np.rint(values)) > WHOLE).any())
    if scale == "counts" and fractions:
        raise DataError(
            "these are no counts: some values are not whole",
            where=f"{path}, X",
            fix="say scale log1p if they are ln(1 + normalised counts)",
        )
    if scale == "log1p" and values.size and (values.max() >= LARGEST_LOG or not fractions):
        what = "all values are whole" if not fractions else f"the largest is {values.max():g}"
        raise DataError(
            f"these are no log1p values: {what}",
            where=f"{path}, X",
            fix="say scale counts if they are raw counts; otherwise give ln(1 + normalised counts)",
        )


def median_total(matrix: Any) -> float:
    """Median counts per cell, as scanpy takes it: of a dense matrix, empty cells do not count."""
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    chosen = totals if sparse.issparse(matrix) else totals[totals > 0]
    return float(np.median(chosen)) if len(chosen) else 0.0


def log_normalised(matrix: Any, target: float) -> Any:
    """ln(1 + target * count / total), float64, sparse if `matrix` is."""
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    factor = target / np.where(totals > 0, totals, 1.0)
    if sparse.issparse(matrix):
        return (sparse.diags(factor) @ matrix.astype(np.float64)).tocsr().log1p()
    return np.log1p(matrix.astype(np.float64) * factor[:, None])
