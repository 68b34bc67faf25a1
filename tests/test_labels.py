import pytest

from statetx.labels import Label, controls, parse


@pytest.mark.parametrize(
    ("raw", "drug", "dose", "unit"),
    [
        ("Bestatin_0.5", "Bestatin", 0.5, ""),
        ("DMSO_TF_00", "DMSO_TF", 0.0, ""),
        ("panobinostat_0.2uM", "panobinostat", 0.2, "uM"),
        ("Erdafitinib _5.0", "Erdafitinib ", 5.0, ""),
        ("γ-Oryzanol_0.05", "γ-Oryzanol", 0.05, ""),
        ("[('(S)-Crizotinib', 0.5, 'uM')]", "(S)-Crizotinib", 0.5, "uM"),
        ("[('A', 1, 'uM'), ('B', 1, 'uM')]", "A+B", 1.0, "uM"),
        ("[('A', 1, 'uM'), ('B', 2, 'uM')]", "A+B", None, ""),
        ("KLF1+MAP2K6", "KLF1+MAP2K6", None, ""),
        ("[not a tuple", "[not a tuple", None, ""),
        ("control", "control", None, ""),
    ],
)
def test_parse(raw, drug, dose, unit):
    assert parse(raw) == Label(raw, drug, dose, unit)


def test_first_control_is_canonical():
    assert controls("DMSO") == ["DMSO"]
    assert controls(["DMSO_TF_00", "DMSO_TF"]) == ["DMSO_TF_00", "DMSO_TF"]
