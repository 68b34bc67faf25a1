"""What two files of cells have in common: cell lines, and in each line perturbations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from statetx.core.errors import DataError, did_you_mean
from statetx.evaluation.standalone.cells_file import CellsFile

log = logging.getLogger(__name__)

SHOWN = 10
"""Names that a message lists; the rest is counted."""


def keep_common(real: CellsFile, pred: CellsFile, control: str) -> tuple[CellsFile, CellsFile]:
    """Return both sides without the lines and perturbations that only one holds; each is named.

    Controls stay wherever they are.

    Raises
    ------
    DataError
        The files have no cell line, or no perturbation, in common.
    """
    kept = [np.ones(len(side.lines), dtype=bool) for side in (real, pred)]
    sides = list(zip((real, pred), kept, ("real", "predicted"), strict=True))
    lines = [set(side.lines) for side in (real, pred)]
    some = False
    for line in sorted(lines[0] | lines[1]):
        labels = [set(side.labels[side.rows_of_line(line)]) for side in (real, pred)]
        common = (labels[0] & labels[1]) - {control} if line in lines[0] & lines[1] else set()
        some = some or bool(common)
        for side, keep, what in sides:
            rows = side.rows_of_line(line)
            alone = sorted(set(side.labels[rows]) - common - {control})
            if common and alone:
                log.warning(
                    "cell line %s: %s are only %s and are left out: %s",
                    *(line, f"{len(alone)} perturbations", what, _listed(alone)),
                )
            elif len(rows) and not common:
                log.warning("cell line %s has nothing in common and is left out", line)
            wanted = np.isin(side.labels[rows].astype(str), [*common, control])
            keep[rows] = wanted if common else False
    if not some:
        raise DataError(
            "the files have no perturbation of a cell line in common",
            where=f"{pred.path} against {real.path}",
            fix="are perturbations and lines named in the same way in both?",
        )
    first, second = (_only(side, np.flatnonzero(keep)) for side, keep, _ in sides)
    return first, second


def _only(side: CellsFile, rows: np.ndarray) -> CellsFile:
    if len(rows) == len(side.lines):
        return side
    return replace(
        side,
        cells=side.cells.chosen(rows),
        labels=side.labels[rows],
        lines=side.lines[rows],
        embedding=None if side.embedding is None else side.embedding[rows],
    )


def refuse_other_lines(real: CellsFile, pred: CellsFile) -> None:
    """Refuse cell lines that only one side holds.

    Raises
    ------
    DataError
        Naming them, and the file that lacks them.
    """
    _refuse(real, pred, set(real.lines), set(pred.lines), "cell lines", "")


def refuse_other_labels(real: CellsFile, pred: CellsFile, line: str, control: str) -> None:
    """Refuse perturbations of a line that only one side holds, or a line without any.

    Raises
    ------
    DataError
        Naming them, and the file that lacks them.
    """
    held = [set(side.labels[side.rows_of_line(line)]) - {control} for side in (real, pred)]
    _refuse(real, pred, held[0], held[1], "perturbations", f" of cell line {line!r}")
    if not held[0]:
        raise DataError(
            f"cell line {line!r} holds nothing but controls",
            where=pred.path,
            fix=did_you_mean(control, sorted(set(pred.labels[pred.rows_of_line(line)]))),
        )


def _refuse(
    real: CellsFile, pred: CellsFile, there: set[str], here: set[str], what: str, of: str
) -> None:
    lacking, more = sorted(there - here), sorted(here - there)
    if not lacking and not more:
        return
    if lacking:
        side, told = pred, f"the prediction lacks {len(lacking)} of {len(there)} {what}{of}"
    else:
        side, told = real, f"the real cells lack {len(more)} of {len(here)} predicted {what}{of}"
    alike = f"{did_you_mean(lacking[0], more)} " if lacking and more else ""
    raise DataError(
        f"{told}: {_listed(lacking or more)}",
        where=side.path,
        fix=f"{alike}Add their cells, or score what both files hold with --common-only",
    )


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
