"""Somebody's own h5ad, opened for reading: its labels, its controls, its genes in a model's order."""

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
from statetx.inference.missing import MOST_FILLED, Missing, missing
from statetx.inference.normalisation import normalisation, report, trained
from statetx.inference.write_predictions import declared
from statetx.models.model_dir import LoadedModel
from statetx.shared.labels import DRUG_DOSE, control_spellings

SOME = 0.2
"""Share of the model's genes from which X is taken for what the user wants to start from."""
EVIDENCE_ROWS = 256
"""Cells that show how a file is normalised, spread over those that are used."""


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
    """Chosen rows of a file as a model wants them: its genes, its order, its log1p.

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
    fill_missing
        What becomes of genes that the file lacks: see `missing.RULES`.
    total_counts_col
        obs column with the total counts of a cell, instead of the model's.
    controls
        Rows of all controls of each line, sorted: they show how the file is normalised.
    means
        Whether the means of these controls are wanted.

    Attributes
    ----------
    control_means
        Mean expression [G] of all controls of each line, float64; {} if not wanted.
    report
        What was found and done, for the output; {} for an embedding.

    Raises
    ------
    DataError
        The matrix is missing, lacks genes, has a scale that cannot be converted, or holds NaN.
    """

    def __init__(
        self,
        own: OwnCells,
        rows: np.ndarray,
        model: LoadedModel,
        embed_key: str | None,
        controls: dict[str, np.ndarray],
        means: bool = False,
        fill_missing: str = "error",
        total_counts_col: str | None = None,
    ) -> None:
        self._rows = rows
        self._barcodes = barcodes(own.file, own.path)
        self.control_means: dict[str, np.ndarray] = {}
        self.report: dict[str, Any] = {}
        self._missing: Missing | None = None
        key = embed_key or model.embed_key
        if model.takes_embedding:
            self._values = _embedding(own, str(key), rows, int(model.meta["n_inputs"]))
            return
        if embed_key is None and _starts_from_x(own, key, model):
            key = None
        name, names = _source(own, key, model.genes)
        matrix = Matrix(own.file, name, own.path)
        where = f"{own.path}, {name}"
        self._missing = missing(names, model, fill_missing, where)
        wanted = [gene for gene in model.genes if gene not in set(self._missing.genes)]
        place = _places(names, wanted, own.path, name)
        depth = _depth(own, name, model, total_counts_col)
        known = trained(model)
        everyone = np.unique(np.concatenate(list(controls.values())))
        seen = everyone[np.unique(np.linspace(0, len(everyone) - 1, EVIDENCE_ROWS).astype(int))]
        some = [_checked(matrix, row, row + 1, names) for row in seen.tolist()]
        how = normalisation(
            sparse.vstack(some, format="csr"),
            place,
            model,
            known,
            None if depth is None else depth[seen],
            name,
            own.path,
        )
        column = declared(model, "scale", "total_counts_col")
        if how.by_totals and depth is None and column is not None:
            raise DataError(
                f"obs has no column {column!r}, by which this model's counts are normalised",
                where=own.path,
                fix=f"store each cell's total count over all measured genes in obs[{column!r}], or name your "
                "column with --total-counts-col",
            )
        parts = []
        summed = controls if means else {}
        sums = {line: np.zeros(len(place)) for line in summed}
        wanted_rows = np.union1d(rows, everyone) if means else rows
        for start in range(0, matrix.shape[0], matrix.chunk_rows):
            stop = min(matrix.shape[0], start + matrix.chunk_rows)
            read = _between(wanted_rows, start, stop)
            if read.size == 0:
                continue
            chosen = _checked(matrix, start, stop, names)[read - start]
            chosen = how.apply(chosen, None if depth is None else depth[read], read)[:, place]
            for line, its in summed.items():
                mine = np.searchsorted(read, _between(its, start, stop))
                sums[line] += np.asarray(chosen[mine].sum(axis=0, dtype=np.float64)).ravel()
            here = np.searchsorted(read, _between(rows, start, stop))
            parts.append(chosen[here].astype(np.float32))
        self._values = sparse.vstack(parts, format="csr")
        for line, total in sums.items():
            mean = self._missing.filled((total / len(summed[line]))[None])[0]
            self.control_means[line] = mean.astype(np.float64)
        self.report = report(how, known) | self._missing.report()
        print(f"{own.path}, {name}: {how.held.log or 'counts'} ({how.held.evidence}); {how.done}")

    def expression(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 [n, D] of the given rows of the file."""
        chosen = self._values[np.searchsorted(self._rows, rows)]
        dense = chosen if isinstance(chosen, np.ndarray) else chosen.toarray()
        return dense if self._missing is None else self._missing.filled(dense)

    def names(self, rows: np.ndarray) -> np.ndarray:
        """Return the barcodes of the given rows of the file (objects)."""
        return self._barcodes[rows]


def _checked(matrix: Matrix, start: int, stop: int, names: list[str]) -> sparse.csr_matrix:
    values = matrix.rows(start, stop)
    check_values(values, matrix.path, matrix.name, start, names)
    return values


def _between(rows: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the sorted rows in [start, stop)."""
    return rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]


def _depth(own: OwnCells, name: str, model: LoadedModel, given: str | None) -> np.ndarray | None:
    """Return the total counts of every cell of the file, where an obs column holds them."""
    chosen = given or declared(model, "scale", "total_counts_col")
    if name != "X" or chosen is None or (given is None and chosen not in columns(own.file)):
        return None
    return totals(own.file, own.path, str(chosen))


def _starts_from_x(own: OwnCells, key: str | None, model: LoadedModel) -> bool:
    """Whether the genes of a model of an obsm matrix are taken from X: only X has them."""
    if key is None or ("obsm" in own.file and key in own.file["obsm"]):
        return False
    held = set(genes(own.file, own.path))
    # Where some are missing, the error about them says more than one about obsm.
    if sum(gene in held for gene in model.genes) < SOME * len(model.genes):
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


def _source(own: OwnCells, key: str | None, wanted: list[str]) -> tuple[str, list[str]]:
    """Return the name of the matrix and the genes of its columns."""
    names = genes(own.file, own.path)
    if key is None:
        return "X", names
    keys = members(own.file, "obsm", own.path)
    if key not in keys:
        raise DataError(
            f"obsm has no matrix {key!r}, in which this model works, and X does not hold its genes",
            where=own.path,
            fix=other_names(own.path, wanted)
            or f"{did_you_mean(key, keys)} Name yours with --embed-key: the model's genes as "
            "ln(1 + target_sum * count / total), named in uns['hvg_names']",
        )
    width = Matrix(own.file, f"obsm/{key}", own.path).shape[1]
    return f"obsm/{key}", hvg_names(own.file, own.path, key, width, names)


def _places(names: list[str], wanted: list[str], path: Path, matrix: str) -> np.ndarray:
    """Return the column of every wanted gene."""
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
            f"fills at most {MOST_FILLED:.0%} of them",
        )
    return np.asarray([place[name] for name in wanted], dtype=np.int64)
