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
from statetx.evaluation.de import DERow, DETable, SortedControl, de_row, mean_of, table_of
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
    ranked = (
        {name: SortedControl.of(half.control) for name, half in sides.items()} if with_de else {}
    )
    ours = _Ours(line, truth, len(labels), max_cells, seed, reference)
    far = {name: EnergyFrom(_dense(half.control), ours.centre) for name, half in sides.items()}
    parts: dict[str, list[Any]] = {
        f"{name}{what}": [] for name in sides for what in ("", "_energy")
    }
    rows: dict[str, list[DERow]] = {name: [] for name in sides}
    for label in tqdm(labels, desc=f"score {line}", unit="label", disable=None, leave=False):
        cells = {name: half.cells[label] for name, half in sides.items()}
        both = cells["pred"] if shared.cells is own.cells else shared.cells[label]
        samples = ours.add(label, cells["real"], both)
        for name in sides:
            parts[name].append(mean_of(cells[name]))
            if with_de:
                rows[name].append(de_row(label, cells[name], ranked[name]))
            if with_energy:
                known = samples.get(name) if name == "real" or both is cells["pred"] else None
                parts[f"{name}_energy"].append(
                    far[name](_dense(cells[name])) if known is None else far[name].of(known)
                )
    tables: dict[str, DETable | None] = dict.fromkeys(sides)
    if with_de:
        tables = {name: table_of(rows[name], genes) for name in sides}
    energies = {name: np.array(parts[f"{name}_energy"]) for name in sides}
    embedded = _embedded(labels, sides)
    panel = cell_eval.Panel(
        labels,
        genes,
        np.array(parts["real"]),
        np.array(parts["pred"]),
        mean_of(truth.control),
        mean_of(own.control),
        tables["real"],
        tables["pred"],
        energies["real"] if with_energy else None,
        energies["pred"] if with_energy else None,
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
        control = _dense(truth.control)
        whole_control = Group.of(control)
        self._profile = Profile(whole_control.mean, whole_control.noise)
        self.centre = whole_control.mean
        few = at_most(control, max_cells, self._rng)
        self._ranked = SortedControl.of(few)
        self._gammas = _gammas(truth, few, n_labels, self._rng)
        self._references = None if reference is None else (reference, reference)
        self._enough_controls = len(few) > 1
        self._conditions: list[Condition] = []
        self._tests: tuple[list[DERow], list[DERow]] = ([], [])
        self._n: dict[str, int] = {}

    def add(self, label: str, real: Any, pred: Any) -> dict[str, Sample]:
        """Take in one condition; return both sides as samples, if all of its cells are in them."""
        self._n[label] = real.shape[0]
        n = min(real.shape[0], pred.shape[0], self._max_cells)
        if n < 2 or not self._enough_controls:
            return {}
        cells = [_dense(side) for side in (real, pred)]
        few = [at_most(side, n, self._rng) for side in cells]
        groups = [Group.of(side) for side in cells]
        distances, samples = all_distances(few[1], few[0], self._gammas, self.centre)
        for side in (0, 1):
            self._tests[side].append(de_row(label, few[side], self._ranked))
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
            name: sample
            for name, sample, side in zip(("pred", "real"), samples, cells[::-1], strict=True)
            if len(sample) == len(side)
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


def _gammas(
    truth: Half, control: np.ndarray, n_labels: int, rng: np.random.Generator
) -> list[float]:
    """Kernel widths from at most 500 treated and 500 control real cells."""
    each = -(-500 // n_labels)
    treated = [_dense(at_most(truth.cells[label], each, rng)) for label in sorted(truth.cells)]
    sample = np.concatenate([*treated, at_most(control, 500, rng)])
    return gamma_grid(median_squared_distance(sample))
