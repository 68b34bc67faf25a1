"""Cells of a user's h5ad file: labels, controls, and expression in the genes of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import sparse

from statetx.core.errors import DataError, did_you_mean
from statetx.data.h5ad.gene_names import other_names
from statetx.data.h5ad.header import Column, barcodes, column, columns, genes, hvg_names, totals
from statetx.data.h5ad.matrix import Matrix, check_values
from statetx.data.h5ad.open_h5ad import members
from statetx.inference.convert_normalisation import normalisation, report, trained
from statetx.inference.missing import MOST_FILLED, Missing, missing
from statetx.inference.write_predictions import declared
from statetx.models.model_dir import LoadedModel
from statetx.shared.labels import DRUG_DOSE, control_spellings

SOME = 0.2
"""X replaces a missing obsm matrix if it contains at least this share of the model's genes."""
EVIDENCE_ROWS = 256
"""Number of control cells from which the normalisation of a file is recognised."""


class Controls:
    """Control cells of one line, in the order (batch, row).

    Attributes
    ----------
    name
        The line.
    rows
        int64 [n], row of each control cell in the file.
    runs
        Batch -> (start, stop) of its controls in `rows`, as `draw_controls` takes them.
    """

    def __init__(self, name: str, rows: np.ndarray, batches: np.ndarray) -> None:
        order = np.argsort(batches.astype(str), kind="stable")
        self.name = name
        self.rows = rows[order]
        labels, starts = np.unique(batches[order].astype(str), return_index=True)
        ends = [*starts[1:].tolist(), len(rows)]
        self.runs = dict(zip(labels.tolist(), zip(starts.tolist(), ends, strict=True), strict=True))


