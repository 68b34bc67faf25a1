"""Meaning of perturbation labels: drug, dose, unit, and one canonical spelling.

All labels of a data set are read in the same way. Cells and files keep their raw labels. Code that
compares labels compares their `Reading.canonical`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from statetx.core.errors import ResultsError
from statetx.shared.label_parsing import (
    FORMAT,
    UM,
    Part,
    dosed,
    in_um,
    joined,
    normal,
    pattern,
    tuples,
)

__all__ = ["UM", "Label", "Reading", "control_spellings", "controls", "parse", "spell"]

DRUG_DOSE, PLAIN, AUTO = "drug_dose", "plain", "auto"


@dataclass(frozen=True)
class Label:
    """Parsed perturbation label.

    Attributes
    ----------
    raw
        The label as written in the data.
    drug
        Name without dose, exactly as written (trailing blanks kept); ``A+B`` for combinations.
    dose
        Dose in `unit`, or None if the label does not have one.
    unit
        Unit of the dose as written, or ``""``.
    """

    raw: str
    drug: str
    dose: float | None
    unit: str

    @property
    def canonical(self) -> str:
        """Return the canonical spelling with the default reading, see `Reading.canonical`."""
        return Reading().canonical(self.raw)


@dataclass(frozen=True)
class Reading:
    """Rules by which the labels of a data set are read.

    Attributes
    ----------
    kind
        ``drug_dose`` (a number at the end is a dose), a format such as ``{drug}@{dose}{unit}``, or
        ``plain`` (the whole label is a name, even if it ends in a number).
    controls
        The control label and its aliases. In a combination they are ignored.
    """

    kind: str = DRUG_DOSE
    controls: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, said: Mapping[str, Any], control: str) -> Reading:
        """Return the reading that a manifest or ``model.json`` states; ``drug_dose`` by default.

        Parameters
        ----------
        said
            Settings of the file, with ``labels`` and ``control_aliases`` if present.
        control
            The control label.

        Raises
        ------
        ResultsError
            ``labels`` is not a valid kind.
        """
        kind = str(said.get("labels") or DRUG_DOSE)
        try:
            if kind not in (DRUG_DOSE, PLAIN):
                pattern(kind)
        except ValueError as error:
            raise ResultsError(
                f"labels are read as {kind!r}, which this version does not know",
                fix="pack the data set again with this version, then train or import the model "
                "again",
            ) from error
        return cls(kind, (control, *map(str, said.get("control_aliases") or ())))

    def said(self) -> dict[str, str]:
        """Return the entry of a manifest for this reading; empty for ``drug_dose``, the default."""
        return {} if self.kind == DRUG_DOSE else {"labels": self.kind}

    def parse(self, raw: str) -> Label:
        """Parse a label, without changing how its parts are written.

        Accepts ``Drug_0.5``, ``Drug_0.2uM``, ``[('Drug', 0.5, 'uM')]``, combinations (several such
        tuples, ``A_0.5+B_1``, ``A+B``) and plain names. Any other label is a drug without a dose. A
        combination has a dose if all its parts have the same dose and unit.

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
        """Return the canonical spelling, equal for all labels with the same meaning: ``Drug_0.5``.

        Names have the form of `label_parsing.normal`. The parts of a combination are sorted, without
        controls. The dose is in uM, written as short as possible; a dose without a unit is in uM. A
        unit that is not a concentration is kept.

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

        A unit that is not a concentration becomes part of the drug's name, because its doses cannot
        be compared with concentrations. A combination whose parts have different doses has no dose.

        Parameters
        ----------
        raw
            The label.
        """
        if self.kind == PLAIN:
            return self.canonical(raw), None
        parts = self._parts(raw)
        drug = "+".join(sorted(name for name, _, _ in parts))
        dose, unit = parts[0][1:] if len({part[1:] for part in parts}) == 1 else (None, "")
        return drug + (f" ({unit})" if unit else ""), dose

    def described(self, labels: Iterable[str]) -> dict[str, Label]:
        """Return parsed labels, with one name per drug and one unit for all concentrations.

        If a drug has several spellings, the first in the alphabet is its name. Doses stay as
        written, unless the labels use several concentration units: then they are in uM.

        Parameters
        ----------
        labels
            All labels of a data set.

        Returns
        -------
        dict
            The parsed label of each raw label.
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
        """Return name, dose in uM and unit of each part of a label, without controls."""
        found, names = self._all_parts(raw), _control_names(self)
        kept = [part for part in found if part[0] not in names]
        if kept or not names or any(dose for _, dose, _ in found):
            return kept or found
        return self._all_parts(self.controls[0])[:1]

    def _all_parts(self, raw: str) -> list[Part]:
        parts = tuples(raw) or self._each_dosed(raw)
        if not parts:
            names = joined(raw)
            whole, each = self._one(raw), [self._one(name) for name in names]
            # In A+B_0.5, the dose belongs to both drugs; in A+DMSO_00, it belongs to the control.
            last_is_control = len(names) > 1 and normal(names[-1]) in map(normal, self.controls)
            alone = last_is_control or any(dose is not None for _, dose, _ in each[:-1])
            parts = each if alone else [whole]
        out: list[Part] = []
        for name, dose, unit in parts:
            amount = (None, "") if dose is None else in_um(dose, unit)
            out += [(normal(one), *amount) for one in joined(name)]
        return out

    def _each_dosed(self, raw: str) -> list[Part]:
        """Return the parts of a combination if each part has a dose, else []."""
        each = [] if self.kind == PLAIN else [self._one(part) for part in raw.split("+")]
        return each if len(each) > 1 and all(dose is not None for _, dose, _ in each) else []

    def _one(self, raw: str) -> Part:
        found = None
        if self.kind != PLAIN:
            found = dosed(raw, pattern(FORMAT if self.kind == DRUG_DOSE else self.kind))
        return (raw, None, "") if found is None else found


WITH_DOSES = Reading()
"""Default reading: labels may end in a dose."""


class Spellings:
    """Index of names by meaning, with one chosen spelling per meaning.

    The first added spelling is chosen. Of several spellings that are added in one call, it is the
    canonical spelling, or else the first in the alphabet.

    Parameters
    ----------
    canonical
        Function that returns the canonical spelling of a name.
    names
        Names to add immediately.
    """

    def __init__(self, canonical: Callable[[str], str], names: Iterable[str] = ()) -> None:
        self._canonical = canonical
        self._chosen: dict[str, str] = {}
        self.add(names)

    def add(self, names: Iterable[str]) -> None:
        """Add names; a meaning that already has a spelling keeps it.

        Parameters
        ----------
        names
            The names.
        """
        meant = [(canonical := self._canonical(name), canonical != name, name) for name in names]
        for meaning, _, name in sorted(meant):
            self._chosen.setdefault(meaning, name)

    def find(self, name: str) -> str | None:
        """Return the chosen spelling with the meaning of a name, or None.

        Parameters
        ----------
        name
            Any spelling.
        """
        return self._chosen.get(self._canonical(name))


@cache
def _control_names(reading: Reading) -> frozenset[str]:
    """Return the normal names of the controls, without combinations of different names."""
    each = [{part[0] for part in reading._all_parts(label)} for label in reading.controls]
    return frozenset(name for names in each if len(names) == 1 for name in names)


def parse(raw: str) -> Label:
    """Parse a label with the default reading, see `Reading.parse`.

    Parameters
    ----------
    raw
        The label.
    """
    return Reading().parse(raw)


def spell(drug: str, dose: float | str | None = None) -> str:
    """Return the label of a drug at a dose, ``Drug_0.5``; `parse` is the inverse.

    Parameters
    ----------
    drug
        Name of the drug.
    dose
        The dose as number, or as text with its unit. None: the label is the name.
    """
    return drug if dose is None else f"{drug}_{dose if isinstance(dose, str) else f'{dose:.12g}'}"


def _amount(part: Part) -> str | None:
    return None if part[1] is None else f"{part[1]:.12g}{part[2]}"


def controls(declared: str | Iterable[str]) -> list[str]:
    """Return the declared control labels as a list, the canonical label first.

    Parameters
    ----------
    declared
        One label, or several with the canonical label first.
    """
    return [declared] if isinstance(declared, str) else list(declared)


def control_spellings(
    labels: Iterable[str], declared: Iterable[str], kind: str = DRUG_DOSE
) -> list[str]:
    """Return the labels that are other spellings of a declared control, sorted.

    ``[('DMSO_TF', 0.0, 'uM')]``, ``DMSO_TF_00`` and ``DMSO_TF`` are the same control: the drug of a
    declared label, without a dose or at dose 0.

    Parameters
    ----------
    labels
        All labels of the data set.
    declared
        The control label and its aliases.
    kind
        How labels are read, see `Reading`.
    """
    known = list(declared)
    reading = Reading(kind, tuple(known))
    meant = {reading.canonical(label) for label in known}
    return sorted(label for label in set(labels) - set(known) if reading.canonical(label) in meant)
