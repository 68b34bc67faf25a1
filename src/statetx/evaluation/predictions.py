"""Predicted cells of one line, checked against the store before anything is scored."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata.io import read_elem, sparse_dataset

from statetx.errors import ResultsError, did_you_mean
from statetx.evaluation.scene import Scene

AGAIN = "predict again with this store and plan"

TOO_HIGH = 15.0
"""log1p values from here on mean three million counts of one gene; cell-eval takes no such file."""


class Predictions:
    """Predicted cells in an h5ad file, read condition by condition.

    Parameters
    ----------
    path
        The file: X = predicted log1p expression, ``obs["perturbation"]``, var names = genes.

    Raises
    ------
    ResultsError
        The file cannot be read or has no perturbation column.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with h5py.File(self.path, "r") as file:
                obs = read_elem(file["obs"])
                self.genes = [str(gene) for gene in read_elem(file["var"]).index]
            self._labels = obs["perturbation"].astype(str).to_numpy(dtype=object)
        except (OSError, KeyError, ValueError) as error:
            raise ResultsError(
                f"cannot read the predictions: {error}",
                where=self.path,
                fix="the file is missing, truncated or holds no predictions: predict again",
            ) from error
        self._fallback = (
            obs["fallback"].to_numpy(dtype=bool)
            if "fallback" in obs
            else np.zeros(len(obs), dtype=bool)
        )

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Perturbation -> its rows."""
        order = np.argsort(self._labels, kind="stable")
        labels, starts = np.unique(self._labels[order].astype(str), return_index=True)
        return dict(zip(labels.tolist(), np.split(order, starts[1:]), strict=True))

    def cells(self, perturbation: str) -> np.ndarray:
        """Predicted cells of one condition, float32 [n, G].

        Raises
        ------
        ResultsError
            Values that are not finite, or negative.
        """
        rows = self.rows[perturbation]
        with h5py.File(self.path, "r") as file:
            stored: Any = file["X"]
            matrix = stored if isinstance(stored, h5py.Dataset) else sparse_dataset(stored)
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
                    fix="log1p expression is finite and at least 0: mend the model, predict again",
                )
        return cells.astype(np.float32, copy=False)

    @staticmethod
    def too_high(cells: np.ndarray) -> str | None:
        """Remark on values that no cell can have; None: there are none."""
        number = int((cells >= TOO_HIGH).sum())
        if not number:
            return None
        return f"{number} predicted values of {TOO_HIGH:g} or more, up to {cells.max():.3g}"

    def fallback(self, perturbation: str) -> float:
        """Share of a condition's cells that the model predicted by a fallback."""
        return float(self._fallback[self.rows[perturbation]].mean())

    def check(self, scene: Scene) -> None:
        """Check genes, labels and cell numbers against the line and the plan.

        Raises
        ------
        ResultsError
            They differ.
        """
        if self.genes != scene.genes:
            raise ResultsError(
                _gene_difference(self.genes, scene.genes), where=self.path, fix=AGAIN
            )
        wanted = set(scene.perturbations)
        missing, extra = sorted(wanted - set(self.rows)), sorted(set(self.rows) - wanted)
        if missing:
            raise ResultsError(
                f"no predicted cells for {missing[0]!r} ({len(missing)} of {len(wanted)} tested "
                f"conditions of {scene.line.name!r} are missing)",
                where=self.path,
                fix=f"{did_you_mean(missing[0], self.rows)} {AGAIN}",
            )
        if extra:
            raise ResultsError(
                f"cells for {extra[0]!r}, which the plan does not test in {scene.line.name!r}",
                where=self.path,
                fix=f"{did_you_mean(extra[0], wanted)} {AGAIN}",
            )
        for name in scene.perturbations:
            real, predicted = len(scene.rows(name)), len(self.rows[name])
            if real != predicted:
                raise ResultsError(
                    f"{predicted} predicted cells for {name!r}, {real} real ones are scored",
                    where=self.path,
                    fix=f"max_cells and seed of `evaluation` changed in between: {AGAIN}",
                )


def _gene_difference(got: list[str], expected: list[str]) -> str:
    missing = [gene for gene in expected if gene not in set(got)]
    if missing:
        return f"{len(missing)} of {len(expected)} genes are not predicted, first {missing[0]!r}"
    if len(got) != len(expected):
        return f"{len(got)} genes are predicted, the store has {len(expected)}"
    first = next(i for i, gene in enumerate(expected) if got[i] != gene)
    return (
        f"the genes are in another order: number {first} is {got[first]!r}, not {expected[first]!r}"
    )