class OwnCells:
    """Labels of an open h5ad file.

    Parameters
    ----------
    file, path
        The open file and its path.
    pert_col, celltype_col
        obs columns of perturbation and cell line.
    batch_col
        obs column of the batch; None: one batch.
    controls
        The control label and its aliases, in any spelling.
    kind
        How labels are read, see `statetx.shared.labels.Reading`.

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
        spellings = control_spellings(labels, controls, kind)
        if spellings:
            print(f"controls in another spelling: {', '.join(map(repr, spellings))}")
        codes = [i for i, name in enumerate(labels) if name in controls or name in spellings]
        self._is_control = np.isin(self.perturbation.codes, codes)
        if not codes:
            shown = " or ".join(repr(name) for name in controls)
            raise DataError(
                f"no cell has the control label {shown}",
                where=f"{path}, obs[{pert_col!r}]",
                fix=f"{did_you_mean(controls[0], labels)} Name your control with --control-pert",
            )

    def conditions(self) -> dict[tuple[str, str], int]:
        """Return the number of cells of each (line, perturbation) except the controls, sorted."""
        treated = ~self._is_control
        width = len(self.perturbation.names)
        keys = self.line.codes[treated].astype(np.int64) * width + self.perturbation.codes[treated]
        found, counts = np.unique(keys, return_counts=True)
        return {
            (self.line.names[key // width], self.perturbation.names[key % width]): int(n)
            for key, n in zip(found.tolist(), counts, strict=True)
        }

    def batches_of(self, line: str, perturbation: str) -> np.ndarray:
        """Return the batch of each cell of a condition, in the order of the file.

        Parameters
        ----------
        line, perturbation
            A condition of the file.

        Returns
        -------
        numpy.ndarray
            objects [n].
        """
        chosen = self.line.codes == self.line.names.index(line)
        chosen &= self.perturbation.codes == self.perturbation.names.index(perturbation)
        return self.batch.values_at(np.flatnonzero(chosen))

    def controls(self, line: str) -> Controls:
        """Return the control cells of a line.

        Parameters
        ----------
        line
            Name of the line.

        Raises
        ------
        DataError
            It has no controls. Controls of other lines are not used instead.
        """
        rows = np.flatnonzero(self._is_control & (self.line.codes == self.line.names.index(line)))
        if rows.size == 0:
            raise DataError(
                f"line {line!r} has no control cells",
                where=self.path,
                fix="add control cells of this line, from which predictions start, or leave the "
                "line out with --celltypes",
            )
        return Controls(line, rows, self.batch.values_at(rows))


class Expression:
    """Rows of a file as a model takes them: its genes in its order, normalised like its training.

    Parameters
    ----------
    cells_file
        The file.
    rows
        int64, rows that will be read, sorted.
    model
        The model.
    embed_key
        obsm matrix to use instead of the model's; None: the model's.
    controls
        Line -> rows of all its controls, sorted. They show how the file is normalised.
    means
        Whether to compute the means of these controls.
    fill_missing
        What happens to genes that the file does not contain: see `missing.RULES`.
    total_counts_col
        obs column with the total counts of a cell, instead of the model's.

    Attributes
    ----------
    control_means
        Line -> mean expression of all its controls, float64 [G]; {} without `means`.
    report
        How values were recognised and converted, for the output; {} for an embedding.

    Raises
    ------
    DataError
        The matrix is missing, does not contain all genes, has a scale that cannot be converted, or
        contains NaN.
    """

    def __init__(
        self,
        cells_file: OwnCells,
        rows: np.ndarray,
        model: LoadedModel,
        embed_key: str | None,
        controls: dict[str, np.ndarray],
        means: bool = False,
        fill_missing: str = "error",
        total_counts_col: str | None = None,
    ) -> None:
        self._rows = rows
        self._barcodes = barcodes(cells_file.file, cells_file.path)
        self.control_means: dict[str, np.ndarray] = {}
        self.report: dict[str, Any] = {}
        self._missing: Missing | None = None
        key = embed_key or model.embed_key
        if model.takes_embedding:
            self._values = _embedding(cells_file, str(key), rows, int(model.meta["n_inputs"]))
            return
        if embed_key is None and _starts_from_x(cells_file, key, model):
            key = None
        name, names = _source(cells_file, key, model.genes)
        matrix = Matrix(cells_file.file, name, cells_file.path)
        where = f"{cells_file.path}, {name}"
        n_cells = len(cells_file.line.codes)
        if matrix.shape != (n_cells, len(names)):
            raise DataError(
                f"{name} is {matrix.shape[0]} x {matrix.shape[1]}, but the file has {n_cells} cells "
                f"and {len(names)} features of it",
                where=cells_file.path,
                fix="the file is damaged: write it again",
            )
        self._missing = missing(names, model, fill_missing, where)
        wanted = [gene for gene in model.genes if gene not in set(self._missing.genes)]
        place = _places(names, wanted, cells_file.path, name)
        depth = _depth(cells_file, name, model, total_counts_col)
        training = trained(model)
        control_rows = np.unique(np.concatenate(list(controls.values())))
        sample = control_rows[
            np.unique(np.linspace(0, len(control_rows) - 1, EVIDENCE_ROWS).astype(int))
        ]
        blocks = [_checked(matrix, row, row + 1, names) for row in sample.tolist()]
        conversion = normalisation(
            sparse.vstack(blocks, format="csr"),
            place,
            model,
            training,
            None if depth is None else depth[sample],
            name,
            cells_file.path,
        )
        column = declared(model, "scale", "total_counts_col")
        if conversion.by_totals and depth is None and column is not None:
            raise DataError(
                f"obs has no column {column!r}, by which this model's counts are normalised",
                where=cells_file.path,
                fix="store the total count of each cell over all measured genes in "
                f"obs[{column!r}], or name your column with --total-counts-col",
            )
        parts = []
        summed = controls if means else {}
        sums = {line: np.zeros(len(place)) for line in summed}
        wanted_rows = np.union1d(rows, control_rows) if means else rows
        for start in range(0, matrix.shape[0], matrix.chunk_rows):
            stop = min(matrix.shape[0], start + matrix.chunk_rows)
            read = _between(wanted_rows, start, stop)
            if read.size == 0:
                continue
            chosen = _checked(matrix, start, stop, names)[read - start]
            chosen = conversion.apply(chosen, None if depth is None else depth[read], read)[
                :, place
            ]
            for line, line_rows in summed.items():
                in_line = np.searchsorted(read, _between(line_rows, start, stop))
                sums[line] += np.asarray(chosen[in_line].sum(axis=0, dtype=np.float64)).ravel()
            in_rows = np.searchsorted(read, _between(rows, start, stop))
            parts.append(chosen[in_rows].astype(np.float32))
        self._values = sparse.vstack(parts, format="csr")
        for line, total in sums.items():
            mean = self._missing.filled((total / len(summed[line]))[None])[0]
            self.control_means[line] = mean.astype(np.float64)
        self.report = report(conversion, training) | self._missing.report()
        print(
            f"{cells_file.path}, {name}: {conversion.held.log or 'counts'} "
            f"({conversion.held.evidence}); {conversion.done}"
        )

    def expression(self, rows: np.ndarray) -> np.ndarray:
        """Return the values of some rows, float32 [n, D].

        Parameters
        ----------
        rows
            int64 [n], rows of the file, among those of the constructor.
        """
        chosen = self._values[np.searchsorted(self._rows, rows)]
        dense = chosen if isinstance(chosen, np.ndarray) else chosen.toarray()
        return dense if self._missing is None else self._missing.filled(dense)

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Return the barcodes of some rows, objects [n].

        Parameters
        ----------
        rows
            int64 [n], rows of the file.
        """
        return self._barcodes[rows]


