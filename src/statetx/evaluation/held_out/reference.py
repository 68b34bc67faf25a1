"""Compute the reference of a test line: real values and reference scores, from real cells only.

All models of a split are compared with the same reference.
"""

from __future__ import annotations

import logging
from pathlib import Path

from statetx.config import Evaluation
from statetx.core.errors import ResultsError
from statetx.core.text_files import write_json
from statetx.data.store.plan import read_plan
from statetx.data.store.store import open_store
from statetx.evaluation.held_out.batch_controls import BatchControls
from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.evaluation.held_out.reference_files import RealCondition, write_real, write_scores
from statetx.evaluation.held_out.reference_predictions import ReferencePredictions
from statetx.evaluation.held_out.training_reference import bandwidths, mean_training_delta
from statetx.evaluation.scores.differential_expression import DERow, de_row, table_of, write_table
from statetx.evaluation.scores.energy_and_mmd import EnergyFrom
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
    """Compute the reference of one test line and write its files.

    - ``real_de.parquet``: real differential expression against controls of the same batches.
    - ``pseudobulk.parquet``: real and control profiles, real deltas, mean training delta.
    - ``floor.csv``, ``mean_response.csv``, ``interpolated_duplicate.csv``, ``ceiling.csv``:
      columns of ``scores.csv``, see `reference_predictions`.
    - ``bandwidths.json``: kernel widths of the MMD, and the settings of the reference.

    Parameters
    ----------
    store_dir, plan_path
        Store and plan.
    line
        A line with test conditions.
    settings
        ``max_cells`` and ``seed`` are used.
    out_dir
        Directory for the files.
    genes
        File of the genes that were chosen on the split; None: all genes.

    Raises
    ------
    ResultsError
        There is no such line, the plan tests nothing in it, or it has fewer than 2 control cells.
    """
    store, plan, out = open_store(store_dir, genes), read_plan(plan_path), Path(out_dir)
    held_out = HeldOutLine.from_plan(store, plan, line, settings)
    if len(held_out.all_control_rows) < 2:
        raise ResultsError(
            f"cell line {line!r} has fewer than 2 control cells: their sampling noise is unknown",
            where=store_dir,
            fix="remove the line from the test set",
        )
    if len(held_out.all_control_rows) > settings.max_cells:
        log.warning(
            "cell line %s: tests and distances use %d of its %d controls (max_cells)",
            line,
            len(held_out.control_rows),
            len(held_out.all_control_rows),
        )
    widths = bandwidths(store, plan, line, settings.seed)
    training = mean_training_delta(store, plan, line, settings)
    controls = BatchControls(held_out)
    real, rows = _real_conditions(held_out, controls)
    write_table(table_of(list(rows.values()), held_out.genes), out / "real_de.parquet")
    write_real(real, training, out / "pseudobulk.parquet")
    write_json(
        out / "bandwidths.json",
        {
            "space": store.manifest["expression_key"] or "X",
            "median_squared_distance": widths.median,
            "gammas": widths.gammas,
            "n_cells": widths.n_cells,
            "taken_from": widths.taken_from,
            "n_controls": len(held_out.all_control_rows),
            "n_controls_compared": len(held_out.control_rows),
            "max_cells": settings.max_cells,
            "seed": settings.seed,
        },
    )
    predictions = ReferencePredictions(held_out, controls, real, rows, training, widths.gammas)
    ceiling, duplicate = predictions.replicates()
    untrained = "no training conditions to take the mean of"
    for name, table, missing in (
        ("floor", predictions.floor(), "fewer than 4 control cells"),
        ("mean_response", predictions.mean_response(), untrained),
        ("ceiling", ceiling, FEW_CELLS),
        ("interpolated_duplicate", duplicate, FEW_CELLS if predictions.trained else untrained),
    ):
        write_scores(held_out, real, table, missing, out / f"{name}.csv")


def _real_conditions(
    held_out: HeldOutLine, controls: BatchControls
) -> tuple[dict[str, RealCondition], dict[str, DERow]]:
    energy_from = EnergyFrom(held_out.control_cells)
    real, rows = {}, {}
    for name in held_out.perturbations:
        condition_rows = held_out.rows(name)
        cells, batches = held_out.line.expression(condition_rows), held_out.batches(condition_rows)
        group = Group.from_cells(cells)
        real[name] = RealCondition(
            group,
            held_out.controls.delta(group.mean),
            held_out.controls.matched(batches),
            energy_from(cells),
        )
        rows[name] = de_row(name, cells, controls.for_batches(batches))
    return real, rows
