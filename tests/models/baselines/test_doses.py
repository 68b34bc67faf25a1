"""Drug and dose of a label: what counts as the same drug."""

from __future__ import annotations

import math

import pytest

from statetx.models.baselines.doses import drug_and_dose


@pytest.mark.parametrize(
    ("label", "drug", "dose_um"),
    [
        ("Drug_0.5", "Drug", 0.5),
        ("Drug_500nM", "Drug", 0.5),
        ("[('Drug', 0.5, 'uM')]", "Drug", 0.5),
        ("B+A_0.5", "A+B", 0.5),
        ("Drug_5ng", "Drug (ng)", 5.0),
        ("TP53", "TP53", None),
        ("Drug_0", "Drug_0", None),
        ("B_0.5+A_1", "A_1+B_0.5", None),
    ],
)
def test_labels(label: str, drug: str, dose_um: float | None) -> None:
    found = drug_and_dose(label)
    assert found[0] == drug
    assert found[1] == (None if dose_um is None else pytest.approx(math.log10(dose_um)))
