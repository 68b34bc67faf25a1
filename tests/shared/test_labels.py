"""Perturbation labels: taken apart, spelt in one way, and told apart from other spellings."""

import itertools
import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from statetx.shared.label_parsing import number, pattern
from statetx.shared.labels import Label, Reading, control_spellings, controls, parse, spell


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


TUPLES = [
    "[('Drug', 0.5, 'uM')]", "(('Drug', 0.5, 'uM'),)", "('Drug', 0.5, 'uM')", "[['Drug', 0.5, 'uM']]",
    '[["Drug", 0.5, "uM"]]', "[('Drug', np.float64(0.5), 'uM')]", "[('Drug', numpy.float32(.5), 'uM')]",
    "[(np.str_('Drug'), np.float64(5e-1), np.str_('uM'))]", "[('Drug', '0.50', 'uM')]",
    "array([('Drug', 0.5, 'uM')], dtype=object)", "[(b'Drug', 0.5, b'uM')]", " [ ('Drug',0.5,'uM') ] ",
    "[('Drug', 500, 'nM')]", "[('Drug', 500.0, 'nm')]", "[('Drug', Decimal('0.5'), 'uM')]",
]  # fmt: skip


@pytest.mark.parametrize("raw", TUPLES)
def test_a_tuple_is_a_tuple_however_it_was_written(raw):
    assert parse(raw).canonical == "Drug_0.5"
    assert parse(raw).drug == "Drug"
    assert Reading("plain").drug_and_dose(raw) == ("Drug_0.5", None)


@pytest.mark.parametrize(
    "raw",
    [
        "[('Drug', __import__('os').system('true'), 'uM')]", "[('Drug', open('x'), 'uM')]",
        "[('Drug', 0.5, 'uM', 1)]", "[('Drug', True, 'uM')]", "[('Drug', 1e999, 'uM')]", "[()]", "()", "['']",
        "[('Drug', 9**9**9, 'uM')]", "[" * 3000 + "''" + "]" * 3000, "[" + "-" * 4000 + "'']",
        "('a')" * 2000, "[('x', 0.5, 'uM'), 'y']", "['\\x00']", "[lambda: '']",
    ],
)  # fmt: skip
def test_what_is_no_tuple_is_a_name(raw):
    assert parse(raw) == Label(raw, raw, None, "")
    assert parse(raw).canonical


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.50", 0.5), (".5", 0.5), ("5.", 5.0), ("5e-1", 0.5), ("0,5", 0.5), ("2,5", 2.5), ("1e5", 1e5),
        ("1,000", None), ("0,125", 0.125), ("1.000,5", None), ("٣", None), ("1e999", None), ("nan", None),
        ("-1", None), ("", None), ("1_0", None),
    ],
)  # fmt: skip
def test_numbers(text, value):
    assert number(text) == value
    assert parse(f"Drug_{text}").dose == (value if text != "1_0" else 0.0)


def test_one_name_in_every_normal_form_and_with_any_blanks():
    for form in ("NFC", "NFD"):
        for raw in ("Café", "  Café", "Café ", "\ufeffCafé", "Café\u00a0"):
            assert parse(unicodedata.normalize(form, raw)).canonical == "Café"
    assert parse("A  B\t_5").canonical == parse("A B_5.0").canonical == "A B_5"
    assert parse("Drug_5\u00b5M").canonical == parse("Drug_5\u03bcM").canonical == "Drug_5"
    assert parse("TGF\u00b5").canonical == parse("TGF\u03bc").canonical
    assert parse("X²").canonical != parse("X2").canonical  # NFKC would make them one


def test_a_dose_that_was_once_in_32_bits_is_the_same_dose():
    assert parse("[('Drug', 0.20000000298023224, 'uM')]").canonical == "Drug_0.2"
    assert parse("Drug_0.05000000074505806").canonical == "Drug_0.05"
    assert parse("Drug_12345678").canonical == "Drug_12345678"


@pytest.mark.parametrize(
    "raw", ["KLF1", "KLF1+ctrl", "ctrl+KLF1", "ctrl + KLF1 ", "NT+KLF1", "ctrl+KLF1+NT"]
)
@pytest.mark.parametrize("kind", ["plain", "drug_dose"])
def test_a_control_inside_of_a_combination_says_nothing(kind, raw):
    assert Reading(kind, ("ctrl", "NT")).canonical(raw) == "KLF1"


