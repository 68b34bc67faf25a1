"""Our scores of one cell line of cells in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.numerics.sorted_cells import SortedCells
from statetx.evaluation.scores.columns import COLUMNS, DROPPED, IDENTITY, write_note
from statetx.evaluation.scores.conditions import Condition, score
from statetx.evaluation.scores.covariance import covariance_agreement
from statetx.evaluation.scores.differential_expression import DERow, de_row, table_of
from statetx.evaluation.scores.distances import (
    Sample,
    all_distances,
    at_most,
    gamma_grid,
    median_squared_distance,
)
from statetx.evaluation.scores.pseudobulk import Group, Profile
from statetx.shared.labels import Label
from statetx.shared.seeds import generator


@dataclass(frozen=True)
class Half:
    """One side of one cell line, on the log1p scale.

    Attributes
    ----------
    cells
        Label -> its cells, sparse or dense; may be made when asked for.
    control
        Control cells.
    embedded
        Label, control included -> mean in an embedding.
    """

    cells: Mapping[str, Any]
    control: Any
    embedded: dict[str, np.ndarray]


class OurScores:
    """Collects the conditions of one line, one by one.

    Parameters
    ----------
    line
        Its name.
    truth
        The real side.
    ranked
        Its controls, sorted.
    known
        Its perturbations, taken apart.
    max_cells, seed, reference
        As for `one_line.evaluate_halves`.

    Attributes
    ----------
    ranked
        The real controls, which both sides are tested against.
    centre
        float64 [G], around which distances are taken.
    """

    def __init__(
        self,
        line: str,
        truth: Half,
        ranked: SortedControl,
        known: Mapping[str, Label],
        max_cells: int,
        seed: int,
        reference: np.ndarray | None,
    ) -> None:
        self.line, self.ranked, self._max_cells = line, ranked, max_cells
        self._known = known
        self._rng = generator("standalone", seed, line)
        whole_control = Group.of(truth.control)
        self._profile = Profile(whole_control.mean, whole_control.noise)
        self.centre = whole_control.mean
        self._gammas = _gammas(truth, len(known), self._rng)
        self._references = None if reference is None else (reference, reference)
        self._enough_controls = whole_control.n > 1
        self._conditions: list[Condition] = []
        self._tests: tuple[list[DERow], list[DERow]] = ([], [])
        self._n: dict[str, int] = {}

    def add(
        self,
        label: str,
        real: Any,
        pred: Any,
        real_known: DERow | SortedCells,
        pred_known: DERow | SortedCells | None,
    ) -> dict[str, Sample | None]:
        """Take in one condition.

        Parameters
        ----------
        label, real, pred
            Its cells on both sides.
        real_known, pred_known
            All cells of a side, tested against the real controls or ready to be.

        Returns
        -------
        Both sides as samples; None: not all of the cells are in it.
        """
        self._n[label] = real.shape[0]
        n = min(real.shape[0], pred.shape[0], self._max_cells)
        if n < 2 or not self._enough_controls:
            return {"real": None, "pred": None}
        cells = real, pred
        few = [at_most(side, n, self._rng) for side in cells]
        groups = [Group.of(side) for side in cells]
        whole = all(x.shape == y.shape for x, y in zip(few, cells, strict=True))
        distances, samples = all_distances(
            few[1], few[0], self._gammas, self.centre, groups if whole else None
        )
        for tests, chosen, known in zip(self._tests, few, (real_known, pred_known), strict=True):
            if known is None or chosen.shape[0] < (
                known.n_target if isinstance(known, DERow) else known.n_cells
            ):
                known = SortedCells.of(chosen)
            tests.append(known if isinstance(known, DERow) else de_row(label, known, self.ranked))
        taken = self._known[label]
        self._conditions.append(
            Condition(
                label,
                groups[0],
                groups[1],
                groups[0].mean - self._profile.mean,
                groups[1].mean - self._profile.mean,
                self._profile,
                self._references,
                distances,
                covariance_agreement(few[1], few[0], self._tests[0][-1].log2_fold_change),
                taken.drug,
                float("nan") if taken.dose is None else taken.dose,
            )
        )
        return {
            name: sample if len(sample) == side.shape[0] else None
            for name, sample, side in zip(("pred", "real"), samples, cells[::-1], strict=True)
        }

    def table(self, labels: list[str], genes: list[str]) -> pd.DataFrame:
        """Scores of all conditions, one row per label."""
        scored: dict[str, dict[Any, Any]] = {}
        if self._conditions:
            real_de, pred_de = (table_of(rows, genes) for rows in self._tests)
            table = score(self._conditions, real_de, pred_de)
            scored = {row["perturbation"]: row for row in table.to_dict("records")}
        rows = []
        for label in labels:
            taken = self._known[label]
            row: dict[str, Any] = {"line": self.line, "perturbation": label, "drug": taken.drug}
            row |= {"dose": taken.dose, "n_cells": self._n[label]}
            if label in scored:
                row |= {str(key): value for key, value in scored[label].items()}
            else:
                row["note"] = write_note({DROPPED: "fewer than 2 cells on a side"})
            rows.append(row)
        return pd.DataFrame(rows, columns=[*IDENTITY, *COLUMNS, "note"])


def _dense(cells: Any) -> np.ndarray:
    return cells.toarray() if sparse.issparse(cells) else np.asarray(cells)


def _gammas(truth: Half, n_labels: int, rng: np.random.Generator) -> list[float]:
    """Kernel widths from at most 500 treated and 500 control real cells."""
    each = -(-500 // n_labels)
    treated = [_dense(at_most(truth.cells[label], each, rng)) for label in sorted(truth.cells)]
    sample = np.concatenate([*treated, _dense(at_most(truth.control, 500, rng))])
    return gamma_grid(median_squared_distance(sample))
