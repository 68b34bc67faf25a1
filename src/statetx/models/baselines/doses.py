"""Drug and dose of a label, for models that use more of a label than its name."""

from __future__ import annotations

import math

from statetx.shared.labels import WITH_DOSES, Reading


def drug_and_dose(label: str, reading: Reading = WITH_DOSES) -> tuple[str, float | None]:
    """Return the drug of a label and log10 of its dose in uM.

    Labels of a drug at a dose give the same result in all spellings and units. A unit that is not a
    concentration is part of the drug's name, because its doses cannot be compared with
    concentrations. A label without a dose, with dose 0 (no logarithm) or with several doses is a
    separate drug.

    Parameters
    ----------
    label
        Perturbation label, see `statetx.shared.labels`.
    reading
        How labels of the data set are read.
    """
    drug, dose = reading.drug_and_dose(label)
    return (drug, math.log10(dose)) if dose else (reading.canonical(label), None)
