"""Perturbation labels: taken apart, spelt in one way, and told apart from other spellings."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from statetx.labels import Label, control_spellings, controls, parse, spell


@pytest.mark.parametrize(
    ("raw", "drug", "dose", "unit"),
    [
        ("Bestatin_0.5", "Bestatin", 0.5, ""),
        ("DMSO_TF_00", "DMSO_TF", 0.0, ""),
        ("panobinostat_0.2uM", "panobinostat", 0.2, "uM"),
        ("panobinostat_200 nM", "panobinostat", 200.0, "nM"),
        ("Erdafitinib _5.0", "Erdafitinib ", 5.0, ""),
        ("γ-Oryzanol_0.05", "γ-Oryzanol", 0.05, ""),
        ("γ-Oryzanol_5µM", "γ-Oryzanol", 5.0, "µM"),
        ("Drug_1e-05", "Drug", 1e-5, ""),
        ("Drug_2_5", "Drug_2", 5.0, ""),
        ("[('(S)-Crizotinib', 0.5, 'uM')]", "(S)-Crizotinib", 0.5, "uM"),
        ("[('A', 1, 'uM'), ('B', 1, 'uM')]", "A+B", 1.0, "uM"),
        ("[('A', 1, 'uM'), ('B', 2, 'uM')]", "A+B", None, ""),
        ("A_0.5+B_0.5", "A+B", 0.5, ""),
        ("A_0.5+B_1", "A+B", None, ""),
        ("A+B_0.5", "A+B", 0.5, ""),
        ("(+)-Catechin_5", "(+)-Catechin", 5.0, ""),
        ("KLF1+MAP2K6", "KLF1+MAP2K6", None, ""),
        ("[not a tuple", "[not a tuple", None, ""),
        ("[('A', 'much', 'uM')]", "[('A', 'much', 'uM')]", None, ""),
        ("[('A', 1)]", "[('A', 1)]", None, ""),
        ("_5", "_5", None, ""),
        ("control", "control", None, ""),
        ("", "", None, ""),
    ],
)
def test_parse(raw, drug, dose, unit):
    assert parse(raw) == Label(raw, drug, dose, unit)


SPELLINGS = {
    "Drug_0.5": [
        "Drug_0.5", "Drug_0.50", "Drug _0.5", " Drug_0.5", "Drug_5e-1", "Drug_0.5uM", "Drug_0.5 uM",
        "[('Drug', 0.5, 'uM')]", "[('Drug ', '0.50', 'uM')]",
    ],
    "Drug_5": ["Drug_5", "Drug_5.0", "Drug_05", "[('Drug', 5, 'uM')]"],
    "Drug": ["Drug", "Drug ", " Drug"],
    "A+B": ["A+B", "B+A", "B + A", " A+B "],
    "A+B_0.5": [
        "A_0.5+B_0.5", "B_0.5+A_0.5", "A+B_0.5", "B+A_0.5uM",
        "[('A', 0.5, 'uM'), ('B', 0.5, 'uM')]", "[('B', 0.5, 'uM'), ('A', 0.5, 'uM')]",
    ],
    "A_0.5+B_1": [
        "A_0.5+B_1", "B_1.0+A_0.5", "B_1 uM+A _0.5uM",
        "[('A', 0.5, 'uM'), ('B', 1, 'uM')]", "[('B', 1, 'uM'), ('A', 0.5, 'uM')]",
    ],
    "A_1+B_0.5": ["A_1+B_0.5", "[('B', 0.5, 'uM'), ('A', 1.0, 'uM')]"],
    "(+)-Catechin_5": ["(+)-Catechin_5", "(+)-Catechin_5.0uM", "[('(+)-Catechin', 5.0, 'uM')]"],
    "(+)-Catechin": ["(+)-Catechin", "(+)-Catechin "],
    "(+/-)-Sulpiride_1": ["(+/-)-Sulpiride_1", "[('(+/-)-Sulpiride', 1, 'uM')]"],
}  # fmt: skip


@pytest.mark.parametrize("meaning", SPELLINGS)
def test_all_spellings_of_a_condition_have_one_canonical_form(meaning):
    assert {parse(raw).canonical for raw in SPELLINGS[meaning]} == {meaning}


@pytest.mark.parametrize("meaning", SPELLINGS)
def test_the_canonical_form_is_canonical(meaning):
    assert parse(meaning).canonical == meaning


def test_a_plus_inside_of_a_name_does_not_part_it():
    for name in ("(+)-Catechin", "D-(+)-Trehalose", "S-(+)-Ketamine"):
        assert parse(f"{name}_5").canonical == f"{name}_5"


def test_a_combination_of_such_names_has_no_order():
    one, other = ("(+)-Catechin", 1.0, "uM"), ("B", 1.0, "uM")
    assert parse(str([one, other])).canonical == parse(str([other, one])).canonical


def test_amounts_in_other_units_are_other_conditions():
    assert parse("Drug_1uM").canonical != parse("Drug_1nM").canonical


NAME = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")),
    min_size=1,
    max_size=12,
).filter(lambda name: name.strip() and not name.startswith("[("))
DOSE = st.floats(1e-6, 1e6).map(lambda dose: float(f"{dose:.12g}")) | st.integers(0, 10**9).map(
    float
)


@given(name=NAME.filter(lambda name: "+" not in name), dose=DOSE)
@example(name="Drug_2", dose=5.0)
@example(name="Erdafitinib ", dose=1e-6)
@example(name="_", dose=0.0)
@example(name="A_1e", dose=5.0)
def test_a_label_that_is_spelt_is_parsed_again(name, dose):
    assert parse(spell(name, dose)) == Label(spell(name, dose), name, dose, "")


@given(name=NAME)
def test_a_name_without_dose_is_spelt_as_it_is(name):
    assert spell(name) == name


@given(raw=st.text(max_size=30) | st.text("[]()'+_,0.5euM ABé\\\n", max_size=30))
def test_no_text_is_refused_as_a_label(raw):
    label = parse(raw)
    assert label.raw == raw
    assert label.canonical == parse(raw).canonical


PART = st.text("ABCdef-", min_size=1, max_size=4).filter(lambda name: name.strip("-"))


@given(
    parts=st.lists(st.tuples(PART, st.sampled_from([0.05, 0.5, 1.0, 5.0])), min_size=2, max_size=3)
)
def test_the_order_of_the_parts_of_a_combination_has_no_meaning(parts):
    raw = [
        spelling(order)
        for order in itertools.permutations(parts)
        for spelling in (
            lambda order: str([(name, dose, "uM") for name, dose in order]),
            lambda order: "+".join(f"{name}_{dose}uM" for name, dose in order),
            lambda order: "+".join(spell(name, dose) for name, dose in order),
        )
    ]
    (meaning,) = {parse(label).canonical for label in raw}
    assert parse(meaning).canonical == meaning


def test_first_control_is_canonical():
    assert controls("DMSO") == ["DMSO"]
    assert controls(["DMSO_TF_00", "DMSO_TF"]) == ["DMSO_TF_00", "DMSO_TF"]


def test_other_spellings_of_a_control_are_found():
    labels = [
        "DMSO_TF_00", "DMSO_TF", "DMSO_TF ", "DMSO_TF_0", "DMSO_TF_0.0uM", "[('DMSO_TF', 0.0, 'uM')]",
        "DMSO_TF_5", "DMSO", "DMSO_TFX_0", "Drug_0", "A+DMSO_TF",
    ]  # fmt: skip
    found = control_spellings(labels, ["DMSO_TF_00"])
    assert found == [
        "DMSO_TF", "DMSO_TF ", "DMSO_TF_0", "DMSO_TF_0.0uM", "[('DMSO_TF', 0.0, 'uM')]"
    ]  # fmt: skip
    assert control_spellings(labels, ["DMSO_TF_00", *found]) == []


def test_several_declared_controls_are_compared_each():
    labels = ["ctrl", "ctrl_0", "DMSO", "DMSO_0.0", "untreated"]
    assert control_spellings(labels, ["ctrl", "DMSO"]) == ["DMSO_0.0", "ctrl_0"]
    assert control_spellings(labels, []) == []
