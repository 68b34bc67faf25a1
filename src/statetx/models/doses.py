"""Drug and dose behind a label, for models that read more from a label than its name."""

from __future__ import annotations

import math

from statetx.labels import parse


def drug_and_dose(label: str) -> tuple[str, float | None]:
    """Return the drug of a label and log10 of its dose in uM.

    Labels of one drug at one dose in other spellings or units give the same. A unit that is no
    concentration belongs to the drug's name: its doses cannot be compared with the others. A label
    without a dose, with dose 0 (no logarithm), or with a dose for each part is a drug of its own.

    Parameters
    ----------
    label
        Perturbation label, see `statetx.labels`.
    """
    canonical = parse(label).canonical
    found = parse(canonical)
    if not found.dose:
        return canonical, None
    return found.drug + (f" ({found.unit})" if found.unit else ""), math.log10(found.dose)