def test_controls_in_combinations_with_doses():
    reading = Reading(controls=("DMSO_TF_00",))
    for raw in ("Drug_0.5", "Drug_0.5+DMSO_TF_00", "DMSO_TF_0+Drug_0.5", "DMSO_TF+Drug_0.5"):
        assert reading.canonical(raw) == "Drug_0.5"
    tuples = "[('DMSO_TF', 0.0, 'uM'), ('Drug', 0.5, 'uM')]"
    assert reading.canonical(tuples) == "Drug_0.5"
    for raw in ("DMSO_TF_00", "DMSO_TF", "[('DMSO_TF', 0.0, 'uM')]", "DMSO_TF+DMSO_TF"):
        assert reading.canonical(raw) == "DMSO_TF_0"
    assert reading.canonical("DMSO_TF_0.5") == "DMSO_TF_0.5"


def test_mixed_doses_of_a_combination():
    assert parse("A_0.50+B").canonical == parse("A_.5 + B").canonical == "A_0.5+B"
    assert parse("A+B_0.5").canonical == "A+B_0.5"


def test_plain_labels_keep_their_numbers():
    plain = Reading("plain")
    assert plain.parse("cmpd_001") == Label("cmpd_001", "cmpd_001", None, "")
    assert plain.canonical("cmpd_001") == "cmpd_001" != plain.canonical("cmpd_1")
    assert plain.canonical("TP53_2+KLF1_1") == plain.canonical("KLF1_1 + TP53_2")


@pytest.mark.parametrize(
    ("written", "raw"),
    [("{drug}@{dose}{unit}", "My_Drug@0.5uM"), ("{dose}{unit} {drug}", "500nM My_Drug"),
     ("{drug}|{dose}", "My_Drug|0.50")],
)  # fmt: skip
def test_a_format_of_ones_own(written, raw):
    reading = Reading(written)
    assert reading.drug_and_dose(raw) == ("My_Drug", 0.5)
    assert reading.canonical(raw) == "My_Drug_0.5"
    assert reading.drug_and_dose("TP53_2") == ("TP53_2", None)


@pytest.mark.parametrize(
    "written", ["{drug}", "{dose}", "{drug}{dose}{x}", "{drug}_{dose}_{drug}", "{"]
)
def test_a_format_that_is_none(written):
    with pytest.raises(ValueError, match="drug"):
        pattern(written)


def test_labels_of_one_drug_have_one_drug_and_one_unit():
    found = Reading(controls=("ctrl",)).described(["B+A_1", "A+B_1", "C_200nM", "C_1uM", "D ", "D"])
    assert {found[x].drug for x in ("B+A_1", "A+B_1")} == {"A+B"}
    assert (found["C_200nM"].dose, found["C_200nM"].unit) == (0.2, "uM")
    assert found["D "].drug == found["D"].drug
    alone = Reading().described(["C_200nM", "E_1000nM", "DMSO_0"])
    assert (alone["C_200nM"].dose, alone["C_200nM"].unit) == (200.0, "nM")


@pytest.mark.parametrize(
    "raw",
    ["x_1" + " " * 100_000 + "!", "x_" + " " * 100_000 + "!", "x_" + "1" * 100_000 + "!", "_1" * 50_000,
     "-" + " " * 100_000, "+" * 100_000, "_ " * 50_000, "1," * 50_000, "[(" * 50_000, "('" * 50_000 + ")"],
    ids=range(10),
)  # fmt: skip
def test_a_long_label_takes_no_time(raw):
    started = time.process_time()
    assert Reading(controls=("ctrl",)).canonical(raw)
    assert parse(raw).raw == raw
    assert time.process_time() - started < 2


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


@example(raw="0_0c\u0301", kind="drug_dose", known=())
@given(
    raw=st.text("ABctrl+_0.5,1e uMn()-[]'\" é\u0301µ", max_size=24),
    kind=st.sampled_from(["drug_dose", "plain"]),
    known=st.sampled_from([(), ("ctrl",), ("ctrl_0", "A")]),
)
def test_a_canonical_name_is_its_own(raw, kind, known):
    reading = Reading(kind, known)
    name = reading.canonical(raw)
    assert reading.canonical(name) == name
    found = reading.described([raw, name])
    assert found[raw].drug == found[name].drug


@pytest.mark.parametrize("raw", ["A+DMSO_TF_00", "DMSO_TF_00+A", "A+DMSO_TF", "DMSO_TF+A"])
def test_a_control_with_a_dose_says_nothing_in_a_combination(raw):
    reading = Reading("drug_dose", ("DMSO_TF_00",))
    assert reading.canonical(raw) == "A"
    assert reading.drug_and_dose(raw) == ("A", None)
    assert reading.canonical("A+B_0.5") == "A+B_0.5"
