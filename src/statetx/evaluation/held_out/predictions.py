"""Predicted cells of one line, checked against store and plan before they are scored."""

from __future__ import annotations

import logging
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata.io import read_elem, sparse_dataset

from statetx.core.errors import ResultsError, did_you_mean
from statetx.core.records import verify
from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.shared.expression import impossible, largest_log1p

log = logging.getLogger(__name__)

AGAIN = "predict again with this store and plan"

WHOLE = 1e-3
"""A value is whole if it differs from an integer by at most this much (threshold of cell-eval)."""
BLOCK_ROWS, BLOCK_VALUES = 2048, 1 << 20
"""Rows of a dense matrix, and values of a sparse matrix, that are read at once."""


class Predictions:
    """Predicted cells in an h5ad file, read condition by condition.

    Parameters
    ----------
    path
        The file: X holds predicted log1p expression, ``obs["perturbation"]`` the perturbations, var
        names the genes. ``obs["cell_line"]`` (optional) names the line.

    Raises
    ------
    ResultsError
        The file cannot be read, or does not contain X or the perturbations.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with h5py.File(verify(self.path), "r") as file:
                obs = read_elem(file["obs"])
                self.genes = [str(gene) for gene in read_elem(file["var"]).index]
                shape = tuple(_matrix(file).shape)
            self._labels = obs["perturbation"].astype(str).to_numpy(dtype=object)
        except (OSError, KeyError, ValueError) as error:
            raise ResultsError(
                f"cannot read the predictions: {error}",
                where=self.path,
                fix="the file is missing, truncated or does not contain predictions: predict again",
            ) from error
        if shape != (len(obs), len(self.genes)):
            raise ResultsError(
                f"X is {shape[0]} x {shape[1]}, but the file has {len(obs)} cells and "
                f"{len(self.genes)} genes",
                where=self.path,
                fix="the file is damaged: predict again",
            )
        self._lines = (
            [str(name) for name in obs["cell_line"].unique()] if "cell_line" in obs else []
        )
        self._place: np.ndarray | None = None
        self._fallback = (
            obs["fallback"].to_numpy(dtype=bool)
            if "fallback" in obs
            else np.zeros(len(obs), dtype=bool)
        )

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Perturbation -> rows of its cells."""
        order = np.argsort(self._labels, kind="stable")
        labels, starts = np.unique(self._labels[order].astype(str), return_index=True)
        return dict(zip(labels.tolist(), np.split(order, starts[1:]), strict=True))

    def cells(self, perturbation: str) -> np.ndarray:
        """Read the predicted cells of one condition, float32 [n, G].

        Genes have the order of the file, and after `check` that of the line.

        Parameters
        ----------
        perturbation
            A perturbation of the file.

        Raises
        ------
        ResultsError
            Values are not finite, or negative.
        """
        rows = self.rows[perturbation]
        with h5py.File(self.path, "r") as file:
            matrix = _matrix(file)
            contiguous = rows[-1] - rows[0] + 1 == len(rows)
            block = matrix[rows[0] : rows[-1] + 1] if contiguous else matrix[rows]
        cells = block if isinstance(block, np.ndarray) else block.toarray()
        for wrong, what in ((~np.isfinite(cells), "not finite"), (cells < 0, "negative")):
            if wrong.any():
                row, gene = np.argwhere(wrong)[0]
                raise ResultsError(
                    f"{int(wrong.sum())} predicted values of {perturbation!r} are {what}, the "
                    f"first is {cells[row, gene]} for gene {self.genes[gene]!r}",
                    where=f"{self.path}, row {rows[row]}",
                    fix="log1p expression is finite and at least 0: fix the model, predict again",
                )
        if self._place is not None:
            cells = np.ascontiguousarray(cells[:, self._place])
        return cells.astype(np.float32, copy=False)

    @staticmethod
    def too_high(cells: np.ndarray, target_sum: float) -> str | None:
        """Return a note about values that no cell can have, or None if there are none.

        Parameters
        ----------
        cells
            [n, G], predicted log1p values.
        target_sum
            Counts per cell after normalisation.
        """
        number = int(impossible(cells, target_sum).sum())
        if not number:
            return None
        limit = largest_log1p(target_sum)
        return (
            f"{number} predicted values above ln(1 + target_sum) = {limit:.3g}, "
            f"up to {cells.max():.3g}"
        )

    def fallback(self, perturbation: str) -> float:
        """Return the share of a condition's cells that the model predicted by a fallback.

        Parameters
        ----------
        perturbation
            A perturbation of the file.
        """
        return float(self._fallback[self.rows[perturbation]].mean())

    def check(self, held_out: HeldOutLine) -> None:
        """Check cell line, genes, scale, perturbations and numbers of cells against a line.

        Genes in a different order are put into the order of the store, by name.

        Parameters
        ----------
        held_out
            The line, with the perturbations that the plan tests.

        Raises
        ------
        ResultsError
            They differ, or X holds counts.
        """
        other = [name for name in self._lines if name != held_out.line.name]
        if other:
            raise ResultsError(
                f"these are cells of {other[0]!r}, not of {held_out.line.name!r}",
                where=f"{self.path}, obs column 'cell_line'",
                fix=AGAIN,
            )
        if self.genes != held_out.genes:
            if sorted(self.genes) != sorted(held_out.genes):
                raise ResultsError(
                    _gene_difference(self.genes, held_out.genes), where=self.path, fix=AGAIN
                )
            log.info("%s: genes are put into the order of the store, by name", self.path)
            position = {gene: i for i, gene in enumerate(self.genes)}
            self._place = np.array([position[gene] for gene in held_out.genes])
        wanted = set(held_out.perturbations)
        missing, extra = sorted(wanted - set(self.rows)), sorted(set(self.rows) - wanted)
        if missing:
            raise ResultsError(
                f"no predicted cells for {missing[0]!r} ({len(missing)} of {len(wanted)} tested "
                f"conditions of {held_out.line.name!r} are missing)",
                where=self.path,
                fix=f"{did_you_mean(missing[0], self.rows)} {AGAIN}",
            )
        if extra:
            raise ResultsError(
                f"cells for {extra[0]!r}, which the plan does not test in {held_out.line.name!r}",
                where=self.path,
                fix=f"{did_you_mean(extra[0], wanted)} {AGAIN}",
            )
        for name in held_out.perturbations:
            real, predicted = len(held_out.rows(name)), len(self.rows[name])
            if real != predicted:
                raise ResultsError(
                    f"{predicted} predicted cells for {name!r}, but {real} real cells are scored",
                    where=self.path,
                    fix=f"max_cells or seed of `evaluation` has changed since then: {AGAIN}",
                )
        if self._holds_counts():
            raise ResultsError(
                "these are not log1p values: all values are whole",
                where=f"{self.path}, X",
                fix="predictions must be ln(1 + normalised counts), like the expression of the "
                "store: fix the model, predict again",
            )

    def _holds_counts(self) -> bool:
        """Return whether all values are whole and some are positive.

        Reading stops at the first block with a value that is not whole.
        """
        some = False
        with h5py.File(self.path, "r") as file:
            stored: Any = file["X"]
            values = stored if isinstance(stored, h5py.Dataset) else stored["data"]
            step = BLOCK_ROWS if values.ndim > 1 else BLOCK_VALUES
            for start in range(0, len(values), step):
                block = values[start : start + step]
                with np.errstate(invalid="ignore"):
                    if (np.abs(block - np.rint(block)) > WHOLE).any():
                        return False
                some = some or bool((block > 0).any())
        return some


def _matrix(file: h5py.File) -> Any:
    stored: Any = file["X"]
    return stored if isinstance(stored, h5py.Dataset) else sparse_dataset(stored)


def _gene_difference(got: list[str], expected: list[str]) -> str:
    differences = {
        "in the store only": sorted(set(expected) - set(got)),
        "predicted only": sorted(set(got) - set(expected)),
    }
    parts = [
        f"{len(names)} {where} ({', '.join(map(repr, names[:3]))}{', …' if len(names) > 3 else ''})"
        for where, names in differences.items()
        if names
    ]
    if not parts:
        twice = next(gene for gene, n in Counter(got).items() if n > 1)
        return f"gene {twice!r} is predicted twice"
    return f"the genes differ: {', '.join(parts)}"
