"""The cells of one packed line, mapped from its file."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from statetx.core.checksums import settle
from statetx.core.errors import DataError, ResultsError, did_you_mean
from statetx.core.records import verify
from statetx.data.store import kernels


def _mapped(file: h5py.File, name: str, path: Path) -> np.ndarray:
    """Map one contiguous dataset of an open file; an empty one is read instead."""
    dataset = file[name]
    if dataset.size == 0:
        return np.asarray(dataset[()])
    offset = dataset.id.get_offset()
    if offset is None:
        raise DataError(
            f"{name!r} is not contiguous, so it cannot be mapped",
            where=path,
            fix="another program has rewritten the file: pack the data set again",
        )
    if path.stat().st_size < offset + dataset.size * dataset.dtype.itemsize:
        raise DataError(
            f"the file ends inside {name!r}",
            where=path,
            fix="the file is truncated: pack the data set again",
        )
    mapped = np.memmap(path, mode="r", dtype=dataset.dtype, shape=dataset.shape, offset=offset)
    return np.asarray(mapped)  # a plain view, because indexing a memmap takes twice as long


def thinned(rows: np.ndarray, name: str, max_cells: int | None, seed: int) -> np.ndarray:
    """Return at most `max_cells` of `rows`, sorted, drawn without replacement.

    Parameters
    ----------
    rows
        Sorted row numbers, [n].
    name, seed
        The draw is a function of both.
    max_cells
        Most rows to return; None: all.
    """
    if max_cells is None or len(rows) <= max_cells:
        return rows
    generator = np.random.default_rng([seed, *name.encode()])
    return np.sort(generator.choice(rows, max_cells, replace=False))


class LineStore:
    """The packed cells of one cell line.

    Rows are sorted by (perturbation, batch) and randomly permuted inside. Any contiguous run of
    rows inside one (perturbation, batch) is therefore a random sample without replacement.

    Parameters
    ----------
    path, name
        The packed file, and the name of its cell line.
    conditions, manifest
        Rows of `Store.conditions` of this line, and the manifest of the store.
    columns
        Output column of each gene of X, or -1 to leave it out, int64 [genes]; None: all genes.

    Attributes
    ----------
    csr
        Row pointers int64 [cells + 1], columns [nnz] and values [nnz] of X, mapped.
    obsm
        Matrices of obsm by key, [cells, D], mapped.
    total_counts, scale
        Total counts, and factor that turns counts into expression, of each cell, float64 [cells].
    meaning
        Meaning of the values of X: `kernels.COUNTS` or `kernels.EXPRESSION`.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        conditions: pd.DataFrame,
        manifest: dict[str, Any],
        columns: np.ndarray | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.conditions = conditions
        self.manifest = manifest
        self.columns = np.empty(0, dtype=np.int64) if columns is None else columns
        try:
            with h5py.File(verify(path, background=True), "r") as file:
                shape = tuple(int(n) for n in file["X"].attrs["shape"])
                self.csr: tuple[np.ndarray, ...] = tuple(
                    _mapped(file, f"X/{part}", path) for part in ("indptr", "indices", "data")
                )
                self.obsm = {key: _mapped(file, f"obsm/{key}", path) for key in file["obsm"]}
                self.total_counts = _mapped(file, "obs/total_counts", path)
                self.scale = _mapped(file, "obs/scale", path)
                counts = bool(json.loads(file["uns/statetx"][()])["counts"])
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            settle()
            raise DataError(
                f"cannot open the packed cells: {error}",
                where=path,
                fix="the file is missing, truncated or not a packed line: pack the data set again",
            ) from error
        self.meaning = kernels.COUNTS if counts else kernels.EXPRESSION
        self.n_cells, self.n_genes = shape
        ordered = conditions.sort_values("row_start")
        self._ends = (ordered["row_start"] + ordered["n_cells"]).to_numpy()
        self._batch_of_block = ordered["batch"].to_numpy(dtype=object)
        self._numbers: dict[tuple[str, ...], np.ndarray] = {}
        # Rows are sorted by perturbation, then batch, so each of them is one run of rows.
        self._runs: dict[str, tuple[int, int]] = {}
        self._blocks: dict[tuple[str, str], tuple[int, int]] = {}
        table = ordered[["perturbation", "batch", "row_start", "n_cells"]]
        for label, batch, start, n in table.itertuples(index=False):
            self._blocks[label, batch] = (start, start + n)
            self._runs[label] = (self._runs.get(label, (start, 0))[0], start + n)

    def run(self, perturbation: str, batch: str | None = None) -> tuple[int, int]:
        """Return the rows [start, stop) of a perturbation, in all batches or in one.

        A batch without cells of the perturbation gives an empty run.

        Raises
        ------
        ResultsError
            The line has no such perturbation.
        """
        if perturbation not in self._runs:
            raise ResultsError(
                f"cell line {self.name!r} has no perturbation {perturbation!r}",
                where=self.path,
                fix=did_you_mean(perturbation, self._runs),
            )
        if batch is None:
            return self._runs[perturbation]
        return self._blocks.get((perturbation, batch), (0, 0))

    def rows(self, perturbation: str, max_cells: int | None = None, seed: int = 0) -> np.ndarray:
        """Return the sorted row numbers of one perturbation, int64 [n].

        Parameters
        ----------
        perturbation
            Label; the control label gives the control cells.
        max_cells
            Most rows to return, drawn without replacement; None: all.
        seed
            Seed of the draw, which also depends on the names of line and perturbation.

        Raises
        ------
        ResultsError
            The line has no such perturbation.
        """
        rows = np.arange(*self.run(perturbation))
        return thinned(rows, f"{self.name}\0{perturbation}", max_cells, seed)

    def batches(self, rows: np.ndarray) -> np.ndarray:
        """Return the batch label of each row, as an object array [n]."""
        return self._batch_of_block[np.searchsorted(self._ends, rows, side="right")]

    def batch_ids(self, rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        """Return the index of each row's batch in `names`, or -1 if it is not in it, int64 [n]."""
        if names not in self._numbers:
            place = {name: i for i, name in enumerate(names)}
            ids = [place.get(str(batch), -1) for batch in self._batch_of_block]
            self._numbers[names] = np.asarray(ids, dtype=np.int64)
        return self._numbers[names][np.searchsorted(self._ends, rows, side="right")]

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return the stored values of X of some rows, dense float32 [n, genes].

        The values are counts, also with ``scale: log1p`` if counts could be recovered for all cells
        of the line. Otherwise they are log1p values.
        """
        out = np.empty((len(rows), self.n_genes), dtype=np.float32)
        self._densify(rows, np.empty(0, dtype=np.int64), kernels.EXPRESSION, out)
        return out

    def _densify(self, rows: np.ndarray, columns: np.ndarray, meaning: int, out: Any) -> None:
        """Write rows of X into `out`, see `kernels.expression_rows`."""
        kernels.expression_rows(
            *self.csr,
            self.scale,
            np.ascontiguousarray(rows, dtype=np.int64),
            columns,
            meaning,
            out,
        )

    def load(self) -> None:
        """Copy the mapped cells into memory, for file systems on which mapped reads are slow."""
        self.csr = tuple(np.array(part) for part in self.csr)
        self.obsm = {key: np.array(matrix) for key, matrix in self.obsm.items()}
        self.scale = np.array(self.scale)

    @property
    def width(self) -> int:
        """Number of columns of `expression`, G."""
        key = self.manifest["expression_key"]
        if key is not None:
            return int(self.obsm[key].shape[1])
        return int(self.columns.max()) + 1 if len(self.columns) else int(self.n_genes)

    def expression(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the log1p expression of rows that models predict and scores use, float32 [n, G].

        It is the obsm matrix ``expression_key`` of the data set, or else ln(1 + scale * count) of X
        for the chosen genes of the store. The result is written into `out` if it is given.
        """
        key = self.manifest["expression_key"]
        if key is not None:
            return self.embedding(key, rows, out)
        if out is None:
            out = np.empty((len(rows), self.width), dtype=np.float32)
        self._densify(rows, self.columns, self.meaning, out)
        return out

    def embedding(self, key: str, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return rows of ``obsm[key]``, float32 [n, D], written into `out` if it is given.

        Raises
        ------
        ResultsError
            The store does not contain the matrix.
        """
        if key not in self.obsm:
            raise ResultsError(
                f"the store has no obsm matrix {key!r}",
                where=self.path,
                fix=did_you_mean(key, self.obsm) + " (list it in embed_keys of the data set)",
            )
        matrix = self.obsm[key]
        if out is None:
            out = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
        half = matrix.dtype == np.float16
        kernels.dense_rows(
            matrix.view(np.uint16) if half else matrix,
            np.ascontiguousarray(rows, dtype=np.int64),
            half,
            kernels.HALF_VALUES,
            out,
        )
        return out

    @cached_property
    def barcodes(self) -> np.ndarray:
        """Names of all cells in row order."""
        with h5py.File(self.path, "r") as file:
            return file["obs/_index"].asstr()[()]
