"""Decision whether numbers at the end of labels are doses or ids, from all labels of a data set.

`Drug_0.5` has a dose. `cmpd_001`, the guide `TP53_2`, the compound `BRD_12345` and the time point
`IFNB_6h` do not. A wrong decision holds out a whole library as one drug, or splits the doses of one
drug between training and test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from statetx.shared.label_parsing import FORMAT, UM, normal, number, pattern, tuples
from statetx.shared.labels import AUTO, DRUG_DOSE, PLAIN, Reading, control_spellings

if TYPE_CHECKING:
    import pandas as pd

_AMOUNTS = frozenset(
    {"kg", "g", "mg", "ug", "μg", "ng", "pg", "fg", "mol", "mmol", "umol", "μmol", "nmol", "pmol"}
    | {"U", "mU", "kU", "IU", "Gy", "cGy", "mGy", "%", *UM}
) - {""}
"""Units of doses in their `normal` form, without a volume. Hours and days do not count."""


@dataclass
class _Numbers:
    """Statistics of the numbers at the end of labels.

    Attributes
    ----------
    labels
        Number of labels.
    dosed
        Number of labels with a number.
    explicit
        Number of labels that are tuples.
    texts
        The numbers as written, without those in tuples.
    units
        The unit of every number, empty where a number has none.
    by_drug
        Set of numbers of each name.
    """

    labels: int = 0
    dosed: int = 0
    explicit: int = 0
    texts: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    by_drug: dict[str, set[float]] = field(default_factory=dict)

    @classmethod
    def from_labels(cls, labels: Iterable[str]) -> _Numbers:
        """Collect the numbers of labels."""
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
        The control label and its aliases; they do not count as evidence.
    """
    kind = decided(labels, controls)[0] if setting == AUTO else setting
    return Reading(kind, tuple(controls))


def decided(labels: Iterable[str], controls: Sequence[str]) -> tuple[str, str]:
    """Return ``drug_dose`` or ``plain``, and the evidence in words.

    The evidence is checked in this order:

    1. No label ends in a number: plain.
    2. More than half of the numbers have a unit of doses: doses. More than half have another or
       mixed unit: plain.
    3. More than half of the labels are tuples: doses.
    4. Fewer than half of the labels end in a number: plain.
    5. More than a tenth of the numbers are written like ids (``001``): plain.
    6. Over 90 % of the numbers are whole: plain if they count up (``_1, _2, _3``, also with gaps),
       or if names share few numbers and most have a single number or more than three digits.
    7. Most names with several numbers have two that differ by less than a fifth: plain.
    8. Otherwise: doses.

    Parameters
    ----------
    labels, controls
        As in `read_as`.
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
    """Return why numbers without units are not doses, or None if they may be doses."""
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
    """Return the evidence that whole numbers are a serial count such as 1, 2, 3, or None.

    Some numbers of the count may be missing.
    """
    first, last, n = int(every[0]), int(every[-1]), len(every)
    if first in (0, 1) and last - first + 1 == n > 1:
        return f"the numbers count from {first} to {last}"
    complete = 2 * sum(len(numbers) == n for numbers in sets) >= len(sets)
    if 2 * n > last - first + 1 and n > 2 and (n > 5 or not complete):
        return f"the numbers count from {first} to {last}, with gaps"
    return None


def _steps(numbers: set[float]) -> bool:
    """Return whether each number except 0 is at least 1.2 times the next smaller one."""
    order = sorted(numbers - {0.0})
    return all(high >= 1.2 * low for low, high in pairwise(order))


def with_drugs(conditions: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """Return a table of conditions with columns ``drug``, ``dose`` and ``unit``.

    Parameters
    ----------
    conditions
        Table with a column ``perturbation``; the new columns follow it.
    reading
        How labels are read.
    """
    label = conditions["perturbation"].map(str)
    found = reading.described(label.unique())
    out, at = conditions.copy(), list(conditions.columns).index("perturbation")
    doses = np.asarray([found[name].dose for name in label], dtype=np.float64)
    out.insert(at + 1, "drug", [found[name].drug for name in label])
    out.insert(at + 2, "dose", doses)
    out.insert(at + 3, "unit", [found[name].unit for name in label])
    return out
