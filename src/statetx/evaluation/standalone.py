"""Score anybody's predictions: two h5ad files, no store, no plan."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from statetx.data.seeds import generator
from statetx.errors import ConfigError, DataError, did_you_mean
from statetx.evaluation import cell_eval
from statetx.evaluation.columns import COLUMNS, DROPPED, IDENTITY, write_note
from statetx.evaluation.covariance import covariance_agreement
from statetx.evaluation.de import DERow, SortedControl, de_row, mean_of, table_of
from statetx.evaluation.distances import (
    EnergyFrom,
    all_distances,
    at_most,
    gamma_grid,
    median_squared_distance,
)
from statetx.evaluation.pseudobulk import Group, Profile
from statetx.evaluation.scores import Condition, score
from statetx.evaluation.side_file import Scale, Side, log_normalised, median_total, read_side
from statetx.evaluation.tables import write_aggregate, write_results
from statetx.labels import controls as control_labels
from statetx.labels import parse
from statetx.provenance import whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Half:
    """One side of one cell line, on the log1p scale: cells of every label."""

    cells: dict[str, Any]
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


def evaluate_files(
    pred: str | Path,
    real: str | Path,
    pert_col: str,
    control_pert: str | Sequence[str],
    celltype_col: str | None = None,
    embed_key: str | None = None,
    *,
    out: str | Path,
    profile: str = "full",
    scale: Scale = "log1p",
    max_cells: int = 1500,
    seed: int = 0,
) -> dict[str, Result]:
    """Score predicted against real cells, cell line by cell line.

    Writes ``results.csv``, ``agg_results.csv`` (cell-eval's numbers: each side minus its own
    control, or the real one where the prediction holds none) and ``scores.csv`` (ours: the real
    control on both sides, equal cell numbers for tests and distances) into `out`, with
    `celltype_col` into ``out/<line>/`` ("/" becomes "-"). Nothing is written unless all lines can
    be scored.

    Parameters
    ----------
    pred, real
        h5ad files with equal genes in equal order.
    pert_col
        obs column with the perturbation label.
    control_pert
        Control label; of several, the others are aliases of the first.
    celltype_col
        obs column with the cell line; None: one line.
    embed_key
        obsm matrix for cell-eval's discrimination l2 and cosine.
    out
        Directory.
    profile
        full, de, anndata, minimal, vcc or pds.
    scale
        What both X hold: ``log1p``, or ``counts`` (normalised here to the median total; declared
        and checked, never guessed).
    max_cells, seed
        Largest number of cells per condition for our tests and distances, and the seed of the draw.

    Returns
    -------
    Cell line -> scores (the line is ``all`` without `celltype_col`).

    Raises
    ------
    DataError
        A file is not what was declared, or the two do not fit.
    ConfigError
        Unknown profile or scale.
    """
    cell_eval.columns(profile)
    if scale not in ("log1p", "counts"):
        raise ConfigError(f"no scale {scale!r}", fix=did_you_mean(scale, ["log1p", "counts"]))
    truth_side, pred_side = (
        read_side(path, pert_col, control_pert, celltype_col, embed_key, scale)
        for path in (real, pred)
    )
    control = control_labels(control_pert)[0]
    _check_fit(truth_side, pred_side)
    results, homes = {}, {}
    for line in sorted(set(truth_side.lines)):
        homes[line] = Path(out) / line.replace("/", "-") if celltype_col else Path(out)
        truth, own, shared = _halves(truth_side, pred_side, line, control, scale)
        results[line] = evaluate_halves(
            line, truth, own, shared, truth_side.genes, profile, max_cells, seed
        )
    if len(set(homes.values())) < len(homes):
        raise DataError(
            "two cell lines differ only by '/' and '-': both would be written to one directory",
            fix="rename one of them",
        )
    for line, result in results.items():
        write_results(result.labels, result.columns, homes[line] / "results.csv")
        write_aggregate(result.columns, homes[line] / "agg_results.csv")
        with whole(homes[line] / "scores.csv") as part:
            result.scores.to_csv(part, index=False)
    return results


def _check_fit(real: Side, pred: Side) -> None:
    if real.genes != pred.genes:
        missing = sorted(set(real.genes) ^ set(pred.genes))
        raise DataError(
            f"{len(missing)} genes are on one side only, such as {missing[0]!r}"
            if missing
            else "the genes are the same but in another order",
            where=f"{pred.path} against {real.path}",
            fix="bring the prediction to the genes of the real cells, in their order",
        )
    differ = sorted(set(real.lines) ^ set(pred.lines))
    if differ:
        side = real if differ[0] in set(pred.lines) else pred
        raise DataError(
            f"cell line {differ[0]!r} is on one side only",
            where=side.path,
            fix=did_you_mean(differ[0], sorted(set(side.lines))),
        )


def _halves(
    real: Side, pred: Side, line: str, control: str, scale: Scale
) -> tuple[Half, Half, Half]:
    """Real side, prediction as cell-eval sees it, and prediction on the real side's scale."""
    rows = [side.of(line) for side in (real, pred)]
    labels = [side.labels[own] for side, own in zip((real, pred), rows, strict=True)]
    if control not in labels[0]:
        raise DataError(
            f"no control cells {control!r} in cell line {line!r}",
            where=real.path,
            fix=did_you_mean(control, sorted(set(labels[0]))),
        )
    differ = sorted((set(labels[0]) ^ set(labels[1])) - {control})
    if differ or not set(labels[0]) - {control}:
        name = differ[0] if differ else control
        side = real if differ and differ[0] in set(labels[1]) else pred
        raise DataError(
            f"perturbation {name!r} is on one side only (cell line {line!r})"
            if differ
            else f"cell line {line!r} holds nothing but controls",
            where=side.path,
            fix=did_you_mean(name, sorted(set(side.labels[side.of(line)]))),
        )
    raw = [side.matrix[own] for side, own in zip((real, pred), rows, strict=True)]
    values, rescaled = raw, raw[1]
    if scale == "counts":
        targets = [median_total(matrix) for matrix in raw]
        values = [log_normalised(m, target) for m, target in zip(raw, targets, strict=True)]
        rescaled = values[1]
        if targets[0] != targets[1]:
            log.warning(
                "cell line %s: median counts per cell differ (%g real, %g predicted); as in "
                "cell-eval each side of results.csv has its own, scores.csv takes the real one",
                line,
                *targets,
            )
            rescaled = log_normalised(raw[1], targets[0])
    embedded = [
        {} if side.embedding is None else _by_label(side.embedding[own], names, None)
        for side, own, names in zip((real, pred), rows, labels, strict=True)
    ]
    truth = Half(
        _by_label(values[0], labels[0], control), values[0][labels[0] == control], embedded[0]
    )
    own_control = values[1][labels[1] == control]
    if control not in labels[1]:
        log.warning("cell line %s: the prediction has no controls, the real ones are used", line)
        own_control, embedded[1][control] = truth.control, embedded[0].get(control, np.empty(0))
    return (
        truth,
        Half(_by_label(values[1], labels[1], control), own_control, embedded[1]),
        Half(_by_label(rescaled, labels[1], control), truth.control, {}),
    )


