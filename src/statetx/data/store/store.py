"""The packed store: one h5ad per cell line, sorted by condition, mapped into memory by offset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from statetx.core.errors import ResultsError, did_you_mean
from statetx.core.records import verify
from statetx.data.store.layout import FORMAT, file_name
from statetx.data.store.line_store import LineStore
from statetx.shared.labels import Reading


class Store:
    """All packed lines of a data set.

    Parameters
    ----------
    directory
        Directory of the store.
    genes
        Genes of X that `LineStore.expression` gives, in this order; None: all.

    Attributes
    ----------
    manifest
        Content of ``manifest.json``: lines, genes, settings, digests of the source files.
    conditions
        One row per (line, perturbation, batch): ``line, perturbation, drug, dose, unit, batch,
        is_control, row_start, n_cells``; ``row_start`` counts inside the line's file.
    """

    def __init__(self, directory: Path, genes: list[str] | None = None) -> None:
        self.directory = directory
        try:
            self.manifest: dict[str, Any] = json.loads(
                verify(directory / "manifest.json").read_text(encoding="utf-8")
            )
            path = verify(directory / "conditions.parquet")
            if not path.is_file():  # pandas would read a directory as a table without columns
                raise OSError(f"{path.name} is not a file")
            self.conditions = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise ResultsError(
                f"this is not a packed store: {error}", where=directory, fix="run the pack stage"
            ) from error
        if self.manifest.get("format") != FORMAT:
            raise ResultsError(
                f"the store has format {self.manifest.get('format')!r}, but this version reads {FORMAT}",
                where=directory,
                fix="pack the data set again",
            )
        self._lines: dict[str, LineStore] = {}
        self._genes, self._columns = genes, None
        if genes is not None:
            self._columns = self._places(genes)

    def _places(self, genes: list[str]) -> np.ndarray:
        """Return the output column of every gene of X, -1 if it was not chosen, int64 [genes]."""
        if self.manifest["expression_key"] is not None:
            raise ResultsError(
                f"this data set is modelled in obsm {self.manifest['expression_key']!r}, whose genes "
                "were chosen outside statetx, so no others can be chosen",
                where=self.directory,
                fix="remove `expression_key` of the data set, or `genes` of the model",
            )
        known = {name: i for i, name in enumerate(self.manifest["genes"])}
        unknown = [name for name in genes if name not in known]
        if unknown or not genes or len(set(genes)) < len(genes):
            raise ResultsError(
                f"{len(unknown)} of the {len(genes)} chosen genes are not in the store"
                if unknown
                else "the list of chosen genes is empty or names a gene twice",
                where=self.directory,
                fix=did_you_mean(unknown[0], known) if unknown else "choose the genes again",
            )
        places = np.full(len(known), -1, dtype=np.int64)
        places[[known[name] for name in genes]] = np.arange(len(genes))
        return places

    @property
    def control(self) -> str:
        """The canonical control label."""
        return str(self.manifest["control_pert"])

    @property
    def reading(self) -> Reading:
        """How perturbation labels are read."""
        return Reading.from_settings(self.manifest, self.control)

    @property
    def lines(self) -> list[str]:
        """Sorted cell lines."""
        return sorted(line["name"] for line in self.manifest["lines"])

    @property
    def genes(self) -> list[str]:
        """Names of the columns of `LineStore.expression`."""
        return list(self.manifest["expression_genes"] if self._genes is None else self._genes)

    def line(self, name: str) -> LineStore:
        """Return one cell line, opened at the first call.

        Raises
        ------
        ResultsError
            The store does not contain the line.
        """
        if name not in self._lines:
            if name not in self.lines:
                raise ResultsError(
                    f"the store has no cell line {name!r}",
                    where=self.directory,
                    fix=did_you_mean(name, self.lines),
                )
            rows = self.conditions[self.conditions["line"] == name]
            path = self.directory / f"{file_name(name)}.h5ad"
            self._lines[name] = LineStore(path, name, rows, self.manifest, self._columns)
        return self._lines[name]


def open_store(directory: str | Path, genes: str | Path | None = None) -> Store:
    """Open the store that `pack` wrote.

    Parameters
    ----------
    directory
        Directory of the store.
    genes
        File with one gene name per line, ``genes/{n}.txt`` of a split. `LineStore.expression` gives
        these columns of X, in this order. None: all genes.

    Raises
    ------
    ResultsError
        The directory does not contain a store of this format, or a gene is not in the store.
    """
    chosen = None
    if genes is not None:
        try:
            chosen = verify(genes).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ResultsError(
                f"cannot read the chosen genes: {error.strerror}",
                where=genes,
                fix="run the genes stage",
            ) from error
    return Store(Path(directory), chosen)
