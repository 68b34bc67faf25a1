"""Our scores of one cell line, from cells that need no store."""

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
from statetx.evaluation.scores.energy_and_mmd import (
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
class LineCells:
    """Real or predicted cells of one cell line, as log1p values.

    Attributes
    ----------
    cells
        Label -> its cells [n, G], sparse or dense; may be read on access.
    control
        Control cells [m, G].
    embedded
        Label, control included -> mean in an embedding, float64 [D]; empty without an embedding.
    """

    cells: Mapping[str, Any]
    control: Any
    embedded: dict[str, np.ndarray]


class OurScores:
    """Conditions of one line that are collected one by one, and their scores.

    Parameters
    ----------
    line
        Name of the line.
    real
        Its real cells.
    controls
        Its real controls, sorted.
    described
        Perturbation -> its parts (drug, dose).
    max_cells, seed, reference
        As for `score_line.score_line`.

    Attributes
    ----------
    controls
        The real controls, against which real and predicted cells are tested.
    centre
        float64 [G], centre of the samples that are compared.
    """

    def __init__(
        self,
        line: str,
        real: LineCells,
        controls: SortedControl,
        described: Mapping[str, Label],
        max_cells: int,
        seed: int,
        reference: np.ndarray | None,
    ) -> None:
        self.line, self.controls, self._max_cells = line, controls, max_cells
        self._described = described
        self._rng = generator("standalone", seed, line)
        whole_control = Group.from_cells(real.control)
        self._profile = Profile(whole_control.mean, whole_control.noise)
        self.centre = whole_control.mean
        self._gammas = _gammas(real, len(described), self._rng)
        self._references = None if reference is None else (reference, reference)
        self._enough_controls = whole_control.n > 1
        self._conditions: list[Condition] = []
        self._tests: tuple[list[DERow], list[DERow]] = ([], [])
        self._n: dict[str, int] = {}

    def add(
        self, label: str, cells: Mapping[str, Any], known: Mapping[str, DERow | SortedCells]
    ) -> dict[str, Sample | None]:
        """Add one condition.

        Parameters
        ----------
        label
            The perturbation.
        cells
            ``real`` and ``pred``: its real cells [n, G] and predicted cells [m, G].
        known
            ``real`` and ``pred``, each optional: all these cells, sorted or already tested against
            the real controls.

        Returns
        -------
        dict
            ``real`` and ``pred``: the cells as a sample; None if the sample does not contain all.
        """
        real, predicted = cells["real"], cells["pred"]
        self._n[label] = real.shape[0]
        n = min(real.shape[0], predicted.shape[0], self._max_cells)
        if n < 2 or not self._enough_controls:
            return {"real": None, "pred": None}
        few_real = at_most(real, n, self._rng)
        few_predicted = at_most(predicted, n, self._rng)
        groups = Group.from_cells(real), Group.from_cells(predicted)
        complete = few_real.shape == real.shape and few_predicted.shape == predicted.shape
        distances, (sample_predicted, sample_real) = all_distances(
            few_predicted, few_real, self._gammas, self.centre, groups if complete else None
        )
        tests = (
            self._tested(label, few_real, known.get("real")),
            self._tested(label, few_predicted, known.get("pred")),
        )
        for rows, test in zip(self._tests, tests, strict=True):
            rows.append(test)
        described = self._described[label]
        self._conditions.append(
            Condition(
                perturbation=label,
                real=groups[0],
                pred=groups[1],
                real_delta=groups[0].mean - self._profile.mean,
                pred_delta=groups[1].mean - self._profile.mean,
                control=self._profile,
                references=self._references,
                distances=distances,
                covariance=covariance_agreement(few_predicted, few_real, tests[0].log2_fold_change),
                drug=described.drug,
                dose=float("nan") if described.dose is None else described.dose,
            )
        )
        return {
            "pred": sample_predicted if len(sample_predicted) == predicted.shape[0] else None,
            "real": sample_real if len(sample_real) == real.shape[0] else None,
        }

    def _tested(self, label: str, cells: Any, known: DERow | SortedCells | None) -> DERow:
        """Return the test of cells; use `known` if it contains no more than these cells."""
        if isinstance(known, DERow) and known.n_target <= cells.shape[0]:
            return known
        if not isinstance(known, SortedCells) or known.n_cells > cells.shape[0]:
            known = SortedCells.from_cells(cells)
        return de_row(label, known, self.controls)

    def table(self, labels: list[str], genes: list[str]) -> pd.DataFrame:
        """Return the scores of all conditions, one row per label.

        Parameters
        ----------
        labels
            Perturbations that were added.
        genes
            The G genes.
        """
        scored: dict[str, dict[Any, Any]] = {}
        if self._conditions:
            real_de, pred_de = (table_of(rows, genes) for rows in self._tests)
            table = score(self._conditions, real_de, pred_de)
            scored = {row["perturbation"]: row for row in table.to_dict("records")}
        rows = []
        for label in labels:
            described = self._described[label]
            row: dict[str, Any] = {"line": self.line, "perturbation": label, "drug": described.drug}
            row |= {"dose": described.dose, "n_cells": self._n[label]}
            if label in scored:
                row |= {str(key): value for key, value in scored[label].items()}
            else:
                row["note"] = write_note({DROPPED: "fewer than 2 cells on a side"})
            rows.append(row)
        return pd.DataFrame(rows, columns=[*IDENTITY, *COLUMNS, "note"])


def _dense(cells: Any) -> np.ndarray:
    return cells.toarray() if sparse.issparse(cells) else np.asarray(cells)


def _gammas(real: LineCells, n_labels: int, rng: np.random.Generator) -> list[float]:
    """Return kernel widths from about 500 treated and at most 500 control real cells."""
    per_label = -(-500 // n_labels)
    treated = [_dense(at_most(real.cells[label], per_label, rng)) for label in sorted(real.cells)]
    sample = np.concatenate([*treated, _dense(at_most(real.control, 500, rng))])
    return gamma_grid(median_squared_distance(sample))
