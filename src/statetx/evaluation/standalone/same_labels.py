"""Labels and cell lines of files, matched by what they mean and not by how they are spelt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from statetx.evaluation.standalone.cells_file import CellsFile
from statetx.shared.label_counts import IF_IDS, counted
from statetx.shared.label_kinds import read_as
from statetx.shared.labels import Reading, Spellings
from statetx.shared.spelling import normal

log = logging.getLogger(__name__)

SHOWN = 4


def matched(
    sides: Sequence[CellsFile], setting: str, controls: Sequence[str]
) -> tuple[list[CellsFile], Reading, Spellings]:
    """Return files with one spelling of every label and line: that of the first file.

    Cells of one file under several spellings of a label, or of a line, are pooled; both is said.

    Parameters
    ----------
    sides
        The files, the real one first. Aliases of the control are replaced.
    setting
        What labels are: ``auto`` (decided by those of the first file), ``drug_dose``, a format, ``plain``.
    controls
        The control label and its aliases.

    Returns
    -------
    The files, how their labels are read, and the spelling of every label.
    """
    known = sorted(set(sides[0].labels))
    reading = read_as(setting, known, controls)
    labels, lines = Spellings(reading.canonical, controls[:1]), Spellings(normal)
    out = []
    for side in sides:
        here = _meaning(side, "label", side.labels, labels)
        there = _meaning(side, "cell line", side.lines, lines)
        out.append(replace(side, labels=here, lines=there))
    count = counted(reading, known, setting)
    log.info("%s", count.text)
    if count.collapse:
        log.warning("%s: %s (--labels plain)", count.collapse, IF_IDS)
    return out, reading, labels


def _meaning(side: CellsFile, what: str, values: np.ndarray, names: Spellings) -> np.ndarray:
    """Return names in their one spelling; say which were another, and which are pooled."""
    own = sorted(set(values))
    names.add(own)
    chosen = {name: names.find(name) or name for name in own}
    other = {name: one for name, one in chosen.items() if one != name}
    if not other:
        return values
    pooled: dict[str, list[str]] = {}
    for name, one in chosen.items():
        pooled.setdefault(one, []).append(name)
    several = {one: found for one, found in pooled.items() if len(found) > 1}
    if several:
        log.warning(
            "%s: cells of %d %ss stand under several spellings and are pooled: %s",
            side.path,
            len(several),
            what,
            _shown([" = ".join(_told(*found)) for found in several.values()]),
        )
    single = {name: one for name, one in other.items() if one not in several}
    if single:
        log.info(
            "%s: %d %ss are matched in another spelling: %s",
            side.path,
            len(single),
            what,
            _shown([" is ".join(_told(name, one)) for name, one in single.items()]),
        )
    return np.array([chosen[name] for name in values], dtype=object)


def _told(*names: str) -> list[str]:
    """Return names in quotes, with escapes where they would look the same."""
    alike = len({normal(name) for name in names}) < len(names)
    return [ascii(name) if alike else repr(name) for name in names]


def _shown(texts: Sequence[str]) -> str:
    more = f"; … ({len(texts)} in all)" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
