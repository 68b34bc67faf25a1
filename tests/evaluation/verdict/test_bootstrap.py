"""Intervals cover, signs flip, lines weigh alike."""

from __future__ import annotations

import numpy as np
import pytest

from statetx.evaluation.verdict.bootstrap import Pooling, choose_unit, over_seeds


def design(lines: int, drugs: int, doses: int = 3) -> tuple[np.ndarray, np.ndarray]:
    line = np.repeat([f"L{i}" for i in range(lines)], drugs * doses)
    drug = np.tile(np.repeat([f"D{i}" for i in range(drugs)], doses), lines)
    return line, drug


@pytest.mark.parametrize(
    ("lines", "drugs", "unit"),
    [
        (2, 4, "drugs"),
        (1, 3, "drugs"),
        (7, 1, "cell lines"),
        (5, 2, "cell lines"),
        (4, 2, None),
        (1, 1, None),
    ],
)
def test_the_unit_and_its_reason(lines: int, drugs: int, unit: str | None) -> None:
    got = choose_unit(*design(lines, drugs))
    assert got.name == unit
    assert (got.reason is None) == (unit == "drugs")


def test_the_unit_is_that_of_the_conditions_that_take_part() -> None:
    lines, drugs = design(6, 4, 1)
    some = np.isin(drugs, ["D0", "D1"])
    assert Pooling(lines, drugs, 100, 0).unit.name == "drugs"
    assert Pooling(lines, drugs, 100, 0, some).unit.name == "cell lines"
    few = Pooling(lines, drugs, 100, 0, some & np.isin(lines, ["L0", "L1"]))
    assert "2 drugs in 2 cell lines: an interval needs" in few.unit.reason
    values = np.arange(24.0)
    got = few.pool(values)
    assert (got.mean, got.interval()) == (np.mean([0, 1, 4, 5]), (None, None))
    assert few.sign_flip(values, 0) is None
    none = Pooling(lines, drugs, 100, 0, np.zeros(24, dtype=bool))
    assert np.isnan(none.pool(values).mean)


def test_lines_count_alike_however_many_conditions_they_have() -> None:
    lines = np.array(["a"] * 9 + ["b"] * 3)
    drugs = np.array([f"d{i}" for i in range(9)] + [f"d{i}" for i in range(3)])
    values = np.array([0.0] * 9 + [1.0] * 3)
    pooled = Pooling(lines, drugs, 200, 0).pool(values)
    assert pooled.mean == 0.5
    values[9:] = np.nan  # a line without values leaves the other
    assert Pooling(lines, drugs, 200, 0).pool(values).mean == 0.0


@pytest.mark.parametrize(
    ("n_lines", "n_drugs", "own", "correlation"),
    [
        *[(*size, False, r) for size in ((2, 3), (2, 4), (10, 4), (2, 10)) for r in (0.0, 0.7)],
        (10, 4, True, 0.0),
        (8, 1, False, 0.0),
    ],
)
def test_intervals_cover_the_truth(
    n_lines: int, n_drugs: int, own: bool, correlation: float
) -> None:
    """Doses share their drug's effect, and so do lines, unless every line has drugs of its own."""
    lines, drugs = design(n_lines, n_drugs)
    pair = np.char.add(lines, drugs)
    cells = np.unique(pair, return_inverse=True)[1]
    drug = np.unique(pair if own else drugs, return_inverse=True)[1]
    pooling = Pooling(lines, pair if own else drugs, 400, 0)
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(500):
        values = np.sqrt(correlation) * rng.normal(size=drug.max() + 1)[drug]
        values += np.sqrt(1 - correlation) * rng.normal(size=cells.max() + 1)[cells]
        values += 0.3 * rng.normal(size=len(lines))
        low, high = pooling.pool(values).interval()
        hits += low <= 0 <= high
    assert 0.9 <= hits / 500 <= 0.99


