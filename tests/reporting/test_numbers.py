"""Numbers and sentences."""

from __future__ import annotations

import math

import pytest

from statetx.evaluation.verdict.contract import Comparison
from statetx.reporting import numbers as words


@pytest.mark.parametrize(
    ("value", "places", "sign", "text"),
    [
        (0.5514, 3, False, "0.551"),
        (-0.018, 3, True, "−0.018"),
        (0.02, 2, True, "+0.02"),
        (-0.0001, 2, True, "0.00"),
        (12345.6, 1, False, "12,345.6"),
        (None, 3, False, "–"),
        (math.nan, 3, False, "–"),
        (True, 3, False, "–"),
    ],
)
def test_numbers(value, places, sign, text):
    assert words.number(value, places, sign=sign) == text


@pytest.mark.parametrize(
    ("values", "places"),
    [([0.81, 0.1], 3), ([1.0, 0.5], 3), ([2.04], 2), ([0.0412], 4), ([123.0], 0), ([None], 2)],
)
def test_a_row_shares_three_significant_digits(values, places):
    assert words.decimals(values) == places


def test_small_numbers_are_given_in_powers_of_ten():
    assert words.exponent([4.1e-4, 1e-4]) == -4
    assert words.exponent([0.004, 1.0]) == 0
    assert words.power(-4) == "10⁻⁴"
    assert words.power(0) == ""


@pytest.mark.parametrize(
    ("p", "text"), [(0.0031, "p = 0.003"), (0.0004, "p < 0.001"), (None, ""), (1.0, "p = 1.000")]
)
def test_p_values(p, text):
    assert words.p_value(p) == text


@pytest.mark.parametrize(
    ("n", "text"), [(17, "17 B"), (3_141_592, "3.14 MB"), (None, "–"), (1.5e9, "1.5 GB")]
)
def test_sizes(n, text):
    assert words.size(n) == text


def _comparison(**changes):
    plain = {"model": "m", "metric": "x", "n": 24, "against": "perturbation_mean", "difference": 0.0213, "low": 0.0104, "high": 0.0441,
             "wins": 0.581, "p": 0.0031, "call": "BETTER", "reason": None}  # fmt: skip
    return Comparison.model_validate(plain | changes)


def test_the_sentence_of_a_better_model():
    assert words.sentence(_comparison(), "pertsets", "Pearson of deltas", "higher") == (
        "pertsets is BETTER than the best baseline (perturbation_mean) in Pearson of deltas: "
        "+0.021 [+0.010, +0.044], wins 58 % of conditions, p = 0.003."
    )


def test_lower_is_better_is_said():
    text = words.sentence(_comparison(difference=-0.5, low=-0.6, high=-0.4), "m", "MMD", "lower")
    assert "BETTER" in text
    assert "−0.50 [−0.60, −0.40] (lower is better)" in text


@pytest.mark.parametrize(
    ("call", "opening"),
    [
        ("WORSE", "m is WORSE than the best baseline (perturbation_mean) in X: "),
        ("SAME", "m is the SAME as the best baseline (perturbation_mean) in X: "),
        ("UNDECIDED", "m against the best baseline (perturbation_mean) is UNDECIDED in X: "),
    ],
)
def test_every_call_has_its_sentence(call, opening):
    assert words.sentence(_comparison(call=call), "m", "X", "higher").startswith(opening)


def test_no_interval_is_said_with_its_reason():
    alone = _comparison(low=None, high=None, p=None, call="UNDECIDED", reason="too few drugs")
    text = words.sentence(alone, "m", "X", "higher")
    assert "+0.021, no interval, wins 58 % of conditions; too few drugs." in text


def test_a_narrow_interval_does_not_read_as_a_point():
    narrow = _comparison(difference=0.1, low=0.0991, high=0.1007)
    assert words.difference(narrow) == ("+0.1000", "[+0.0991, +0.1007]")
    assert words.difference(_comparison(difference=0.0, low=-0.2, high=0.2)) == (
        "0.00",
        "[−0.20, +0.20]",
    )


def test_no_baseline_is_undecided():
    text = words.sentence(_comparison(against=None), "m", "X", "higher")
    assert text == "m is UNDECIDED in X: there is no baseline to compare with."
