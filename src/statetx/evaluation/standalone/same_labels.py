"""Match labels and cell lines of files by meaning instead of spelling."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from statetx.evaluation.standalone.cells_file import CellsFile
from statetx.shared.label_counts import IF_IDS, counted
from statetx.shared.label_kinds import read_as
from statetx.shared.label_parsing import normal
from statetx.shared.labels import Reading, Spellings

log = logging.getLogger(__name__)

SHOWN = 4


def matched(
    files: Sequence[CellsFile], setting: str, controls: Sequence[str]
) -> tuple[list[CellsFile], Reading, Spellings]:
    """Give each label and each cell line the same spelling in all files: that of the first file.

    Cells of one file with several spellings of a label, or of a line, are pooled. Changed spellings
    and pooled labels are logged.

    Parameters
    ----------
    files
        The files, the real one first, in which aliases of the control are already replaced.
    setting
        How labels are read: ``auto`` (decided by the labels of the first file), ``drug_dose``, a
        format, or ``plain``.
    controls
        The control label and its aliases.

    Returns
    -------
    files
        The files with the common spellings.
    reading
        How labels are read.
    spellings
        The spelling of each label.
    """
    known = sorted(set(files[0].labels))
    reading = read_as(setting, known, controls)
    labels, lines = Spellings(reading.canonical, controls[:1]), Spellings(normal)
    out = []
    for file in files:
        new_labels = _meaning(file, "label", file.labels, labels)
        new_lines = _meaning(file, "cell line", file.lines, lines)
        out.append(replace(file, labels=new_labels, lines=new_lines))
    count = counted(reading, known, setting)
    log.info("%s", count.text)
    if count.collapse:
        log.warning("%s: %s (--labels plain)", count.collapse, IF_IDS)
    return out, reading, labels


def _meaning(file: CellsFile, what: str, values: np.ndarray, names: Spellings) -> np.ndarray:
    """Return names in their common spelling; log which were changed, and which are pooled."""
    present = sorted(set(values))
    names.add(present)
    chosen = {name: names.find(name) or name for name in present}
    other = {name: spelling for name, spelling in chosen.items() if spelling != name}
    if not other:
        return values
    pooled: dict[str, list[str]] = {}
    for name, spelling in chosen.items():
        pooled.setdefault(spelling, []).append(name)
    pooled_names = {
        spelling: spellings for spelling, spellings in pooled.items() if len(spellings) > 1
    }
    if pooled_names:
        log.warning(
            "%s: cells of %d %ss have several spellings and are pooled: %s",
            file.path,
            len(pooled_names),
            what,
            _shown([" = ".join(_told(*spellings)) for spellings in pooled_names.values()]),
        )
    single = {name: spelling for name, spelling in other.items() if spelling not in pooled_names}
    if single:
        log.info(
            "%s: %d %ss have a different spelling and are matched: %s",
            file.path,
            len(single),
            what,
            _shown([" is ".join(_told(name, spelling)) for name, spelling in single.items()]),
        )
    return np.array([chosen[name] for name in values], dtype=object)


def _told(*names: str) -> list[str]:
    """Return names in quotes, with escapes if they would look the same."""
    look_alike = len({normal(name) for name in names}) < len(names)
    return [ascii(name) if look_alike else repr(name) for name in names]


def _shown(texts: Sequence[str]) -> str:
    more = f"; … ({len(texts)} in all)" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
