"""Somebody's own h5ad, opened for reading: its labels, its controls, its genes in a model's order."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from scipy import sparse

from statetx.data.gene_names import other_names
from statetx.data.header import Column, barcodes, column, columns, genes, hvg_names, totals
from statetx.data.matrix import Matrix, check_scale, check_values, note_decimals
from statetx.data.open_h5ad import members
from statetx.errors import DataError, did_you_mean
from statetx.inference.cells import declared
from statetx.labels import DRUG_DOSE, control_spellings
from statetx.models.model_dir import LoadedModel


class Controls:
    """Control cells of one line, in the order (batch, row).

    Attributes
    ----------
    name
        The line.
    rows
        Row in the file of each control cell, int64.
    runs
        Where the controls of each batch lie in `rows`, as `draw_controls` wants them.
    """

    def __init__(self, name: str, rows: np.ndarray, batches: np.ndarray) -> None:
        order = np.argsort(batches.astype(str), kind="stable")
        self.name = name
        self.rows = rows[order]
        labels, starts = np.unique(batches[order].astype(str), return_index=True)
        ends = [*starts[1:].tolist(), len(rows)]
        self.runs = dict(zip(labels.tolist(), zip(starts.tolist(), ends, strict=True), strict=True))


class OwnCells:
    """Labels of an h5ad that is being read.

    Parameters
    ----------
    file, path
        The open file and its path.
    pert_col, celltype_col
        obs columns.
    batch_col
        obs column; None: one batch.
    controls
        The control label and its aliases, in whatever spelling.
    kind
        How labels are read, see `statetx.labels.Reading`.

    Raises
    ------
    DataError
        A column is missing or has cells without label, or no cell has a control label.
    """

    def __init__(
        self,
        file: h5py.File,
        path: Path,
        pert_col: str,
        celltype_col: str,
        batch_col: str | None,
        controls: list[str],
        kind: str = DRUG_DOSE,
    ) -> None:
        self.file, self.path = file, path
        self.perturbation = column(file, path, pert_col, "--pert-col")
        self.line = column(file, path, celltype_col, "--celltype-col")
        n_cells = len(self.line.codes)
        self.batch = (
            Column(np.zeros(n_cells, dtype=np.int32), ["all"])
            if batch_col is None
            else column(file, path, batch_col, "--batch-col")
        )
        labels = self.perturbation.names
        also = control_spellings(labels, controls, kind)
        if also:
            print(f"controls in another spelling: {', '.join(map(repr, also))}")
        codes = [i for i, name in enumerate(labels) if name in controls or name in also]
        self._is_control = np.isin(self.perturbation.codes, codes)
        if not codes:
            shown = " or ".join(repr(name) for name in controls)
            raise DataError(
                f"no cell has the control label {shown}",
                where=f"{path}, obs[{pert_col!r}]",
                fix=f"{did_you_mean(controls[0], labels)} Name your control: --control-pert",
            )

    def conditions(self) -> dict[tuple[str, str], int]:
        """Return the number of cells of every (line, perturbation) but the controls, sorted."""
        treated = ~self._is_control
        width = len(self.perturbation.names)
        keys = self.line.codes[treated].astype(np.int64) * width + self.perturbation.codes[treated]
        found, counts = np.unique(keys, return_counts=True)
        return {
            (self.line.names[key // width], self.perturbation.names[key % width]): int(n)
            for key, n in zip(found.tolist(), counts, strict=True)
        }

    def batches_of(self, line: str, perturbation: str) -> np.ndarray:
        """Return the batch of every cell of a condition, in the order of the file (objects)."""
        chosen = self.line.codes == self.line.names.index(line)
        chosen &= self.perturbation.codes == self.perturbation.names.index(perturbation)
        return self.batch.values_at(np.flatnonzero(chosen))

    def controls(self, line: str) -> Controls:
        """Return the control cells of a line.

        Raises
        ------
        DataError
            It has none. Those of another line would be another line's answer.
        """
        rows = np.flatnonzero(self._is_control & (self.line.codes == self.line.names.index(line)))
        if rows.size == 0:
            raise DataError(
                f"line {line!r} has no control cells",
                where=self.path,
                fix="predictions start from the line's own controls: add them, or leave the line "
                "out with --celltypes",
            )
        return Controls(line, rows, self.batch.values_at(rows))


class Expression:
    """Chosen rows of a file as a model wants them: its genes, its order, log1p.

    Parameters
    ----------
    own
        The file.
    rows
        Rows that will be asked for, sorted.
    model
        Whose genes and scale.
    embed_key
        obsm matrix to use instead of the model's.

    Raises
    ------
    DataError
        The matrix is missing, lacks genes, has another scale, or holds NaN.
    """

    def __init__(
        self, own: OwnCells, rows: np.ndarray, model: LoadedModel, embed_key: str | None
    ) -> None:
        self._rows = rows
        self._barcodes = barcodes(own.file, own.path)
        key = embed_key or model.embed_key
        if model.takes_embedding:
            self._values = _embedding(own, str(key), rows, int(model.meta["n_inputs"]))
            return
        name, names, scale = _source(own, key, str(declared(model, "scale", "input")))
        matrix = Matrix(own.file, name, own.path)
        place = _places(names, model.genes, own.path, name)
        note_decimals(check_scale(matrix, scale, names), scale, name, own.path)
        given = declared(model, "scale", "total_counts_col") if scale == "counts" else None
        if given is not None and given not in columns(own.file):
            raise DataError(
                f"obs has no column {given!r}, by which this model's counts are normalised",
                where=own.path,
                fix=f"store each cell's total count over all measured genes in obs[{given!r}]",
            )
        depth = totals(own.file, own.path, str(given)) if given is not None else None
        target_sum = float(declared(model, "scale", "target_sum") or np.nan)

        parts = []
        for start in range(0, matrix.shape[0], matrix.chunk_rows):
            stop = min(matrix.shape[0], start + matrix.chunk_rows)
            wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
            if wanted.size == 0:
                continue
            chunk = matrix.rows(start, stop)
            check_values(chunk, own.path, name, start, names)
            chosen = chunk[wanted - start]
            if scale == "counts":
                total = _total(chosen) if depth is None else depth[wanted]
                chosen = _log1p(chosen, target_sum / np.maximum(total, 1e-12))
            parts.append(chosen[:, place].astype(np.float32))
        self._values = sparse.vstack(parts, format="csr")

    def expression(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 [n, D] of the given rows of the file."""
        chosen = self._values[np.searchsorted(self._rows, rows)]
        return chosen if isinstance(chosen, np.ndarray) else chosen.toarray()

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Return the barcodes of the given rows of the file (objects)."""
        return self._barcodes[rows]


def _embedding(own: OwnCells, key: str, rows: np.ndarray, width: int) -> np.ndarray:
    """Return rows of an embedding, float32 [n, D]."""
    keys = members(own.file, "obsm", own.path)
    if key not in keys:
        raise DataError(
            f"obsm has no matrix {key!r}, in which this model works",
            where=own.path,
            fix=f"{did_you_mean(key, keys)} Name yours with --embed-key; it must come from the same "
            "embedding model",
        )
    matrix = Matrix(own.file, f"obsm/{key}", own.path)
    if matrix.shape[1] != width:
        raise DataError(
            f"obsm[{key!r}] has {matrix.shape[1]} columns, the model takes {width}",
            where=own.path,
            fix="use the embedding that the model was trained on",
        )
    parts = []
    for start in range(0, matrix.shape[0], matrix.chunk_rows):
        stop = min(matrix.shape[0], start + matrix.chunk_rows)
        wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
        if wanted.size:
            chosen = matrix.rows(start, stop)[wanted - start]
            parts.append(np.asarray(chosen.todense(), dtype=np.float32))
    values = np.concatenate(parts)
    if not np.isfinite(values).all():
        raise DataError(f"obsm[{key!r}] holds NaN or infinite values", where=own.path)
    return values


def _source(own: OwnCells, key: str | None, scale: str) -> tuple[str, list[str], str]:
    """Return the name of the matrix, the genes of its columns and its scale."""
    names = genes(own.file, own.path)
    if key is None:
        return "X", names, scale
    keys = members(own.file, "obsm", own.path)
    if key not in keys:
        raise DataError(
            f"obsm has no matrix {key!r}, in which this model works",
            where=own.path,
            fix=f"{did_you_mean(key, keys)} Name yours with --embed-key: the model's genes as "
            "ln(1 + target_sum * count / total), named in uns['hvg_names']",
        )
    width = Matrix(own.file, f"obsm/{key}", own.path).shape[1]
    return f"obsm/{key}", hvg_names(own.file, own.path, key, width, names), "log1p"


def _places(names: list[str], wanted: list[str], path: Path, matrix: str) -> np.ndarray:
    """Return the column of every wanted gene."""
    place = {name: i for i, name in enumerate(names)}
    missing = [name for name in wanted if name not in place]
    if missing:
        shown = ", ".join(repr(name) for name in missing[:10])
        raise DataError(
            f"{len(missing)} of the model's {len(wanted)} genes are missing: {shown}",
            where=f"{path}, {matrix}",
            fix=other_names(path, wanted, None if matrix == "X" else names)
            or f"{did_you_mean(missing[0], names)} Use the same gene names as the model's "
            "genes.txt; a gene that was never measured cannot be made up",
        )
    return np.asarray([place[name] for name in wanted], dtype=np.int64)


def _total(counts: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def _log1p(counts: sparse.csr_matrix, factor: np.ndarray) -> sparse.csr_matrix:
    out = counts.astype(np.float64)
    out.data = np.log1p(out.data * np.repeat(factor, np.diff(out.indptr)))
    return out
