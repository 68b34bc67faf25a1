"""cell-eval's ceiling: how well do real cells predict real cells?

The cells of every label, the control among them, fall at random into two halves. One half is scored
as a prediction of the other, and the mean over labels is brought from half to full depth by
Spearman and Brown's formula 2r / (1 + r).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from statetx.core.errors import DataError
from statetx.data.h5ad.obs_columns import in_order
from statetx.data.h5ad.open_h5ad import opened
from statetx.evaluation.cell_eval.de_columns import Column
from statetx.evaluation.cell_eval.tables import describe, write_ceiling, write_results
from statetx.evaluation.standalone.cells_file import CellsFile, Scale, read_cells_file
from statetx.evaluation.standalone.earlier_results import CEILING_FILES, check_tables
from statetx.evaluation.standalone.evaluate_files import (
    ByLabel,
    check_settings,
    homes_of,
    no_control,
    rows_of,
    target_of,
)
from statetx.evaluation.standalone.line_scores import LineCells
from statetx.evaluation.standalone.same_labels import matched
from statetx.evaluation.standalone.score_line import Result, score_line
from statetx.shared.labels import AUTO
from statetx.shared.labels import controls as control_labels

log = logging.getLogger(__name__)

WITHOUT_CEILING = frozenset(
    {"mse", "mae", "mse_delta", "mae_delta", "de_nsig_counts_real", "de_nsig_counts_pred"}
    | {"pearson_edistance", "clustering_agreement"}
)
"""Columns that the formula does not fit: errors, counts, and two that cell-eval does not trust."""


def ceiling_files(
    real: str | Path,
    pert_col: str,
    control_pert: str | Sequence[str],
    celltype_col: str | None = None,
    embed_key: str | None = None,
    *,
    out: str | Path,
    profile: str = "full",
    scale: Scale = "log1p",
    labels: str = AUTO,
    seed: int = 0,
    skip: Sequence[str] = (),
    replace: bool = True,
) -> dict[str, Result]:
    """Score halves of the real cells against each other, cell line by cell line.

    Writes ``ceiling_results.csv`` (the halves, one row per perturbation) and
    ``agg_ceiling_results.csv`` (one row: the ceiling of every column, NaN where there is none) where
    `standalone.evaluate_files` writes its tables. The halves are those of cell-eval 0.8.2 with this
    seed, cell by cell.

    Parameters
    ----------
    real, pert_col, control_pert, celltype_col, embed_key, out, profile, scale, labels, skip, replace
        As for `standalone.evaluate_files`.
    seed
        Of the draw of the halves.

    Raises
    ------
    DataError
        A file is not what was declared, or a line has too few cells to be halved.
    ConfigError
        Unknown profile or scale.
    ResultsError
        A table would replace a file that must stay.
    """
    check_settings(profile, skip, scale)
    side = read_cells_file(real, pert_col, control_pert, celltype_col, embed_key, scale)
    controls = control_labels(control_pert)
    control = controls[0]
    (side,), _, _ = matched([side], labels, controls)
    homes = homes_of(side, out, celltype_col)
    check_tables(homes.values(), CEILING_FILES, replace)
    order = _visited(side, pert_col)
    results = {}
    for line in homes:
        truth, own = _halves(side, line, control, order, scale, seed)
        results[line] = score_line(
            line,
            real=truth,
            predicted=own,
            predicted_on_real_scale=own,
            genes=side.genes,
            profile=profile,
            max_cells=0,
            seed=seed,
            skip=skip,
            with_scores=False,
        )
    for line, result in results.items():
        write_results(result.labels, result.columns, homes[line] / "ceiling_results.csv")
        ceiling = {name: ceiling_of(name, column) for name, column in result.columns.items()}
        write_ceiling(ceiling, homes[line] / "agg_ceiling_results.csv")
    return results


def ceiling_of(name: str, column: Column) -> float:
    """Bring the mean of a column of halves to full depth; NaN where halves do not agree at all."""
    mean = describe(column)["mean"]
    if name in WITHOUT_CEILING or mean is None or not mean > 0:
        return math.nan
    return 2 * mean / (1 + mean)


def _visited(side: CellsFile, pert_col: str) -> list[str]:
    """Labels as pandas groups them, which decides who gets which random numbers: in the order of a
    column's categories, else sorted.
    """
    with opened(side.path) as file:
        names = in_order(file, side.path, pert_col)
    return list(dict.fromkeys([*names, *sorted(set(side.labels))]))


def _halves(
    side: CellsFile, line: str, control: str, order: Sequence[str], scale: Scale, seed: int
) -> tuple[LineCells, LineCells]:
    rows = side.rows_of_line(line)
    found = rows_of(rows, side.labels[rows])
    generator = np.random.default_rng(seed)
    parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    for name in [name for name in order if name in found]:
        shuffled = generator.permutation(found[name])
        half = len(shuffled) // 2
        if half:
            parts[0][name], parts[1][name] = shuffled[:half], shuffled[half : 2 * half]
    if control not in found:
        raise no_control(side, line, control)
    if control not in parts[0] or len(parts[0]) < 2:
        short = "every perturbation" if control in parts[0] else f"the control {control!r}"
        raise DataError(
            f"no halves of cell line {line!r}: {short} has fewer than 2 cells",
            where=side.path,
            fix="a ceiling needs 2 cells of the control and of a perturbation",
        )
    dropped = sorted(set(found) - set(parts[0]))
    if dropped:
        log.warning(
            "cell line %s: %d perturbations have fewer than 2 cells and are not in the ceiling: %s",
            line,
            len(dropped),
            ", ".join(dropped[:8]),
        )
    target = target_of(side, rows, scale)
    out = []
    for part in parts:
        embedded = {}
        if side.embedding is not None:
            embedded = {name: side.embedding[at].mean(axis=0) for name, at in part.items()}
        view = ByLabel(side, part, target)
        cells = view[control]
        part.pop(control)
        out.append(LineCells(view, cells, embedded))
    return out[0], out[1]