def test_a_ratio_is_one_of_sums() -> None:
    lines, drugs = design(2, 3, 1)
    above, below = np.arange(6.0), np.array([1.0, 1, 1, 2, 2, 5])
    pooling = Pooling(lines, drugs, 300, 0)
    got = pooling.pool(above).over(pooling.pool(below))
    assert got.mean == pytest.approx(15 / 12)
    assert np.isnan(pooling.pool(above).over(pooling.pool(-below)).mean)


def test_differences_are_paired() -> None:
    lines, drugs = design(2, 5)
    rng = np.random.default_rng(0)
    shared = 10 * rng.normal(size=len(lines))
    pooling = Pooling(lines, drugs, 500, 0)
    gap = pooling.pool(shared + 1).minus(pooling.pool(shared))
    assert gap.mean == pytest.approx(1)
    np.testing.assert_allclose(gap.interval(), (1, 1))


def test_sign_flips_are_exact_for_few_clusters() -> None:
    lines, drugs = design(1, 5, 2)
    pooling = Pooling(lines, drugs, 100, 0)
    assert pooling.sign_flip(np.ones(10), 0) == 2 / 32
    assert pooling.sign_flip(np.zeros(10), 0) == 1.0
    both = Pooling(*design(2, 4), 100, 0)
    assert both.sign_flip(np.ones(24), 0) == 2 / 16  # four drugs, not eight
    many = Pooling(*design(2, 20), 100, 0)
    assert many.sign_flip(np.ones(120), 0) < 0.001
    noise = np.random.default_rng(0).normal(size=(200, 120))
    p = np.array([many.sign_flip(row, 0) for row in noise])
    assert 0.01 <= (p < 0.05).mean() <= 0.1
    assert Pooling(*design(1, 1), 100, 0).sign_flip(np.ones(3), 0) is None


@pytest.mark.parametrize(("k", "spread"), [(2, 0.2), (3, 0.0), (3, 1.0), (5, 1.0)])
def test_a_mean_over_seeds_knows_how_much_seeds_differ(k: int, spread: float) -> None:
    """Seeds of equal mean skill that differ by `spread`, in units of what drugs differ by."""
    pooling, rng = Pooling(*design(1, 40, 1), 400, 0), np.random.default_rng(2)
    misses = 0
    for number in range(300):
        skills = spread * rng.normal(size=k)
        seeds = [pooling.pool(skill + rng.normal(size=40)) for skill in skills]
        low, high = over_seeds(seeds, number).interval()
        misses += not low <= 0 <= high
    assert misses / 300 <= 0.1


def test_seeds_that_do_not_differ_cost_nothing() -> None:
    pooling = Pooling(*design(1, 40, 1), 400, 0)
    one = pooling.pool(np.random.default_rng(3).normal(size=40))
    assert over_seeds([one, one], 0).interval() == one.interval()
    assert over_seeds([one], 0).interval() == one.interval()


@pytest.mark.parametrize("drugs", [3, 4])
def test_few_drugs_of_equal_models_are_called_as_rarely_as_many(drugs: int) -> None:
    """Percentiles of three or four drugs alone lie on one side of 0 in 7.5 % of draws."""
    pooling, rng = Pooling(*design(1, drugs, 1), 1000, 0), np.random.default_rng(4)
    intervals = [pooling.pool(rng.normal(size=drugs)).interval() for _ in range(2000)]
    assert np.mean([low > 0 or high < 0 for low, high in intervals]) <= 0.06


@pytest.mark.parametrize("turn", [1, -1])
def test_lopsided_clusters_are_called_less_often_from_samples_without_their_tail(turn: int) -> None:
    """Equal on average: a little better for most drugs, far worse for a few (lognormal errors).

    Student's interval and percentiles alone lie on the better side of 0 in 9 %.
    """
    pooling, rng = Pooling(*design(1, 40, 1), 1000, 0), np.random.default_rng(5)
    drawn = turn * (np.exp(0.5) - np.exp(rng.normal(size=(1000, 40))))
    ends = np.array([pooling.pool(values).interval() for values in drawn])
    better, worse = (ends[:, 0] > 0).mean(), (ends[:, 1] < 0).mean()
    wrong, other = (better, worse) if turn > 0 else (worse, better)
    assert wrong <= 0.065
    assert other <= 0.025
