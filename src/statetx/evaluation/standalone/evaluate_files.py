"""Score predictions from two h5ad files, without store or plan."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from statetx.core.errors import ConfigError, DataError, did_you_mean
from statetx.core.writes import staged, whole
from statetx.data.h5ad.gene_names import common_names
from statetx.data.store.layout import check_case, folder_name
from statetx.evaluation.cell_eval import columns as cell_eval
from statetx.evaluation.cell_eval.de_columns import Tests
from statetx.evaluation.cell_eval.tables import write_aggregate, write_results
from statetx.evaluation.standalone.cells_by_label import ByLabel, rows_of, target_of
from statetx.evaluation.standalone.cells_file import CellsFile, Scale, read_cells_file
from statetx.evaluation.standalone.de_file import SuppliedTable, write_tests
from statetx.evaluation.standalone.earlier_results import SCORE_FILES, check_tables
from statetx.evaluation.standalone.line_scores import LineCells
from statetx.evaluation.standalone.same_labels import matched
from statetx.evaluation.standalone.score_line import Result, score_line
from statetx.evaluation.standalone.shared_labels import (
    keep_common,
    refuse_other_labels,
    refuse_other_lines,
)
from statetx.shared.labels import AUTO, Spellings
from statetx.shared.labels import controls as control_labels
from statetx.shared.tables import write_table

log = logging.getLogger(__name__)


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
    labels: str = AUTO,
    max_cells: int = 1500,
    seed: int = 0,
    skip: Sequence[str] = (),
    with_scores: bool = True,
    real_de: str | Path | None = None,
    pred_de: str | Path | None = None,
    common_only: bool = False,
    clip_negative: bool = False,
    replace: bool = True,
) -> dict[str, Result]:
    """Score predicted against real cells, cell line by cell line.

    Tables are written to `out`; with `celltype_col` to ``out/<line>/``, where "/" in names becomes
    "-". Nothing is written unless all lines can be scored.

    - ``results.csv``, ``agg_results.csv``: numbers of cell-eval. Each file subtracts its own
      control. A prediction without control cells subtracts the real control.
    - ``real_de.parquet``, ``pred_de.parquet``: the differential expression behind these numbers,
      if it was computed.
    - ``scores.csv``: our scores. Real and predicted cells both subtract the real control. Tests and
      distances use equal numbers of real and predicted cells.

    Parameters
    ----------
    pred, real
        h5ad files with the same genes, in any order.
    pert_col
        obs column with the perturbation label.
    control_pert
        Control label. If there are several, the others are aliases of the first.
    celltype_col
        obs column with the cell line; None: one line.
    embed_key
        obsm matrix for discrimination l2 and cosine of cell-eval.
    out
        Directory.
    profile
        full, de, anndata, minimal, vcc or pds.
    scale
        Values of X in both files: ``log1p``, or ``counts``, which are normalised to the median
        total. The scale is checked, and never guessed.
    labels
        How labels are read: ``auto``, ``drug_dose``, a format, or ``plain``, like `labels` of a
        data set. Labels are matched by meaning. Cells with several spellings of one label are
        pooled.
    max_cells, seed
        Most cells per condition for our tests and distances, and the seed of the draw.
    skip
        Metrics of cell-eval to leave out of ``results.csv``.
    with_scores
        Whether to write ``scores.csv``.
    real_de, pred_de
        CSV or parquet files with differential expression for ``results.csv``, with columns of pdex
        (``target, feature, log2_fold_change, p_value, fdr``); None: computed. With several cell
        lines they need the column `celltype_col` too. ``scores.csv`` does not use them.
    common_only
        Whether to leave out cell lines and perturbations that only one file contains, and log their
        names, instead of refusing the files.
    clip_negative
        Whether to set negative predicted values to 0, because models predict small ones. Scaled
        values are refused in any case.
    replace
        Whether earlier tables of this function in `out` are replaced; other files never are.

    Returns
    -------
    dict
        Cell line -> scores. Without `celltype_col` the line is ``all``.

    Raises
    ------
    DataError
        A file is not what was declared, or the files do not match.
    ConfigError
        There is no such profile or scale.
    ResultsError
        A table would replace a file that must stay.
    """
    check_settings(profile, skip, scale)
    with ThreadPoolExecutor(2) as pool:
        real_file, pred_file = pool.map(
            lambda path, clip: read_cells_file(
                path, pert_col, control_pert, celltype_col, embed_key, scale, clip
            ),
            (real, pred),
            (False, clip_negative),
        )
    controls = control_labels(control_pert)
    control = controls[0]
    (real_file, pred_file), reading, names = matched([real_file, pred_file], labels, controls)
    pred_file = _check_fit(real_file, pred_file)
    if common_only:
        real_file, pred_file = keep_common(real_file, pred_file, control)
    refuse_other_lines(real_file, pred_file)
    homes = homes_of(real_file, out, celltype_col)
    check_tables(homes.values(), SCORE_FILES, replace)
    tables = {"real": real_de, "pred": pred_de}
    supplied = _supplied(real_file, control, celltype_col, tables, names)
    results = {}
    with staged(Path(out)) as stage:
        for line, home in homes.items():
            real_cells, pred_cells, pred_on_real_scale = _line_cells(
                real_file, pred_file, line, control, scale
            )
            result = score_line(
                line,
                real=real_cells,
                predicted=pred_cells,
                predicted_on_real_scale=pred_on_real_scale,
                genes=real_file.genes,
                profile=profile,
                max_cells=max_cells,
                seed=seed,
                skip=skip,
                with_scores=with_scores,
                supplied=supplied[line],
                reading=reading,
            )
            _write(result, stage / home.relative_to(out))
            # The tests of a screen take gigabytes, and are on disk already.
            results[line] = dataclasses.replace(result, tables={})
    return results


def _write(result: Result, home: Path) -> None:
    write_results(result.labels, result.columns, home / "results.csv")
    write_aggregate(result.columns, home / "agg_results.csv")
    for name, table in result.tables.items():
        write_tests(table, home / f"{name}_de.parquet")
    if result.scores is not None:
        with whole(home / "scores.csv") as part:
            write_table(result.scores, part)


def check_settings(profile: str, skip: Sequence[str], scale: Scale) -> None:
    """Refuse unknown settings; log which columns cannot be computed with the installed packages.

    Parameters
    ----------
    profile, skip, scale
        As for `evaluate_files`.

    Raises
    ------
    ConfigError
        There is no such profile, metric or scale.
    """
    cell_eval.columns(profile, skip)
    cell_eval.say_absent(profile, skip)
    if scale not in ("log1p", "counts"):
        raise ConfigError(f"no scale {scale!r}", fix=did_you_mean(scale, ["log1p", "counts"]))


def homes_of(file: CellsFile, out: str | Path, celltype_col: str | None) -> dict[str, Path]:
    """Return the output directory of each cell line, lines sorted.

    Parameters
    ----------
    file
        The real cells.
    out, celltype_col
        As for `evaluate_files`.

    Raises
    ------
    DataError
        Two lines would have the same directory.
    """
    homes = {
        line: Path(out) / folder_name(line) if celltype_col else Path(out)
        for line in sorted(set(file.lines))
    }
    if celltype_col:
        check_case([home.name for home in homes.values()], Path(out))
    if len(set(homes.values())) < len(homes):
        raise DataError(
            "two cell lines differ only by '/' and '-': both would be written to one directory",
            fix="rename one of them",
        )
    return homes


def _supplied(
    real: CellsFile,
    control: str,
    celltype_col: str | None,
    paths: Mapping[str, str | Path | None],
    names: Spellings,
) -> dict[str, dict[str, Tests]]:
    """Read supplied tests: cell line -> ``real`` or ``pred`` -> tests."""
    lines = sorted(set(real.lines))
    column = celltype_col if len(lines) > 1 else None
    tables = {
        name: SuppliedTable.read(path, column).spelt(names.find)
        for name, path in paths.items()
        if path is not None
    }
    out = {}
    for line in lines:
        labels = sorted(set(real.labels[real.rows_of_line(line)]) - {control})
        out[line] = {
            name: table.tests_of(line, labels, real.genes) for name, table in tables.items()
        }
    return out


def _check_fit(real: CellsFile, pred: CellsFile) -> CellsFile:
    """Return the prediction with its genes in the order of the real cells."""
    only_in_file = [sorted(set(x.genes) - set(y.genes)) for x, y in ((real, pred), (pred, real))]
    if any(only_in_file):
        shown = [
            f"{len(names)} ({', '.join(map(repr, names[:3]))})" for names in only_in_file if names
        ]
        where = [
            what for what, names in zip(("real", "predicted"), only_in_file, strict=True) if names
        ]
        hint = common_names(pred.path, pred.genes, real.path, real.genes)
        raise DataError(
            "the genes of the files differ: "
            + ", ".join(f"{n} only {file}" for n, file in zip(shown, where, strict=True)),
            where=f"{pred.path} against {real.path}",
            fix=hint or "give the prediction the genes of the real cells",
        )
    widths = [file.embedding.shape[1] for file in (real, pred) if file.embedding is not None]
    if len(set(widths)) > 1:
        raise DataError(
            f"the embedding has {widths[0]} dimensions in the real file, {widths[1]} in this file",
            where=pred.path,
            fix="embed both files with the same model",
        )
    if real.genes != pred.genes:
        log.info("%s: genes are put into the order of %s, by name", pred.path, real.path)
        position = {gene: i for i, gene in enumerate(pred.genes)}
        order = np.array([position[gene] for gene in real.genes])
        pred = dataclasses.replace(pred, genes=real.genes, cells=pred.cells.reordered(order))
    return pred


def _line_cells(
    real: CellsFile, pred: CellsFile, line: str, control: str, scale: Scale
) -> tuple[LineCells, LineCells, LineCells]:
    """Return the cells of one line in three forms.

    Returns
    -------
    real
        Real cells with real controls.
    predicted
        Predicted cells with the controls of their own file, as cell-eval compares them.
    predicted_on_real_scale
        Predicted cells on the scale of the real file, with real controls.
    """
    rows = [file.rows_of_line(line) for file in (real, pred)]
    labels = [file.labels[line_rows] for file, line_rows in zip((real, pred), rows, strict=True)]
    if control not in labels[0]:
        raise no_control(real, line, control)
    refuse_other_labels(real, pred, line, control)
    label_rows = [rows_of(line_rows, names) for line_rows, names in zip(rows, labels, strict=True)]
    targets = [
        target_of(file, line_rows, scale)
        for file, line_rows in zip((real, pred), rows, strict=True)
    ]
    if targets[0] != targets[1]:
        log.warning(
            "cell line %s: median counts per cell differ (%g real, %g predicted); results.csv uses "
            "each file's own median as cell-eval does, scores.csv the real one for both",
            line,
            *targets,
        )
    embedded = [
        {}
        if file.embedding is None
        else {name: file.embedding[indices].mean(axis=0) for name, indices in where.items()}
        for file, where in zip((real, pred), label_rows, strict=True)
    ]
    views = [
        ByLabel(file, indices, target)
        for file, indices, target in zip((real, pred), label_rows, targets, strict=True)
    ]
    on_real_scale = (
        views[1] if targets[0] == targets[1] else ByLabel(pred, label_rows[1], targets[0])
    )
    real_control = views[0][control]
    pred_control = real_control
    if control in label_rows[1]:
        pred_control = views[1][control]
    else:
        log.warning("cell line %s: the prediction has no controls, real controls are used", line)
        if control in embedded[0]:
            embedded[1][control] = embedded[0][control]
    for where in label_rows:
        where.pop(control, None)
    return (
        LineCells(views[0], real_control, embedded[0]),
        LineCells(views[1], pred_control, embedded[1]),
        LineCells(on_real_scale, real_control, {}),
    )


def no_control(file: CellsFile, line: str, control: str) -> DataError:
    """Return the error of a line without control cells.

    Parameters
    ----------
    file
        The file.
    line
        Name of the line.
    control
        Control label.
    """
    return DataError(
        f"no control cells {control!r} in cell line {line!r}",
        where=file.path,
        fix=did_you_mean(control, sorted(set(file.labels[file.rows_of_line(line)]))),
    )
