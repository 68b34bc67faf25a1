"""Perturbation labels: what each means, in one spelling, for all labels of a data set alike.

Cells and files keep their raw labels. Whatever compares labels compares `Reading.canonical` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from statetx.core.errors import ResultsError
from statetx.shared.spelling import FORMAT, UM, Part, dosed, in_um, joined, normal, pattern, tuples

__all__ = ["UM", "Label", "Reading", "control_spellings", "controls", "parse", "spell"]

DRUG_DOSE, PLAIN, AUTO = "drug_dose", "plain", "auto"


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
        """The one spelling of all labels that mean the same, see `Reading.canonical`."""
        return Reading().canonical(self.raw)


@dataclass(frozen=True)
class Reading:
    """How the labels of a data set are read.

    Attributes
    ----------
    kind
        ``drug_dose`` (a number at the end is a dose), a format such as ``{drug}@{dose}{unit}``, or
        ``plain`` (a label is a name, whatever number it ends in).
    controls
        The control label and its aliases: as parts of a combination they say nothing.
    """

    kind: str = DRUG_DOSE
    controls: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, said: Mapping[str, Any], control: str) -> Reading:
        """Return the reading that a manifest, or ``model.json``, says; without a word: with doses.

        Raises
        ------
        ResultsError
            It says something else.
        """
        kind = str(said.get("labels") or DRUG_DOSE)
        try:
            if kind not in (DRUG_DOSE, PLAIN):
                pattern(kind)
        except ValueError as error:
            raise ResultsError(
                f"labels are read as {kind!r}, which this version does not know",
                fix="pack the data set again with this version, and train or import the model again",
            ) from error
        return cls(kind, (control, *map(str, said.get("control_aliases") or ())))

    def said(self) -> dict[str, str]:
        """Return what a manifest says of it: nothing where labels have doses in the usual format."""
        return {} if self.kind == DRUG_DOSE else {"labels": self.kind}

    def parse(self, raw: str) -> Label:
        """Take a label apart, as written.

        Understands ``Drug_0.5``, ``Drug_0.2uM``, ``[('Drug', 0.5, 'uM')]``, combinations (several such
        tuples, ``A_0.5+B_1``, ``A+B``) and plain names. A label that is none of these is a drug
        without dose; a combination has a dose if its parts agree in it.

        Parameters
        ----------
        raw
            The label.
        """
        if self.kind == PLAIN:
            return Label(raw, raw, None, "")
        parts = tuples(raw) or self._each_dosed(raw)
        if parts:
            same = {(dose, unit) for _, dose, unit in parts}
            dose, unit = same.pop() if len(same) == 1 else (None, "")
            return Label(raw, "+".join(name for name, _, _ in parts), dose, unit)
        return Label(raw, *self._one(raw))

    def canonical(self, raw: str) -> str:
        """Return the one spelling of all labels that mean the same: ``Drug_0.5``, ``A+B``.

        Names are in the form of `spelling.normal`, the parts of a combination sorted and without
        controls, the dose is in uM (a dose without a unit too) and as short as it can be; a unit that
        is not a concentration is kept.

        Parameters
        ----------
        raw
            The label.
        """
        parts = self._parts(raw)
        if len({part[1:] for part in parts}) == 1:
            names = "+".join(sorted(name for name, _, _ in parts))
            return spell(names, _amount(parts[0]))
        return "+".join(sorted(spell(part[0], _amount(part)) for part in parts))

    def drug_and_dose(self, raw: str) -> tuple[str, float | None]:
        """Return the drug of a label, and its dose in uM; equal for all spellings.

        A unit that is not a concentration belongs to the drug's name: its doses cannot be compared
        with the others. A combination with a dose for each part has no dose of its own.
        """
        if self.kind == PLAIN:
            return self.canonical(raw), None
        parts = self._parts(raw)
        drug = "+".join(sorted(name for name, _, _ in parts))
        dose, unit = parts[0][1:] if len({part[1:] for part in parts}) == 1 else (None, "")
        return drug + (f" ({unit})" if unit else ""), dose

    def described(self, labels: Iterable[str]) -> dict[str, Label]:
        """Return labels taken apart, each drug under one name and doses in one unit.

        Of several spellings of a drug the first in the alphabet is its name. Doses are as written, or in
        uM where some are in other concentrations than the rest.

        Parameters
        ----------
        labels
            All labels of a data set.
        """
        found = {raw: self.parse(raw) for raw in sorted(set(labels))}
        names: dict[str, str] = {}
        for raw, label in found.items():
            drug = self.drug_and_dose(raw)[0]
            names[drug] = min(names.get(drug, label.drug), label.drug)
        known = [normal(label.unit) for label in found.values() if label.dose]
        mixed = len({UM[unit] for unit in known if unit in UM}) > 1
        out = {}
        for raw, label in found.items():
            named = replace(label, drug=names[self.drug_and_dose(raw)[0]])
            if mixed and label.dose is not None and normal(label.unit) in UM:
                named = replace(named, dose=in_um(label.dose, label.unit)[0], unit="uM")
            out[raw] = named
        return out

    def _parts(self, raw: str) -> list[Part]:
        """Return name, dose in uM and unit of each part of a label that is not a control."""
        found, names = self._all_parts(raw), _control_names(self)
        kept = [part for part in found if part[0] not in names]
        if kept or not names or any(dose for _, dose, _ in found):
            return kept or found
        return self._all_parts(self.controls[0])[:1]

    def _all_parts(self, raw: str) -> list[Part]:
        parts = tuples(raw) or self._each_dosed(raw)
        if not parts:
            whole, each = self._one(raw), [self._one(name) for name in joined(raw)]
            # In A+B_0.5 both are at this dose.
            parts = each if any(dose is not None for _, dose, _ in each[:-1]) else [whole]
        out: list[Part] = []
        for name, dose, unit in parts:
            amount = (None, "") if dose is None else in_um(dose, unit)
            out += [(normal(one), *amount) for one in joined(name)]
        return out

    def _each_dosed(self, raw: str) -> list[Part]:
        """Return the parts of a combination in which each has a dose, [] for other labels."""
        each = [] if self.kind == PLAIN else [self._one(part) for part in raw.split("+")]
        return each if len(each) > 1 and all(dose is not None for _, dose, _ in each) else []

    def _one(self, raw: str) -> Part:
        found = None
        if self.kind != PLAIN:
            found = dosed(raw, pattern(FORMAT if self.kind == DRUG_DOSE else self.kind))
        return (raw, None, "") if found is None else found


WITH_DOSES = Reading()
"""The reading of labels with a dose in the usual format, where nothing else is known."""


class Spellings:
    """Names found by what they mean: one spelling stands for all, the first that was added.

    Of several that are added together it is the canonical one, else the first in the alphabet.

    Parameters
    ----------
    canonical
        Gives what a name means.
    names
        Added at once.
    """

    def __init__(self, canonical: Callable[[str], str], names: Iterable[str] = ()) -> None:
        self._canonical = canonical
        self._chosen: dict[str, str] = {}
        self.add(names)

    def add(self, names: Iterable[str]) -> None:
        """Add names that stand for what they mean, unless others do already."""
        meant = [(canonical := self._canonical(name), canonical != name, name) for name in names]
        for meaning, _, name in sorted(meant):
            self._chosen.setdefault(meaning, name)

    def find(self, name: str) -> str | None:
        """Return the spelling that stands for a name; None: nothing means the same."""
        return self._chosen.get(self._canonical(name))


@cache
def _control_names(reading: Reading) -> frozenset[str]:
    """Return the names of the controls, without those that are combinations of different names."""
    each = [{part[0] for part in reading._all_parts(label)} for label in reading.controls]
    return frozenset(name for names in each if len(names) == 1 for name in names)


def parse(raw: str) -> Label:
    """Take a label with a dose in the usual format apart, see `Reading.parse`."""
    return Reading().parse(raw)


def spell(drug: str, dose: float | str | None = None) -> str:
    """Return the label of a drug at a dose, ``Drug_0.5``; `parse` takes it apart again."""
    return drug if dose is None else f"{drug}_{dose if isinstance(dose, str) else f'{dose:.12g}'}"


def _amount(part: Part) -> str | None:
    return None if part[1] is None else f"{part[1]:.12g}{part[2]}"


def controls(declared: str | Iterable[str]) -> list[str]:
    """Return the declared control labels as a list, the canonical one first."""
    return [declared] if isinstance(declared, str) else list(declared)


def control_spellings(
    labels: Iterable[str], declared: Iterable[str], kind: str = DRUG_DOSE
) -> list[str]:
    """Return labels that mean a declared control but are spelt in another way.

    ``[('DMSO_TF', 0.0, 'uM')]``, ``DMSO_TF_00`` and ``DMSO_TF`` are one control: the drug of a declared
    label, without a dose or at dose 0.
    """
    known = list(declared)
    reading = Reading(kind, tuple(known))
    meant = {reading.canonical(label) for label in known}
    return sorted(label for label in set(labels) - set(known) if reading.canonical(label) in meant)
