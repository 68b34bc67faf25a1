"""The packed store: one h5ad per cell line, sorted by condition, mapped into memory by offset."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from statetx.data.layout import FORMAT, file_name
from statetx.errors import DataError, ResultsError, did_you_mean

_PIECE = 256
"""Rows densified at a time."""


def _mapped(file: h5py.File, name: str, path: Path) -> np.ndarray:
    """Map one contiguous dataset of an open file (an empty one has no place to map)."""
    dataset = file[name]
    if dataset.size == 0:
        return np.asarray(dataset[()])
    offset = dataset.id.get_offset()
    if offset is None:
        raise DataError(
            f"{name!r} is not contiguous, so it cannot be mapped",
            where=path,
            fix="another program rewrote the file: pack it again",
        )
    if path.stat().st_size < offset + dataset.size * dataset.dtype.itemsize:
        raise DataError(
            f"the file ends inside {name!r}", where=path, fix="it is truncated: pack it again"
        )
    mapped = np.memmap(path, mode="r", dtype=dataset.dtype, shape=dataset.shape, offset=offset)
    return np.asarray(mapped)  # a plain view: indexing the memmap subclass costs twice as much


class LineStore:
    """The packed cells of one cell line.

    Rows are sorted by (perturbation, batch) and randomly permuted inside, so that any contiguous
    run of rows inside one (perturbation, batch) is a random sample without replacement.
    """

    def __init__(
        self, path: Path, name: str, conditions: pd.DataFrame, manifest: dict[str, Any]
    ) -> None:
        self.path = path
        self.name = name
        self.conditions = conditions
        self.manifest = manifest
        try:
            with h5py.File(path, "r") as file:
                shape = tuple(int(n) for n in file["X"].attrs["shape"])
                self._csr = tuple(
                    _mapped(file, f"X/{part}", path) for part in ("indptr", "indices", "data")
                )
                self._obsm = {key: _mapped(file, f"obsm/{key}", path) for key in file["obsm"]}
                self.total_counts = np.asarray(file["obs/total_counts"][()], dtype=np.float64)
        except (OSError, KeyError) as error:
            raise DataError(
                f"cannot open the packed cells: {error}",
                where=path,
                fix="the file is missing, truncated or no store: pack the data set again",
            ) from error
        self.n_cells, self.n_genes = shape
        ordered = conditions.sort_values("row_start")
        self._ends = (ordered["row_start"] + ordered["n_cells"]).to_numpy()
        self._batch_of_block = ordered["batch"].to_numpy(dtype=object)
        # Rows are sorted by perturbation, then batch: each is one run of rows.
        self._runs: dict[str, tuple[int, int]] = {}
        self._blocks: dict[tuple[str, str], tuple[int, int]] = {}
        columns = ("perturbation", "batch", "row_start", "n_cells")
        for label, batch, start, n in ordered[list(columns)].itertuples(index=False):
            self._blocks[label, batch] = (start, start + n)
            self._runs[label] = (self._runs.get(label, (start, 0))[0], start + n)

    def run(self, perturbation: str, batch: str | None = None) -> tuple[int, int]:
        """Return the rows [start, stop) of a perturbation, in all batches or in one.

        A batch without cells of it gives an empty run.

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
        """Return the sorted row numbers of one perturbation (int64).

        Parameters
        ----------
        perturbation
            Label; the control label gives the control cells.
        max_cells
            Keep at most so many, drawn without replacement from `seed` and the condition's name.
        seed
            Seed of that draw.

        Raises
        ------
        ResultsError
            The line has no such perturbation.
        """
        rows = np.arange(*self.run(perturbation))
        if max_cells is not None and len(rows) > max_cells:
            name = f"{self.name}\0{perturbation}".encode()
            generator = np.random.default_rng([seed, *name])
            rows = np.sort(generator.choice(rows, max_cells, replace=False))
        return rows

    def batches(self, rows: np.ndarray) -> np.ndarray:
        """Return the batch label of each row."""
        return self._batch_of_block[np.searchsorted(self._ends, rows, side="right")]

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Return X of the rows as stored, dense float32 [n, genes]."""
        out = np.zeros((len(rows), self.n_genes), dtype=np.float32)
        flat = out.reshape(-1)
        rows = np.asarray(rows, dtype=np.int64)
        # The index arrays of one piece stay in the processor's cache.
        for first in range(0, len(rows), _PIECE):
            place, values = self._values(rows[first : first + _PIECE])
            place += first * self.n_genes
            flat[place] = values
        return out

    def _values(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the non-zero values of the rows and their places in the flat dense matrix."""
        indptr, indices, data = self._csr
        starts = indptr[rows]
        lengths = indptr[rows + 1] - starts
        ends = np.cumsum(lengths)
        at = np.arange(ends[-1] if len(ends) else 0)
        at += np.repeat(starts - ends + lengths, lengths)
        place = np.repeat(np.arange(len(rows)) * self.n_genes, lengths)
        place += indices[at]
        return place, data[at]

    def expression(self, rows: np.ndarray) -> np.ndarray:
        """Return the log1p expression that models predict and scores are computed in.

        float32 [n, G]: the obsm matrix that the data set declares as ``expression_key``, or else
        ln(1 + target_sum * count / total) of X.
        """
        key = self.manifest["expression_key"]
        if key is not None:
            return self.embedding(key, rows)
        if self.manifest["scale"] == "log1p":
            return self.counts(rows)
        out = np.zeros((len(rows), self.n_genes), dtype=np.float32)
        flat = out.reshape(-1)
        rows = np.asarray(rows, dtype=np.int64)
        factor = self.manifest["target_sum"] / np.maximum(self.total_counts, 1e-12)
        for first in range(0, len(rows), _PIECE):
            piece = rows[first : first + _PIECE]
            place, values = self._values(piece)
            scaled = values * factor[piece][place // self.n_genes]
            place += first * self.n_genes
            flat[place] = np.log1p(scaled)  # of the non-zero values only: ln(1 + 0) = 0
        return out

    def embedding(self, key: str, rows: np.ndarray) -> np.ndarray:
        """Return the rows of ``obsm[key]``, float32 [n, D]."""
        if key not in self._obsm:
            raise ResultsError(
                f"the store has no obsm matrix {key!r}",
                where=self.path,
                fix=did_you_mean(key, self._obsm) + " (list it in the data set's embed_keys)",
            )
        return np.asarray(self._obsm[key][rows], dtype=np.float32)

    @cached_property
    def barcodes(self) -> np.ndarray:
        """Cell names of all rows, in row order."""
        with h5py.File(self.path, "r") as file:
            return file["obs/_index"].asstr()[()]


class Store:
    """All packed lines of a data set.

    Attributes
    ----------
    manifest
        What was packed, from which files, how (``manifest.json``).
    conditions
        One row per (line, perturbation, batch): ``line, perturbation, drug, dose, unit, batch,
        is_control, row_start, n_cells``; ``row_start`` counts inside the line's file.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self.manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
            self.conditions = pd.read_parquet(directory / "conditions.parquet")
        except (OSError, ValueError) as error:
            raise ResultsError(
                f"this is no packed store: {error}", where=directory, fix="run the pack stage"
            ) from error
        if self.manifest.get("format") != FORMAT:
            raise ResultsError(
                f"store format {self.manifest.get('format')!r}, this version reads {FORMAT}",
                where=directory,
                fix="pack the data set again",
            )
        self._lines: dict[str, LineStore] = {}

    @property
    def control(self) -> str:
        """The canonical control label."""
        return str(self.manifest["control_pert"])

    @property
    def lines(self) -> list[str]:
        """Cell lines, sorted."""
        return sorted(line["name"] for line in self.manifest["lines"])

    @property
    def genes(self) -> list[str]:
        """Names of the columns of `LineStore.expression`."""
        return list(self.manifest["expression_genes"])

    def line(self, name: str) -> LineStore:
        """Open one cell line (once).

        Raises
        ------
        ResultsError
            There is no such line.
        """
        if name not in self._lines:
            if name not in self.lines:
                raise ResultsError(
                    f"no cell line {name!r} in the store",
                    where=self.directory,
                    fix=did_you_mean(name, self.lines),
                )
            rows = self.conditions[self.conditions["line"] == name]
            path = self.directory / f"{file_name(name)}.h5ad"
            self._lines[name] = LineStore(path, name, rows, self.manifest)
        return self._lines[name]


def open_store(directory: str | Path) -> Store:
    """Open the store that `pack` wrote.

    Raises
    ------
    ResultsError
        The directory holds no store of this format.
    """
    return Store(Path(directory))
