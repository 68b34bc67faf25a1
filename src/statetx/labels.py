"""Perturbation labels: one parser between the spellings of a label and (drug, dose, unit)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass

_DOSE = re.compile(r"(?P<drug>.+)_(?P<dose>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*(?P<unit>[^\W\d_]+)?$")


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


def parse(raw: str) -> Label:
    """Take a label apart.

    Understands ``Drug_0.5``, ``Drug_0.2uM``, ``[('Drug', 0.5, 'uM')]`` (several tuples make a
    combination) and plain names. A label that is none of these is a drug without dose.

    Parameters
    ----------
    raw
        The label.
    """
    if raw.startswith("[("):
        parts = _tuples(raw)
        if parts:
            drug = "+".join(name for name, _, _ in parts)
            same = {(dose, unit) for _, dose, unit in parts}
            dose, unit = same.pop() if len(same) == 1 else (None, "")
            return Label(raw, drug, dose, unit)
    found = _DOSE.match(raw)
    if found:
        return Label(raw, found["drug"], float(found["dose"]), found["unit"] or "")
    return Label(raw, raw, None, "")


def _tuples(raw: str) -> list[tuple[str, float, str]]:
    try:
        value = ast.literal_eval(raw)
        return [(str(name), float(dose), str(unit)) for name, dose, unit in value]
    except (ValueError, SyntaxError, TypeError):
        return []


def controls(declared: str | Iterable[str]) -> list[str]:
    """Return the declared control labels as a list, the canonical one first."""
    return [declared] if isinstance(declared, str) else list(declared)
