"""What every model of a split is held against in one line, made once from real cells alone."""

from __future__ import annotations

import logging
from pathlib import Path

from statetx.config import Evaluation
from statetx.core.errors import ResultsError
from statetx.core.text_files import write_json
from statetx.data.store.plan import read_plan
from statetx.data.store.store import open_store
from statetx.evaluation.held_out.batch_controls import OwnControls
from statetx.evaluation.held_out.held_out_line import Scene
from statetx.evaluation.held_out.reference_files import Real, write_real, write_scores
from statetx.evaluation.held_out.reference_predictions import Ends
from statetx.evaluation.held_out.training_reference import bandwidths, mean_training_delta
from statetx.evaluation.scores.differential_expression import DERow, de_row, table_of, write_table
from statetx.evaluation.scores.distances import EnergyFrom
from statetx.evaluation.scores.pseudobulk import Group

log = logging.getLogger(__name__)

FEW_CELLS = "fewer than 4 real or control cells"


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
    ``pseudobulk.parquet`` (real and control profiles, mean training delta), ``floor.csv``,
    ``mean_response.csv``, ``interpolated_duplicate.csv`` and ``ceiling.csv`` (columns of
    ``scores.csv``, see `ends`) and ``bandwidths.json`` (kernel widths of the MMD, and the settings
    the reference was made with).

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
            f"cell line {line!r} has fewer than 2 control cells: no noise of a control can be known",
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
    ends = Ends(scene, own, real, rows, training, widths.gammas)
    ceiling, duplicate = ends.replicates()
    untrained = "no training conditions to take the mean of"
    for name, table, missing in (
        ("floor", ends.floor(), "fewer than 4 control cells"),
        ("mean_response", ends.mean_response(), untrained),
        ("ceiling", ceiling, FEW_CELLS),
        ("interpolated_duplicate", duplicate, FEW_CELLS if ends.trained else untrained),
    ):
        write_scores(scene, real, table, missing, out / f"{name}.csv")


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