def _by_label(matrix: Any, labels: np.ndarray, without: str | None) -> dict[str, Any]:
    return {str(name): matrix[labels == name] for name in sorted(set(labels)) if name != without}


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
    """
    labels = sorted(truth.cells)
    with_de, with_energy = cell_eval.needs_de(profile), cell_eval.needs_energy(profile)
    parts: dict[str, Any] = {}
    for name, half in (("real", truth), ("pred", own)):
        parts[name] = np.array([mean_of(half.cells[label]) for label in labels])
        parts[f"{name}_control"] = mean_of(half.control)
        if with_de:
            ranked = SortedControl.of(half.control)
            rows = [de_row(label, half.cells[label], ranked) for label in labels]
            parts[f"{name}_de"] = table_of(rows, genes)
        if with_energy:
            energy_from = EnergyFrom(_dense(half.control))
            parts[f"{name}_energy"] = np.array(
                [energy_from(_dense(half.cells[label])) for label in labels]
            )
    if truth.embedded:
        control = next(iter(set(truth.embedded) - set(labels)))
        for name, half in (("real", truth), ("pred", own)):
            means = {label: cells.mean(axis=0) for label, cells in half.embedded.items()}
            parts[f"{name}_embedded"] = np.array([means[p] - means[control] for p in labels])
    columns = cell_eval.evaluate(cell_eval.Panel(labels, genes, **parts), profile)
    ours = _ours(line, labels, truth, shared, genes, max_cells, seed, reference)
    return Result(labels, columns, ours)


def _ours(
    line: str,
    labels: list[str],
    truth: Half,
    shared: Half,
    genes: list[str],
    max_cells: int,
    seed: int,
    reference: np.ndarray | None,
) -> pd.DataFrame:
    rng = generator("standalone", seed, line)
    control = at_most(_dense(truth.control), max_cells, rng)
    whole_control = Group.of(_dense(truth.control))
    profile = Profile(whole_control.mean, whole_control.noise)
    gammas = _gammas(truth, control, rng)
    ranked = SortedControl.of(control)
    conditions: list[Condition] = []
    tests: tuple[list[DERow], list[DERow]] = ([], [])
    for label in labels:
        real, pred = _dense(truth.cells[label]), _dense(shared.cells[label])
        n = min(len(real), len(pred), max_cells)
        if n < 2 or len(control) < 2:
            continue
        few = [at_most(cells, n, rng) for cells in (real, pred)]
        distances = all_distances(few[1], few[0], gammas)
        groups = [Group.of(cells) for cells in (real, pred)]
        for side in (0, 1):
            tests[side].append(de_row(label, few[side], ranked))
        taken = parse(label)
        conditions.append(
            Condition(
                label,
                groups[0],
                groups[1],
                groups[0].mean - profile.mean,
                groups[1].mean - profile.mean,
                profile,
                None if reference is None else (reference, reference),
                distances,
                covariance=covariance_agreement(few[1], few[0], tests[0][-1].log2_fold_change),
                drug=taken.drug,
                dose=float("nan") if taken.dose is None else taken.dose,
            )
        )
    real_de, pred_de = (table_of(rows, genes) for rows in tests)
    table = score(conditions, real_de, pred_de)
    scored = {row["perturbation"]: row for row in table.to_dict("records")}
    rows = []
    for label in labels:
        taken = parse(label)
        row: dict[str, Any] = {"line": line, "perturbation": label, "drug": taken.drug}
        row |= {"dose": taken.dose, "n_cells": truth.cells[label].shape[0]}
        if label in scored:
            row |= {str(key): value for key, value in scored[label].items()}
        else:
            row["note"] = write_note({DROPPED: "fewer than 2 cells on a side"})
        rows.append(row)
    return pd.DataFrame(rows, columns=[*IDENTITY, *COLUMNS, "note"])


def _gammas(truth: Half, control: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Kernel widths from at most 500 treated and 500 control real cells."""
    each = -(-500 // len(truth.cells))
    treated = [_dense(at_most(cells, each, rng)) for cells in truth.cells.values()]
    return gamma_grid(
        median_squared_distance(np.concatenate([*treated, at_most(control, 500, rng)]))
    )
