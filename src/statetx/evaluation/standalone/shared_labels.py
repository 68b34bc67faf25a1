"""Cell lines and perturbations that two files have in common."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from statetx.core.errors import DataError, did_you_mean
from statetx.evaluation.standalone.cells_file import CellsFile

log = logging.getLogger(__name__)

SHOWN = 10
"""Most names that a message lists; further names are counted."""


def keep_common(real: CellsFile, pred: CellsFile, control: str) -> tuple[CellsFile, CellsFile]:
    """Remove lines and perturbations that only one file contains, and log their names.

    Controls are kept in all lines that remain.

    Parameters
    ----------
    real, pred
        The two files.
    control
        Control label.

    Raises
    ------
    DataError
        The files do not have a perturbation of a cell line in common.
    """
    kept = [np.ones(len(file.lines), dtype=bool) for file in (real, pred)]
    files = list(zip((real, pred), kept, ("real", "predicted"), strict=True))
    lines = [set(file.lines) for file in (real, pred)]
    any_common = False
    for line in sorted(lines[0] | lines[1]):
        labels = [set(file.labels[file.rows_of_line(line)]) for file in (real, pred)]
        common = (labels[0] & labels[1]) - {control} if line in lines[0] & lines[1] else set()
        any_common = any_common or bool(common)
        for file, keep, what in files:
            rows = file.rows_of_line(line)
            only_in_file = sorted(set(file.labels[rows]) - common - {control})
            if common and only_in_file:
                log.warning(
                    "cell line %s: %s are only %s and are left out: %s",
                    *(line, f"{len(only_in_file)} perturbations", what, _listed(only_in_file)),
                )
            elif len(rows) and not common:
                log.warning("cell line %s has nothing in common and is left out", line)
            wanted = np.isin(file.labels[rows].astype(str), [*common, control])
            keep[rows] = wanted if common else False
    if not any_common:
        raise DataError(
            "the files have no perturbation of a cell line in common",
            where=f"{pred.path} against {real.path}",
            fix="name perturbations and lines in the same way in both files",
        )
    first, second = (_only(file, np.flatnonzero(keep)) for file, keep, _ in files)
    return first, second


def _only(file: CellsFile, rows: np.ndarray) -> CellsFile:
    if len(rows) == len(file.lines):
        return file
    return replace(
        file,
        cells=file.cells.chosen(rows),
        labels=file.labels[rows],
        lines=file.lines[rows],
        embedding=None if file.embedding is None else file.embedding[rows],
    )


def refuse_other_lines(real: CellsFile, pred: CellsFile) -> None:
    """Refuse cell lines that only one file contains.

    Parameters
    ----------
    real, pred
        The two files.

    Raises
    ------
    DataError
        Names the lines, and the file that does not contain them.
    """
    _refuse(real, pred, set(real.lines), set(pred.lines), "cell lines", "")


def refuse_other_labels(real: CellsFile, pred: CellsFile, line: str, control: str) -> None:
    """Refuse perturbations of a line that only one file contains, and a line without perturbations.

    Parameters
    ----------
    real, pred
        The two files.
    line
        Name of the line.
    control
        Control label.

    Raises
    ------
    DataError
        Names the perturbations, and the file that does not contain them.
    """
    labels = [set(file.labels[file.rows_of_line(line)]) - {control} for file in (real, pred)]
    _refuse(real, pred, labels[0], labels[1], "perturbations", f" of cell line {line!r}")
    if not labels[0]:
        raise DataError(
            f"cell line {line!r} has only control cells",
            where=pred.path,
            fix=did_you_mean(control, sorted(set(pred.labels[pred.rows_of_line(line)]))),
        )


def _refuse(
    real: CellsFile, pred: CellsFile, in_real: set[str], in_pred: set[str], what: str, of: str
) -> None:
    missing, extra = sorted(in_real - in_pred), sorted(in_pred - in_real)
    if not missing and not extra:
        return
    if missing:
        share = f"{len(missing)} of {len(in_real)} {what}{of}"
        file, problem = pred, f"the prediction does not contain {share}"
    else:
        share = f"{len(extra)} of {len(in_pred)} predicted {what}{of}"
        file, problem = real, f"the real cells do not contain {share}"
    hint = f"{did_you_mean(missing[0], extra)} " if missing and extra else ""
    raise DataError(
        f"{problem}: {_listed(missing or extra)}",
        where=file.path,
        fix=f"{hint}Add their cells, or use --common-only to score what both files contain",
    )


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
