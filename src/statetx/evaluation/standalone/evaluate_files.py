"""Score anybody's predictions: two h5ad files, no store, no plan."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from statetx.core.errors import ConfigError, DataError, did_you_mean
from statetx.core.writes import staged, whole
from statetx.data.h5ad.gene_names import common_names
from statetx.data.store.layout import check_case, folder_name
from statetx.evaluation.cell_eval import columns as cell_eval
from statetx.evaluation.cell_eval.de_columns import Tests
from statetx.evaluation.cell_eval.tables import write_aggregate, write_results
from statetx.evaluation.standalone.cells_file import (
    CellsFile,
    Scale,
    log_normalised,
    median_total,
    read_cells_file,
)
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


class ByLabel(Mapping[str, Any]):
    """Cells of each label of one line, taken out of a file's when asked for."""

    def __init__(self, side: CellsFile, rows: dict[str, np.ndarray], target: float | None) -> None:
        self._side, self._rows, self._target = side, rows, target

    def __getitem__(self, label: str) -> Any:
        cells = self._side.cells.rows(self._rows[label])
        return cells if self._target is None else log_normalised(cells, self._target)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


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

    Writes ``results.csv``, ``agg_results.csv`` (cell-eval's numbers: each side minus its own
    control, or the real one where the prediction holds none), the differential expression they
    were made from (``real_de.parquet``, ``pred_de.parquet``, where it was computed) and
    ``scores.csv`` (ours: the real control on both sides, equal cell numbers for tests and
    distances) into `out`, with `celltype_col` into ``out/<line>/`` ("/" becomes "-"). Nothing is
    written unless all lines can be scored.

    Parameters
    ----------
    pred, real
        h5ad files with equal genes, in whatever order.
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
    labels
        What labels are: ``auto``, ``drug_dose``, a format, or ``plain``, as `labels` of a data set. Labels are
        matched by what they mean; cells under several spellings of one label are pooled.
    max_cells, seed
        Largest number of cells per condition for our tests and distances, and the seed of the draw.

    skip
        cell-eval's metrics to leave out of ``results.csv``.
    with_scores
        Whether to write ``scores.csv``.
    real_de, pred_de
        CSV or parquet with differential expression for ``results.csv``, in pdex's columns (``target,
        feature, log2_fold_change, p_value, fdr``); None: computed. With several cell lines they need
        the column `celltype_col` too. ``scores.csv`` has tests of its own.
    common_only
        Whether to leave out, by name, cell lines and perturbations that only one file holds, instead
        of refusing the pair.
    clip_negative
        Whether to set negative predicted values to 0, as models predict them near 0; scaled values
        are refused all the same.
    replace
        Whether earlier tables of this function in `out` are replaced; other files never are.

    Returns
    -------
    Cell line -> scores (the line is ``all`` without `celltype_col`).

    Raises
    ------
    DataError
        A file is not what was declared, or they do not fit.
    ConfigError
        Unknown profile or scale.
    ResultsError
        A table would replace a file that must stay.
    """
    check_settings(profile, skip, scale)
    with ThreadPoolExecutor(2) as pool:
        truth_side, pred_side = pool.map(
            lambda path, clip: read_cells_file(
                path, pert_col, control_pert, celltype_col, embed_key, scale, clip
            ),
            (real, pred),
            (False, clip_negative),
        )
    controls = control_labels(control_pert)
    control = controls[0]
    (truth_side, pred_side), reading, names = matched([truth_side, pred_side], labels, controls)
    pred_side = _check_fit(truth_side, pred_side)
    if common_only:
        truth_side, pred_side = keep_common(truth_side, pred_side, control)
    refuse_other_lines(truth_side, pred_side)
    homes = homes_of(truth_side, out, celltype_col)
    check_tables(homes.values(), SCORE_FILES, replace)
    tables = {"real": real_de, "pred": pred_de}
    supplied = _supplied(truth_side, control, celltype_col, tables, names)
    results = {}
    with staged(Path(out)) as stage:
        for line, home in homes.items():
            truth, own, shared = _halves(truth_side, pred_side, line, control, scale)
            result = score_line(
                line,
                real=truth,
                predicted=own,
                predicted_on_real_scale=shared,
                genes=truth_side.genes,
                profile=profile,
                max_cells=max_cells,
                seed=seed,
                skip=skip,
                with_scores=with_scores,
                supplied=supplied[line],
                reading=reading,
            )
            _write(result, stage / home.relative_to(out))
            # A screen has gigabytes of tests: they are on disk now.
            results[line] = dataclasses.replace(result, tables={})
    return results


def _write(result: Result, home: Path) -> None:
    write_results(result.labels, result.columns, home / "results.csv")
    write_aggregate(result.columns, home / "agg_results.csv")
    for side, table in result.tables.items():
        write_tests(table, home / f"{side}_de.parquet")
    if result.scores is not None:
        with whole(home / "scores.csv") as part:
            write_table(result.scores, part)


def check_settings(profile: str, skip: Sequence[str], scale: Scale) -> None:
    """Refuse what `evaluate_files` does not know; say which columns cannot be computed here."""
    cell_eval.columns(profile, skip)
    cell_eval.say_absent(profile, skip)
    if scale not in ("log1p", "counts"):
        raise ConfigError(f"no scale {scale!r}", fix=did_you_mean(scale, ["log1p", "counts"]))


def homes_of(side: CellsFile, out: str | Path, celltype_col: str | None) -> dict[str, Path]:
    """Directory of every cell line, lines sorted."""
    homes = {
        line: Path(out) / folder_name(line) if celltype_col else Path(out)
        for line in sorted(set(side.lines))
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
    """Supplied tests: cell line -> side -> tests."""
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
    alone = [sorted(set(x.genes) - set(y.genes)) for x, y in ((real, pred), (pred, real))]
    if any(alone):
        shown = [f"{len(names)} ({', '.join(map(repr, names[:3]))})" for names in alone if names]
        sides = [what for what, names in zip(("real", "predicted"), alone, strict=True) if names]
        known = common_names(pred.path, pred.genes, real.path, real.genes)
        raise DataError(
            "genes are on one side only: "
            + ", ".join(f"{n} {side}" for n, side in zip(shown, sides, strict=True)),
            where=f"{pred.path} against {real.path}",
            fix=known or "bring the prediction to the genes of the real cells",
        )
    widths = [side.embedding.shape[1] for side in (real, pred) if side.embedding is not None]
    if len(set(widths)) > 1:
        raise DataError(
            f"the embedding has {widths[0]} dimensions in the real file, {widths[1]} here",
            where=pred.path,
            fix="embed both files with the same model",
        )
    if real.genes != pred.genes:
        log.info("%s: genes put into the order of %s, by name", pred.path, real.path)
        place = {gene: i for i, gene in enumerate(pred.genes)}
        order = np.array([place[gene] for gene in real.genes])
        pred = dataclasses.replace(pred, genes=real.genes, cells=pred.cells.reordered(order))
    return pred


def _halves(
    real: CellsFile, pred: CellsFile, line: str, control: str, scale: Scale
) -> tuple[LineCells, LineCells, LineCells]:
    """Real side, prediction as cell-eval sees it, and prediction on the real side's scale."""
    rows = [side.rows_of_line(line) for side in (real, pred)]
    labels = [side.labels[own] for side, own in zip((real, pred), rows, strict=True)]
    if control not in labels[0]:
        raise no_control(real, line, control)
    refuse_other_labels(real, pred, line, control)
    found = [rows_of(own, names) for own, names in zip(rows, labels, strict=True)]
    targets = [target_of(side, own, scale) for side, own in zip((real, pred), rows, strict=True)]
    if targets[0] != targets[1]:
        log.warning(
            "cell line %s: median counts per cell differ (%g real, %g predicted); as in "
            "cell-eval each side of results.csv has its own, scores.csv takes the real one",
            line,
            *targets,
        )
    embedded = [
        {}
        if side.embedding is None
        else {name: side.embedding[at].mean(axis=0) for name, at in where.items()}
        for side, where in zip((real, pred), found, strict=True)
    ]
    views = [
        ByLabel(side, at, to) for side, at, to in zip((real, pred), found, targets, strict=True)
    ]
    shared = views[1] if targets[0] == targets[1] else ByLabel(pred, found[1], targets[0])
    real_control = views[0][control]
    own_control = real_control
    if control in found[1]:
        own_control = views[1][control]
    else:
        log.warning("cell line %s: the prediction has no controls, the real ones are used", line)
        if control in embedded[0]:
            embedded[1][control] = embedded[0][control]
    for where in found:
        where.pop(control, None)
    return (
        LineCells(views[0], real_control, embedded[0]),
        LineCells(views[1], own_control, embedded[1]),
        LineCells(shared, real_control, {}),
    )


def no_control(side: CellsFile, line: str, control: str) -> DataError:
    """Say that a line lacks its control."""
    return DataError(
        f"no control cells {control!r} in cell line {line!r}",
        where=side.path,
        fix=did_you_mean(control, sorted(set(side.labels[side.rows_of_line(line)]))),
    )


def target_of(side: CellsFile, rows: np.ndarray, scale: Scale) -> float | None:
    """Total that the counts of these cells are normalised to; None: they are normalised."""
    if scale == "log1p":
        return None
    return median_total(side.cells.totals[rows], side.cells.is_sparse)


def rows_of(rows: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each label, labels sorted."""
    return {
        str(name): rows[at]
        for name, at in sorted(pd.Series(labels).groupby(labels).indices.items())
    }
