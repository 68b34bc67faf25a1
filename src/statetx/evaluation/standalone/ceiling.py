"""Ceiling of cell-eval: scores of one half of the real cells as prediction of the other half.

The cells of each label, the control included, are split at random into two halves. The formula of
Spearman and Brown, 2r / (1 + r), extrapolates the mean score over labels from half to all cells.
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
from statetx.evaluation.standalone.cells_by_label import ByLabel, rows_of, target_of
from statetx.evaluation.standalone.cells_file import CellsFile, Scale, read_cells_file
from statetx.evaluation.standalone.earlier_results import CEILING_FILES, check_tables
from statetx.evaluation.standalone.evaluate_files import check_settings, homes_of, no_control
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
"""Columns without a ceiling: errors, counts, and two columns that cell-eval does not trust."""


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

    The tables are written where `evaluate_files` writes its tables. ``ceiling_results.csv`` has the
    scores of the halves, one row per perturbation. ``agg_ceiling_results.csv`` has one row, the
    ceiling of each column (NaN: none). The halves are those of cell-eval 0.8.2 with the same seed,
    cell by cell.

    Parameters
    ----------
    real, pert_col, control_pert, celltype_col, embed_key, out
        As for `evaluate_files`.
    profile, scale, labels, skip, replace
        As for `evaluate_files`.
    seed
        Seed of the draw of the halves.

    Raises
    ------
    DataError
        The file is not what was declared, or a line has too few cells for two halves.
    ConfigError
        There is no such profile or scale.
    ResultsError
        A table would replace a file that must stay.
    """
    check_settings(profile, skip, scale)
    file = read_cells_file(real, pert_col, control_pert, celltype_col, embed_key, scale)
    controls = control_labels(control_pert)
    control = controls[0]
    (file,), _, _ = matched([file], labels, controls)
    homes = homes_of(file, out, celltype_col)
    check_tables(homes.values(), CEILING_FILES, replace)
    order = _visited(file, pert_col)
    results = {}
    for line in homes:
        real_half, pred_half = _halves(file, line, control, order, scale, seed)
        results[line] = score_line(
            line,
            real=real_half,
            predicted=pred_half,
            predicted_on_real_scale=pred_half,
            genes=file.genes,
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
    """Extrapolate the mean of a column from half of the cells to all of them.

    Parameters
    ----------
    name
        Name of the column.
    column
        Scores of the halves.

    Returns
    -------
    float
        NaN for a column without ceiling, or if the mean is not positive.
    """
    mean = describe(column)["mean"]
    if name in WITHOUT_CEILING or mean is None or not mean > 0:
        return math.nan
    return 2 * mean / (1 + mean)


def _visited(cells: CellsFile, pert_col: str) -> list[str]:
    """Return labels in the order in which pandas groups them: by category, else sorted.

    The order decides which label gets which random numbers.
    """
    with opened(cells.path) as file:
        names = in_order(file, cells.path, pert_col)
    return list(dict.fromkeys([*names, *sorted(set(cells.labels))]))


def _halves(
    file: CellsFile, line: str, control: str, order: Sequence[str], scale: Scale, seed: int
) -> tuple[LineCells, LineCells]:
    rows = file.rows_of_line(line)
    rows_of_label = rows_of(rows, file.labels[rows])
    generator = np.random.default_rng(seed)
    parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    for name in [name for name in order if name in rows_of_label]:
        shuffled = generator.permutation(rows_of_label[name])
        half = len(shuffled) // 2
        if half:
            parts[0][name], parts[1][name] = shuffled[:half], shuffled[half : 2 * half]
    if control not in rows_of_label:
        raise no_control(file, line, control)
    if control not in parts[0] or len(parts[0]) < 2:
        short = "every perturbation" if control in parts[0] else f"the control {control!r}"
        raise DataError(
            f"cell line {line!r} cannot be split into halves: {short} has fewer than 2 cells",
            where=file.path,
            fix="give at least 2 cells of the control and of one perturbation",
        )
    dropped = sorted(set(rows_of_label) - set(parts[0]))
    if dropped:
        log.warning(
            "cell line %s: %d perturbations have fewer than 2 cells and are not in the ceiling: %s",
            line,
            len(dropped),
            ", ".join(dropped[:8]),
        )
    target = target_of(file, rows, scale)
    out = []
    for part in parts:
        embedded = {}
        if file.embedding is not None:
            embedded = {name: file.embedding[at].mean(axis=0) for name, at in part.items()}
        view = ByLabel(file, part, target)
        cells = view[control]
        part.pop(control)
        out.append(LineCells(view, cells, embedded))
    return out[0], out[1]
