"""Perturbation labels: one parser between the spellings of a label and (drug, dose, unit)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass

_DOSE = re.compile(r"(?P<drug>.+)_(?P<dose>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*(?P<unit>[^\W\d_]+)?$")

_PLUS_IN_NAME = re.compile(r"(^|[(\[-])\s*\+|\+\s*($|[)\],-])")
"""Such as (+)-Catechin: a plus that joins nothing."""
UM = {"": 1.0, "uM": 1.0, "µM": 1.0, "μM": 1.0, "nM": 1e-3, "pM": 1e-6, "mM": 1e3, "M": 1e6}
"""Concentrations in uM."""


@dataclass(frozen=True)
class Label:
    """A perturbation label, taken apart.

    Attributes
    ----------
    raw
        The label as it stands in the data.
    drug
        Name without dose, exactly as written (trailing blanks kept); ``A+B`` for combinations.
    dose
        Number, or None when the label has none.
    unit
        Unit of the dose as written, or ``""``.
    """

    raw: str
    drug: str
    dose: float | None
    unit: str

    @property
    def canonical(self) -> str:
        """The one spelling of all labels that mean the same: ``Drug_0.5``.

        Blanks around names are dropped, the parts of a combination sorted, the dose is in uM (a dose
        without a unit too) and as short as it can be; a unit that is no concentration is kept. For
        comparing and for showing: cells keep their raw label.
        """
        parts = [(name.strip(), _in_um(dose, unit)) for name, dose, unit in _parts(self.raw)]
        if len({dose for _, dose in parts}) > 1:
            return "+".join(sorted(spell(*part) for part in parts))
        names = [name for name, _ in parts] or [self.drug.strip()]
        if not parts and not _PLUS_IN_NAME.search(self.drug):
            names = [name.strip() for name in self.drug.split("+")]
        dose = self.dose if self.dose is None else _in_um(self.dose, self.unit)
        return spell("+".join(sorted(names)), dose)


def parse(raw: str) -> Label:
    """Take a label apart.

    Understands ``Drug_0.5``, ``Drug_0.2uM``, ``[('Drug', 0.5, 'uM')]``, combinations (several such
    tuples, ``A_0.5+B_1``, ``A+B``) and plain names. A label that is none of these is a drug without
    dose; a combination has a dose if its parts agree in it.

    Parameters
    ----------
    raw
        The label.
    """
    parts = _parts(raw)
    if parts:
        same = {(dose, unit) for _, dose, unit in parts}
        dose, unit = same.pop() if len(same) == 1 else (None, "")
        return Label(raw, "+".join(name for name, _, _ in parts), dose, unit)
    found = _DOSE.match(raw)
    if found:
        return Label(raw, found["drug"], float(found["dose"]), found["unit"] or "")
    return Label(raw, raw, None, "")


def spell(drug: str, dose: float | str | None = None) -> str:
    """Return the label of a drug at a dose, ``Drug_0.5``; `parse` takes it apart again."""
    return drug if dose is None else f"{drug}_{dose if isinstance(dose, str) else f'{dose:.12g}'}"


def _in_um(dose: float, unit: str) -> str:
    factor = UM.get(unit)
    return f"{dose:.12g}{unit}" if factor is None else f"{dose * factor:.12g}"


def _parts(raw: str) -> list[tuple[str, float, str]]:
    """Return (drug, dose, unit) of each part of a label in tuples, or of a combination with doses."""
    if raw.startswith("[("):
        try:
            value = ast.literal_eval(raw)
            return [(str(name), float(dose), str(unit)) for name, dose, unit in value]
        except (ValueError, SyntaxError, TypeError):
            return []
    found = [_DOSE.match(part) for part in raw.split("+")]
    if len(found) < 2 or not all(found):
        return []
    return [(m["drug"], float(m["dose"]), m["unit"] or "") for m in found if m]


def controls(declared: str | Iterable[str]) -> list[str]:
    """Return the declared control labels as a list, the canonical one first."""
    return [declared] if isinstance(declared, str) else list(declared)


def control_spellings(labels: Iterable[str], declared: Iterable[str]) -> list[str]:
    """Return labels that mean a declared control but are spelt in another way.

    ``[('DMSO_TF', 0.0, 'uM')]``, ``DMSO_TF_00`` and ``DMSO_TF`` are one control: the drug of a declared
    label, without a dose or at dose 0.
    """
    known = list(declared)
    drugs = {parse(label).drug.strip() for label in known}
    return sorted(
        label
        for label in set(labels) - set(known)
        if (parsed := parse(label)).drug.strip() in drugs and not parsed.dose
    )
