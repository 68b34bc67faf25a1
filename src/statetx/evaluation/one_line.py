"""Score one cell line of cells in memory: cell-eval's columns and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from tqdm import tqdm

from statetx.data.seeds import generator
from statetx.evaluation import cell_eval
from statetx.evaluation.columns import COLUMNS, DROPPED, IDENTITY, write_note
from statetx.evaluation.covariance import covariance_agreement
from statetx.evaluation.de import (
    DERow,
    DETable,
    SortedCells,
    SortedControl,
    de_row,
    mean_of,
    table_of,
)
from statetx.evaluation.distances import (
    EnergyFrom,
    Sample,
    all_distances,
    at_most,
    gamma_grid,
    median_squared_distance,
)
from statetx.evaluation.pseudobulk import Group, Profile
from statetx.evaluation.scores import Condition, score
from statetx.labels import parse


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


@dataclass(frozen=True)
class Result:
    """Scores of one cell line.

    Attributes
    ----------
    labels
        Perturbations, sorted.
    columns
        cell-eval's columns.
    scores
        Ours, one row per perturbation.
    """

    labels: list[str]
    columns: dict[str, cell_eval.Column]
    scores: pd.DataFrame


def _dense(cells: Any) -> np.ndarray:
    return cells.toarray() if sparse.issparse(cells) else np.asarray(cells)


def evaluate_halves(
    line: str,
    truth: Half,
    own: Half,
    shared: Half,
    genes: list[str],
    profile: str,
    max_cells: int,
    seed: int,
    reference: np.ndarray | None = None,
    skip: Sequence[str] = (),
) -> Result:
    """Score one cell line in memory.

    Parameters
    ----------
    line
        Its name.
    truth, own, shared
        Real side, prediction with its own controls (for cell-eval's columns), and prediction on the
        real side's scale with the real controls (for ours).
    genes
        The G genes.
    profile, max_cells, seed
        As for `evaluate_files`.
    reference
        float64 [G], mean delta of training conditions; None: nothing is known of a training.
    skip
        As for `evaluate_files`.
    """
    labels = sorted(truth.cells)
    chosen = cell_eval.columns(profile, skip)
    with_de, with_energy = cell_eval.needs_de(chosen), cell_eval.needs_energy(chosen)
    sides = {"real": truth, "pred": own}
    ours = _Ours(line, truth, len(labels), max_cells, seed, reference)
    ranked = dict.fromkeys(sides, ours.ranked)
    far = dict.fromkeys(sides, EnergyFrom(truth.control, ours.centre))
    if not _are_same(truth.control, own.control):
        ranked["pred"] = SortedControl.of(own.control)
        far["pred"] = EnergyFrom(own.control, ours.centre)
    means: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    rows: dict[str, list[DERow]] = {name: [] for name in sides}
    energies: dict[str, list[float]] = {name: [] for name in sides}
    for label in tqdm(labels, desc=f"score {line}", unit="label", disable=None, leave=False):
        cells = {name: half.cells[label] for name, half in sides.items()}
        in_order = {name: SortedCells.of(side) for name, side in cells.items()}
        known = {}
        for name in sides:
            means[name].append(in_order[name].mean)
            if with_de:
                rows[name].append(de_row(label, in_order[name], ranked[name]))
                known[name] = rows[name][-1] if ranked[name] is ours.ranked else in_order[name]
            else:
                known[name] = in_order[name]
        on_one_scale = shared.cells is own.cells
        both = cells["pred"] if on_one_scale else shared.cells[label]
        samples = ours.add(
            label, cells["real"], both, known["real"], known["pred"] if on_one_scale else None
        )
        if not on_one_scale:
            samples["pred"] = None
        if with_energy:
            for name in sides:
                sample = samples[name]
                energies[name].append(
                    far[name](cells[name]) if sample is None else far[name].of(sample)
                )
    tables: dict[str, DETable | None] = dict.fromkeys(sides)
    if with_de:
        tables = {name: table_of(rows[name], genes) for name in sides}
    embedded = _embedded(labels, sides)
    panel = cell_eval.Panel(
        labels,
        genes,
        np.array(means["real"]),
        np.array(means["pred"]),
        mean_of(truth.control),
        mean_of(own.control),
        tables["real"],
        tables["pred"],
        np.array(energies["real"]) if with_energy else None,
        np.array(energies["pred"]) if with_energy else None,
        embedded.get("real"),
        embedded.get("pred"),
    )
    return Result(labels, cell_eval.evaluate(panel, chosen), ours.table(labels, genes))


def _embedded(labels: list[str], sides: dict[str, Half]) -> dict[str, np.ndarray]:
    if not sides["real"].embedded:
        return {}
    (control,) = set(sides["real"].embedded) - set(labels)
    return {
        name: np.array([half.embedded[p] - half.embedded[control] for p in labels])
        for name, half in sides.items()
    }


def _are_same(x: Any, y: Any) -> bool:
    """Whether two sides hold the same control cells in the same order."""
    if x is y:
        return True
    if x.shape != y.shape or x.dtype != y.dtype or sparse.issparse(x) != sparse.issparse(y):
        return False
    differ = x != y
    return not (differ.nnz if sparse.issparse(differ) else differ.any())


class _Ours:
    """Collects the conditions of one line for our scores."""

    def __init__(
        self,
        line: str,
        truth: Half,
        n_labels: int,
        max_cells: int,
        seed: int,
        reference: np.ndarray | None,
    ) -> None:
        self.line, self._max_cells = line, max_cells
        self._rng = generator("standalone", seed, line)
        whole_control = Group.of(truth.control)
        self._profile = Profile(whole_control.mean, whole_control.noise)
        self.centre = whole_control.mean
        self.ranked = SortedControl.of(truth.control)
        self._gammas = _gammas(truth, n_labels, self._rng)
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
        taken = parse(label)
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
            taken = parse(label)
            row: dict[str, Any] = {"line": self.line, "perturbation": label, "drug": taken.drug}
            row |= {"dose": taken.dose, "n_cells": self._n[label]}
            if label in scored:
                row |= {str(key): value for key, value in scored[label].items()}
            else:
                row["note"] = write_note({DROPPED: "fewer than 2 cells on a side"})
            rows.append(row)
        return pd.DataFrame(rows, columns=[*IDENTITY, *COLUMNS, "note"])


def _gammas(truth: Half, n_labels: int, rng: np.random.Generator) -> list[float]:
    """Kernel widths from at most 500 treated and 500 control real cells."""
    each = -(-500 // n_labels)
    treated = [_dense(at_most(truth.cells[label], each, rng)) for label in sorted(truth.cells)]
    sample = np.concatenate([*treated, _dense(at_most(truth.control, 500, rng))])
    return gamma_grid(median_squared_distance(sample))
