"""Are the numbers at the ends of labels doses, or ids? Decided once per data set, from all its labels.

`Drug_0.5` has a dose; `cmpd_001`, the guide `TP53_2`, the compound `BRD_12345` and the time point `IFNB_6h`
have none. A wrong answer holds out whole libraries as one drug, or splits the doses of one drug.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from statetx.shared.labels import AUTO, DRUG_DOSE, PLAIN, Reading, control_spellings
from statetx.shared.spelling import FORMAT, UM, normal, number, pattern, tuples

if TYPE_CHECKING:
    import pandas as pd

_AMOUNTS = frozenset(
    {"kg", "g", "mg", "ug", "μg", "ng", "pg", "fg", "mol", "mmol", "umol", "μmol", "nmol", "pmol"}
    | {"U", "mU", "kU", "IU", "Gy", "cGy", "mGy", "%", *UM}
) - {""}
"""Units of doses, in their `normal` form and without a volume; hours and days are among the others."""


@dataclass
class _Numbers:
    """Numbers at the ends of labels.

    Attributes
    ----------
    labels, dosed, explicit
        Labels, those with a number, and those that are tuples.
    texts, units
        The numbers as written, outside of tuples, and all units.
    by_drug
        Numbers of each name.
    """

    labels: int = 0
    dosed: int = 0
    explicit: int = 0
    texts: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    by_drug: dict[str, set[float]] = field(default_factory=dict)

    @classmethod
    def from_labels(cls, labels: Iterable[str]) -> _Numbers:
        out, written = cls(), pattern(FORMAT)
        for label in labels:
            out.labels += 1
            parts = tuples(label)
            out.explicit += bool(parts)
            found = [part for part in parts if part[1] is not None]
            for text in [] if parts else label.split("+"):
                match = written.fullmatch(text)
                dose = None if match is None else number(match["dose"])
                if match is not None and dose is not None:
                    out.texts.append(match["dose"])
                    found.append((match["drug"], dose, match["unit"] or ""))
            out.dosed += bool(found)
            for name, dose, unit in found:
                out.units.append(normal(unit))
                out.by_drug.setdefault(normal(name), set()).add(float(dose or 0))
        return out


def read_as(setting: str, labels: Iterable[str], controls: Sequence[str]) -> Reading:
    """Return how the labels of a data set are read.

    Parameters
    ----------
    setting
        ``labels`` of the data set: ``auto``, ``drug_dose``, a format, or ``plain``.
    labels
        All labels of the data set.
    controls
        The control label and its aliases; they are no evidence.
    """
    kind = decided(labels, controls)[0] if setting == AUTO else setting
    return Reading(kind, tuple(controls))


def decided(labels: Iterable[str], controls: Sequence[str]) -> tuple[str, str]:
    """Return ``drug_dose`` or ``plain``, and the evidence in words.

    In this order: units of doses, or other ones; numbers on most labels; numbers written like ids
    (``001``), or that count from 0 or 1 (``_1, _2, _3``); several doses of most drugs, or doses that drugs share;
    doses of a drug in steps of a fifth and more; few digits.

    Parameters
    ----------
    labels, controls
        As for `read_as`.
    """
    names = set(labels) - set(controls)
    names -= set(control_spellings(names, controls))
    found = _Numbers.from_labels(sorted(names))
    if not found.dosed:
        return PLAIN, "no label ends in a number"
    units = [unit for unit in found.units if unit]
    amounts = [unit for unit in units if unit.partition("/")[0] in _AMOUNTS]
    if 2 * len(amounts) > len(found.units):
        return DRUG_DOSE, f"the numbers have units, such as {amounts[0]}"
    if 2 * len(units) > len(found.units):
        other = next(unit for unit in units if unit not in amounts)
        return PLAIN, f"{other!r} is not a unit of doses"
    if 2 * found.explicit > found.labels:
        return DRUG_DOSE, "the labels are tuples of drug, dose and unit"
    against = _against(found)
    if against:
        return PLAIN, against
    several = sum(len(numbers) > 1 for numbers in found.by_drug.values())
    if several:
        return DRUG_DOSE, f"{several} of {len(found.by_drug)} names have several numbers"
    return DRUG_DOSE, "the numbers have decimals, or names share them"


def _against(found: _Numbers) -> str | None:
    """Return why numbers without units are not doses; None: they may be."""
    if 2 * found.dosed < found.labels:
        return f"only {found.dosed} of {found.labels} labels end in a number"
    padded = [text for text in found.texts if len(text) > 1 and text.isdigit() and text[0] == "0"]
    padded = [text for text in padded if text.strip("0")]
    if 10 * len(padded) > len(found.texts):
        return f"numbers such as {padded[0]!r} are written like ids"
    sets = list(found.by_drug.values())
    every = sorted(set().union(*sets))
    whole = sum(text.isdigit() for text in found.texts)
    if 10 * whole > 9 * len(found.texts):
        serial = _serial(every, sets)
        if serial:
            return serial
        several = 2 * sum(len(numbers) > 1 for numbers in sets) >= len(sets)
        shared = len(sets) > 1 and 2 * len(every) <= found.dosed
        if not (several or shared):
            return "most names have a number of their own"
        long = sum(len(text.strip("0")) > 3 for text in found.texts)
        if not shared and 2 * long > len(found.texts):
            return f"numbers such as {max(found.texts, key=len)!r} have the many digits of ids"
    stepped = [_steps(numbers) for numbers in sets if len(numbers) > 1]
    if 2 * sum(stepped) < len(stepped):
        return "the numbers of a name are closer together than doses are"
    return None


def _serial(every: list[float], sets: list[set[float]]) -> str | None:
    """Return what shows that whole numbers count: 1, 2, 3 of every name, some perhaps missing."""
    first, last, n = int(every[0]), int(every[-1]), len(every)
    if first in (0, 1) and last - first + 1 == n > 1:
        return f"the numbers count from {first} to {last}"
    complete = 2 * sum(len(numbers) == n for numbers in sets) >= len(sets)
    if 2 * n > last - first + 1 and n > 2 and (n > 5 or not complete):
        return f"the numbers count from {first} to {last}, with gaps"
    return None


def _steps(numbers: set[float]) -> bool:
    """Whether all numbers but 0 lie a fifth and more apart."""
    order = sorted(numbers - {0.0})
    return all(high >= 1.2 * low for low, high in pairwise(order))


def with_drugs(conditions: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """Return a table of conditions with the drug, dose and unit of each, after its perturbation."""
    label = conditions["perturbation"].map(str)
    found = reading.described(label.unique())
    out, at = conditions.copy(), list(conditions.columns).index("perturbation")
    doses = np.asarray([found[name].dose for name in label], dtype=np.float64)
    out.insert(at + 1, "drug", [found[name].drug for name in label])
    out.insert(at + 2, "dose", doses)
    out.insert(at + 3, "unit", [found[name].unit for name in label])
    return out
