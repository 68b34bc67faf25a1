"""Drug and dose behind a label, for models that read more from a label than its name."""

from __future__ import annotations

import math

from statetx.shared.labels import WITH_DOSES, Reading


def drug_and_dose(label: str, reading: Reading = WITH_DOSES) -> tuple[str, float | None]:
    """Return the drug of a label and log10 of its dose in uM.

    Labels of one drug at one dose in other spellings or units give the same. A unit that is not a
    concentration belongs to the drug's name: its doses cannot be compared with the others. A label
    without a dose, with dose 0 (no logarithm), or with a dose for each part is a drug of its own.

    Parameters
    ----------
    label
        Perturbation label, see `statetx.shared.labels`.
    reading
        How labels of the data set are read.
    """
    drug, dose = reading.drug_and_dose(label)
    return (drug, math.log10(dose)) if dose else (reading.canonical(label), None)
