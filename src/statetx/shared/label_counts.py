"""Number of drugs and doses in the labels of a data set, as text for users.

This code is separate from `label_kinds`, so that a reworded message does not make a packed data set
stale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from statetx.shared.label_kinds import decided
from statetx.shared.labels import AUTO, DRUG_DOSE, PLAIN, Reading, control_spellings

MOST_PER_DRUG = 8
"""Mean number of labels per drug above which the labels count as collapsed into too few drugs."""
IF_IDS = "if the numbers at the ends of labels are ids and not doses, set `labels: plain`"


@dataclass(frozen=True)
class Count:
    """Number of drugs and doses in the labels of a data set.

    Attributes
    ----------
    drugs, doses
        Number of different drugs and doses.
    text
        Both numbers, and how the labels are read: ``20 drugs, 3 doses: labels are read as …``.
    collapse
        Warning that many labels become few drugs (its fix is `IF_IDS`), or None.
    """

    drugs: int
    doses: int
    text: str
    collapse: str | None


def counted(reading: Reading, labels: Iterable[str], setting: str | None = None) -> Count:
    """Count the drugs and doses of a data set, without its controls.

    Parameters
    ----------
    reading
        How labels are read.
    labels
        All labels of the data set.
    setting
        The setting ``labels``. With ``auto``, the text also gives the evidence. None: unknown.
    """
    names = set(labels) - set(reading.controls)
    names -= set(control_spellings(names, reading.controls, reading.kind))
    pairs = [reading.drug_and_dose(name) for name in sorted(names)]
    drugs = {drug for drug, _ in pairs}
    doses = {dose for _, dose in pairs if dose is not None}
    as_ = {DRUG_DOSE: "as drug and dose", PLAIN: "as plain names"}
    text = f"{_many(len(drugs), 'drug')}, {_many(len(doses), 'dose')}: labels are read "
    text += as_.get(reading.kind, f"as {reading.kind}")
    if setting == AUTO:
        text += f" ({decided(names, reading.controls)[1]})"
    few = len(names) > MOST_PER_DRUG * len(drugs) or (len(drugs) == 1 and len(names) > 3)
    collapse = f"{_many(len(names), 'label')} are only {_many(len(drugs), 'drug')}"
    return Count(len(drugs), len(doses), text, collapse if few and doses else None)


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
