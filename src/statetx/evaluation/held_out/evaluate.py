"""Score predictions: cell-eval's columns and ours, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from statetx.config import Evaluation
from statetx.core.errors import ResultsError
from statetx.data.store.plan import read_plan
from statetx.data.store.store import open_store
from statetx.evaluation.cell_eval import columns as cell_eval
from statetx.evaluation.cell_eval.tables import write_aggregate, write_results
from statetx.evaluation.held_out.batch_controls import OwnControls
from statetx.evaluation.held_out.held_out_line import Scene
from statetx.evaluation.held_out.predictions import Predictions
from statetx.evaluation.held_out.reference_files import (
    Reference,
    read_reference,
    reference_note,
    write_scores,
)
from statetx.evaluation.numerics.csr_cells import compact
from statetx.evaluation.numerics.sorted_cells import SortedCells, mean_of
from statetx.evaluation.scores.columns import FALLBACK, IMPOSSIBLE
from statetx.evaluation.scores.conditions import Condition, score
from statetx.evaluation.scores.covariance import covariance_agreement
from statetx.evaluation.scores.differential_expression import DERow, de_row, table_of, write_table
from statetx.evaluation.scores.distances import EnergyFrom, all_distances
from statetx.evaluation.scores.pseudobulk import Group


def evaluate_run(
    store_dir: str | Path,
    plan_path: str | Path,
    line: str,
    predictions: str | Path,
    reference_dir: str | Path,
    settings: Evaluation,
    out_dir: str | Path,
    genes: str | Path | None = None,
) -> None:
    """Score one line of one run, condition by condition.

    Writes ``results.csv`` and ``agg_results.csv`` (cell-eval's columns; the real controls serve
    both sides, since predictions hold none), ``scores.csv`` (ours) and ``de.parquet`` (predicted
    differential expression against real controls of the batches in which the real cells lie; that
    of ``results.csv`` is against all controls of the line, on both sides).

    Parameters
    ----------
    store_dir, plan_path
        Store and plan.
    line
        A line with test conditions.
    predictions
        h5ad of predicted cells.
    reference_dir
        What `reference` wrote for this line.
    settings
        ``max_cells`` and ``seed``, the same as for the reference, and ``profile``.
    out_dir
        Where to write.
    genes
        Genes chosen on the split, if models on it work in such; None: all.

    Raises
    ------
    ResultsError
        Predictions or reference do not fit store and plan.
    """
    out = Path(out_dir)
    scene = Scene.of(open_store(store_dir, genes), read_plan(plan_path), line, settings)
    predicted, reference = Predictions(predictions), read_reference(reference_dir)
    predicted.check(scene)
    _check_reference(reference, scene)
    chosen = cell_eval.columns(settings.profile)
    cell_eval.say_absent(settings.profile)
    needs_de, needs_energy = cell_eval.needs_de(chosen), cell_eval.needs_energy(chosen)
    own = OwnControls(scene)
    batches = {name: scene.batches(scene.rows(name)) for name in scene.perturbations}
    # cell-eval tests against all controls of the line: the same tests only if all have that.
    apart = needs_de and any(own.batches(cells) for cells in batches.values())
    centre = scene.controls.whole.mean
    energy_from = EnergyFrom(compact(scene.control_cells), centre)
    training = reference.training.values
    conditions, tests, means, own_energy = [], [], [], []
    plain: tuple[list[DERow], list[DERow]] = ([], [])
    for name in scene.perturbations:
        cells, real = compact(predicted.cells(name)), reference.real[name]
        group = Group.of(cells)
        means.append(group.mean)
        truth = compact(scene.cells(name))
        in_order = SortedCells.of(cells)
        tests.append(de_row(name, in_order, own.of(batches[name])))
        if apart:
            plain[0].append(de_row(name, truth, own.whole))
            plain[1].append(de_row(name, in_order, own.whole))
        if group.n < 2:
            if needs_energy:
                own_energy.append(energy_from(cells))
            continue
        distances, (sample, _) = all_distances(
            cells, truth, reference.gammas, centre, (group, real.cells)
        )
        if needs_energy:
            own_energy.append(energy_from(sample))
        notes = dict(reference_note(reference.training))
        if remark := predicted.too_high(cells, scene.target_sum):
            notes[IMPOSSIBLE] = remark
        share = predicted.fallback(name)
        if share:
            notes[FALLBACK] = f"the model fell back on something simpler for {share:.0%} of cells"
        conditions.append(
            Condition(
                name,
                real.cells,
                group,
                real.delta,
                scene.controls.delta(group.mean),
                real.control,
                None if training is None else (training, training),
                distances,
                covariance_agreement(cells, truth, reference.fold_change(name)),
                *scene.identity(name),
                notes,
            )
        )
    pred_de = table_of(tests, scene.genes)
    control = mean_of(scene.control_cells)
    panel = cell_eval.Panel(
        scene.perturbations,
        scene.genes,
        np.array([real.cells.mean for real in reference.real.values()]),
        np.array(means),
        control,
        control,
        table_of(plain[0], scene.genes) if apart else reference.de,
        table_of(plain[1], scene.genes) if apart else pred_de,
        np.array([real.own_energy for real in reference.real.values()]),
        np.array(own_energy) if needs_energy else None,
    )
    columns = cell_eval.evaluate(panel, chosen)
    scored = reference.scored
    ours = score(conditions, reference.de.select(scored), pred_de.select(scored), scene.excluded)
    write_table(pred_de, out / "de.parquet")
    write_results(scene.perturbations, columns, out / "results.csv")
    write_aggregate(columns, out / "agg_results.csv")
    write_scores(scene, reference.real, ours, "not scored", out / "scores.csv")


def _check_reference(reference: Reference, scene: Scene) -> None:
    names = list(reference.real)
    if names != scene.perturbations:
        differ = sorted(set(names) ^ set(scene.perturbations))
        raise ResultsError(
            f"the reference is of another plan: {differ[0]!r} is in one of them only",
            where=reference.directory,
            fix="run the reference stage again",
        )
    if (reference.max_cells, reference.seed) != (scene.max_cells, scene.seed):
        raise ResultsError(
            f"the reference was made with max_cells {reference.max_cells} and seed "
            f"{reference.seed}, the settings say {scene.max_cells} and {scene.seed}: other real "
            "cells would be scored",
            where=reference.directory,
            fix="run the reference stage again with these settings of `evaluation`",
        )
