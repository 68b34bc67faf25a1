"""What every model of a split is held against in one line, made once from real cells alone.

The training reference of ``pearson_delta_perturbed`` is moved along with the controls that a side
subtracts, so that they cancel there as they do for a model. Subtracted as it is, the half of the
controls that one side lacks stands on the other side with the opposite sign.

floor
    What control cells score: pseudo-predictions drawn from the controls (of the condition's
    batches), minus the mean of the controls that remain. Disjoint, so no cell is on both sides of the delta;
    and since the real side subtracts all controls, the two deltas share no noise:
    cov(q - rest, r - all) = 0. With the same controls on both sides it would be the variance of
    their mean, and doing nothing would correlate with the truth.
ceiling
    What a replicate of half the size scores: one half of the real cells as prediction of the other
    half, each with its own half of the controls. A shared control inflates agreement: a
    correlation of 0.54 between independent halves then reads 0.74 (cell-eval2's measurement).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from statetx.config import Evaluation
from statetx.data.plan import read_plan
from statetx.data.store import open_store
from statetx.errors import ResultsError
from statetx.evaluation.covariance import covariance_agreement
from statetx.evaluation.de import DERow, de_row, table_of, write_table
from statetx.evaluation.distances import EnergyFrom, all_distances
from statetx.evaluation.own_controls import OwnControls
from statetx.evaluation.pseudobulk import Controls, Group
from statetx.evaluation.ranks import SortedControl
from statetx.evaluation.real_side import Real, reference_note, write_real, write_scores
from statetx.evaluation.scene import Scene
from statetx.evaluation.scores import Condition, score
from statetx.evaluation.training_cells import (
    OWN_LINE,
    MeanDelta,
    bandwidths,
    mean_training_delta,
)
from statetx.provenance import write_json

log = logging.getLogger(__name__)


def reference(
    store_dir: str | Path,
    plan_path: str | Path,
    line: str,
    settings: Evaluation,
    out_dir: str | Path,
    genes: str | Path | None = None,
) -> None:
    """Make the reference of one test line.

    Writes ``real_de.parquet`` (differential expression against controls of the same batches),
    ``pseudobulk.parquet`` (real and control profiles, mean training delta), ``floor.csv`` and
    ``ceiling.csv`` (columns of ``scores.csv``) and ``bandwidths.json`` (kernel widths of the MMD, and
    the settings the reference was made with).

    Parameters
    ----------
    store_dir, plan_path
        Store and plan.
    line
        A line with test conditions.
    settings
        ``max_cells`` and ``seed``.
    out_dir
        Where to write.
    genes
        Genes chosen on the split, if models on it work in such; None: all.

    Raises
    ------
    ResultsError
        No such line, nothing tested in it, or a single control cell.
    """
    store, plan, out = open_store(store_dir, genes), read_plan(plan_path), Path(out_dir)
    scene = Scene.of(store, plan, line, settings)
    if len(scene.all_control_rows) < 2:
        raise ResultsError(
            f"cell line {line!r} has one control cell: no noise of a control can be known",
            where=store_dir,
            fix="take the line out of the test set",
        )
    if len(scene.all_control_rows) > settings.max_cells:
        log.warning(
            "cell line %s: tests and distances compare with %d of its %d controls (max_cells)",
            line,
            len(scene.control_rows),
            len(scene.all_control_rows),
        )
    widths = bandwidths(store, plan, line, settings.seed)
    training = mean_training_delta(store, plan, line, settings)
    own = OwnControls(scene)
    real, rows = _real_side(scene, own)
    write_table(table_of(list(rows.values()), scene.genes), out / "real_de.parquet")
    write_real(real, training, out / "pseudobulk.parquet")
    write_json(
        out / "bandwidths.json",
        {
            "space": store.manifest["expression_key"] or "X",
            "median_squared_distance": widths.median,
            "gammas": widths.gammas,
            "n_cells": widths.n_cells,
            "taken_from": widths.taken_from,
            "n_controls": len(scene.all_control_rows),
            "n_controls_compared": len(scene.control_rows),
            "max_cells": settings.max_cells,
            "seed": settings.seed,
        },
    )
    floor = _floor(scene, own, real, rows, training, widths.gammas)
    ceiling = _ceiling(scene, real, training, widths.gammas)
    write_scores(scene, real, floor, "fewer than 4 control cells", out / "floor.csv")
    write_scores(scene, real, ceiling, "fewer than 4 real or control cells", out / "ceiling.csv")


def _real_side(scene: Scene, own: OwnControls) -> tuple[dict[str, Real], dict[str, DERow]]:
    energy_from = EnergyFrom(scene.control_cells)
    real, rows = {}, {}
    for name in scene.perturbations:
        here = scene.rows(name)
        cells, batches = scene.line.expression(here), scene.batches(here)
        group = Group.of(cells)
        real[name] = Real(
            group,
            scene.controls.delta(group.mean),
            scene.controls.matched(batches),
            energy_from(cells),
        )
        rows[name] = de_row(name, cells, own.of(batches))
    return real, rows


def _moved(
    training: MeanDelta, scene: Scene, controls: Controls, mean: np.ndarray
) -> np.ndarray | None:
    """Training reference [G] of a side that subtracts the control profile `mean` [G].

    That of other lines does not hold this line's controls: there is nothing to cancel.
    """
    if training.values is None or training.taken_from != OWN_LINE:
        return training.values
    return controls.project(training.values + scene.controls.whole.mean - mean)


def _floor(
    scene: Scene,
    own: OwnControls,
    real: dict[str, Real],
    rows: dict[str, DERow],
    training: MeanDelta,
    gammas: list[float],
) -> pd.DataFrame:
    conditions, tests = [], []
    largest = len(scene.all_control_rows) // 2
    names = [name for name in real if real[name].cells.n >= 2] if largest >= 2 else []
    for name in names:
        batches = scene.batches(scene.rows(name))
        drawn = scene.draw_controls(batches, min(len(batches), largest), f"floor:{name}")
        cells = scene.line.expression(drawn)
        pseudo = Group.of(cells)
        rest = scene.controls.whole.without(pseudo)
        truth = scene.cells(name)
        distances, _ = all_distances(cells, truth, gammas)
        moved = _moved(training, scene, scene.controls, rest.mean)
        conditions.append(
            Condition(
                name,
                real[name].cells,
                pseudo,
                real[name].delta,
                scene.controls.between(pseudo.mean, rest.mean),
                real[name].control,
                None if training.values is None or moved is None else (training.values, moved),
                distances,
                covariance_agreement(cells, truth, rows[name].log2_fold_change),
                *scene.identity(name),
                reference_note(training),
                pseudo.noise,
            )
        )
        left = np.setdiff1d(own.rows(batches), drawn)
        if not len(left):
            left = np.setdiff1d(scene.all_control_rows, drawn)
        tests.append(de_row(name, cells, SortedControl.of(scene.line.expression(left))))
    kept = table_of([rows[name] for name in names], scene.genes)
    return score(conditions, kept, table_of(tests, scene.genes), scene.excluded)


def _ceiling(
    scene: Scene, real: dict[str, Real], training: MeanDelta, gammas: list[float]
) -> pd.DataFrame:
    names = [name for name in real if real[name].cells.n >= 4]
    if len(scene.all_control_rows) < 4:
        names = []
    conditions: list[Condition] = []
    tests: tuple[list[DERow], list[DERow]] = ([], [])
    halves = scene.halves(scene.all_control_rows, "control") if names else ()
    controls = [scene.sum_controls(half, scene.controls.known) for half in halves]
    own = [OwnControls(scene, half) for half in halves]
    moved = [_moved(training, scene, half, half.whole.mean) for half in controls]
    for name in names:
        batches = scene.batches(scene.rows(name))
        sides = scene.halves(scene.rows(name), name)
        cells = [scene.line.expression(rows) for rows in sides]
        groups = [Group.of(half) for half in cells]
        distances, _ = all_distances(cells[1], cells[0], gammas)
        for side in (0, 1):
            tests[side].append(de_row(name, cells[side], own[side].of(batches)))
        conditions.append(
            Condition(
                name,
                groups[0],
                groups[1],
                controls[0].delta(groups[0].mean),
                controls[1].delta(groups[1].mean),
                controls[0].matched(scene.batches(sides[0])),
                None if moved[0] is None or moved[1] is None else (moved[0], moved[1]),
                distances,
                covariance_agreement(cells[1], cells[0], tests[0][-1].log2_fold_change),
                *scene.identity(name),
                reference_note(training),
                groups[1].noise,
            )
        )
    return score(
        conditions, table_of(tests[0], scene.genes), table_of(tests[1], scene.genes), scene.excluded
    )