def _checked(matrix: Matrix, start: int, stop: int, names: list[str]) -> sparse.csr_matrix:
    values = matrix.rows(start, stop)
    check_values(values, matrix.path, matrix.name, start, names)
    return values


def _between(rows: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the sorted rows in [start, stop)."""
    return rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]


def _depth(own: OwnCells, name: str, model: LoadedModel, given: str | None) -> np.ndarray | None:
    """Return the total counts of all cells of the file, or None if no obs column holds them."""
    chosen = given or declared(model, "scale", "total_counts_col")
    if name != "X" or chosen is None or (given is None and chosen not in columns(own.file)):
        return None
    return totals(own.file, own.path, str(chosen))


def _starts_from_x(own: OwnCells, key: str | None, model: LoadedModel) -> bool:
    """Return whether X is used because the obsm matrix of the model is not in the file."""
    if key is None or ("obsm" in own.file and key in own.file["obsm"]):
        return False
    present = set(genes(own.file, own.path))
    # If only some genes are missing in X, an error about these genes says more than one about obsm.
    if sum(gene in present for gene in model.genes) < SOME * len(model.genes):
        return False
    print(f"obsm has no matrix {key!r} in {own.path}: the genes of the model are taken from X")
    return True


def _embedding(own: OwnCells, key: str, rows: np.ndarray, width: int) -> np.ndarray:
    """Return rows of an embedding, float32 [n, D]."""
    keys = members(own.file, "obsm", own.path)
    if key not in keys:
        raise DataError(
            f"obsm has no matrix {key!r}, in which this model works",
            where=own.path,
            fix=f"{did_you_mean(key, keys)} Name your matrix with --embed-key; it must come from "
            "the same embedding model",
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


def _source(own: OwnCells, key: str | None, wanted: list[str]) -> tuple[str, list[str]]:
    """Return the name of the matrix and the genes of its columns."""
    names = genes(own.file, own.path)
    if key is None:
        return "X", names
    keys = members(own.file, "obsm", own.path)
    if key not in keys:
        raise DataError(
            f"obsm has no matrix {key!r}, in which this model works, and X does not contain its "
            "genes",
            where=own.path,
            fix=other_names(own.path, wanted)
            or f"{did_you_mean(key, keys)} Name your matrix with --embed-key: it must hold the "
            "model's genes as ln(1 + target_sum * count / total), named in uns['hvg_names']",
        )
    width = Matrix(own.file, f"obsm/{key}", own.path).shape[1]
    return f"obsm/{key}", hvg_names(own.file, own.path, key, width, names)


def _places(names: list[str], wanted: list[str], path: Path, matrix: str) -> np.ndarray:
    """Return the column of each gene in `wanted`, int64."""
    place = {name: i for i, name in enumerate(names)}
    missing = [name for name in wanted if name not in place]
    if missing:
        shown = ", ".join(repr(name) for name in missing[:10]) + (", …" if missing[10:] else "")
        raise DataError(
            f"{len(missing)} of the model's {len(wanted)} genes are missing: {shown}",
            where=f"{path}, {matrix}",
            fix=other_names(path, wanted, None if matrix == "X" else names)
            or (f"{did_you_mean(missing[0], names)} " if len(missing) == 1 else "")
            + "use the same gene names as the model's genes.txt; --fill-missing 0 or control_mean "
            f"fills at most {MOST_FILLED:.0%} of the genes",
        )
    return np.asarray([place[name] for name in wanted], dtype=np.int64)
