"""How many drugs and doses the labels of a data set are, for people.

Apart from the decision, so that a reworded message packs nothing again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from statetx.shared.label_kinds import decided
from statetx.shared.labels import AUTO, DRUG_DOSE, PLAIN, Reading, control_spellings

MOST_PER_DRUG = 8
"""More labels than this per drug, on average, are a collapse."""
IF_IDS = "if the numbers at the ends of labels are ids and not doses, set `labels: plain`"


@dataclass(frozen=True)
class Count:
    """How many drugs and doses the labels of a data set are, for people.

    Attributes
    ----------
    drugs, doses
        Different ones.
    text
        ``20 drugs, 3 doses``, and how the labels are read.
    collapse
        Labels that become few drugs, in words, see `IF_IDS`; None: they do not.
    """

    drugs: int
    doses: int
    text: str
    collapse: str | None


def counted(reading: Reading, labels: Iterable[str], setting: str | None = None) -> Count:
    """Count drugs and doses.

    Parameters
    ----------
    reading
        How labels are read.
    labels
        All labels of the data set.
    setting
        What was asked for; of ``auto`` the evidence is told. None: it is not known.
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
