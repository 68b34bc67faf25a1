"""Generators: every condition once, nothing leaks, the same seed gives the same plan."""

from __future__ import annotations

import pandas as pd
import pytest
from conditions import conditions_of
from hypothesis import given, settings
from hypothesis import strategies as st

from statetx.config import BlockSplit, LineFolds, PerturbationFolds
from statetx.core.errors import SplitError
from statetx.splits.generators.generate import generate

TEN = [f"L{i:02d}" for i in range(10)]
TWENTY = [f"Drug{i:02d}" for i in range(20)]


def block(**keys: object) -> BlockSplit:
    return BlockSplit(dataset="demo", generator="dc_block", **keys)


def lines_in(k: int, **keys: object) -> LineFolds:
    return LineFolds(dataset="demo", generator="line_folds", k=k, **keys)


def drugs_in(k: int, **keys: object) -> PerturbationFolds:
    return PerturbationFolds(dataset="demo", generator="perturbation_folds", k=k, **keys)


def drug_of(table: pd.DataFrame) -> pd.Series:
    return table["perturbation"].str.rsplit("_", n=1).str[0]


def part(table: pd.DataFrame, role: str) -> pd.DataFrame:
    return table[table["role"] == role]


def assert_complete(table: pd.DataFrame, conditions: pd.DataFrame) -> None:
    """Every condition that exists, once; no control; a reason in words for each."""
    real = conditions[~conditions["is_control"]][["line", "perturbation"]].drop_duplicates()
    assert set(map(tuple, table[["line", "perturbation"]].to_numpy())) == set(
        map(tuple, real.to_numpy())
    )
    assert not table.duplicated(["line", "perturbation"]).any()
    assert table["reason"].str.len().min() > 10


def test_the_demo_block_tests_four_drugs_in_two_lines() -> None:
    conditions = conditions_of(TEN, TWENTY, doses=(0.05, 0.5, 5.0))
    table = generate(conditions, block())
    test, val = part(table, "test"), part(table, "val")
    assert len(test) == 24
    assert test["line"].nunique() == 2
    assert drug_of(test).nunique() == 4
    assert len(val) == 1 * 2 * 3
    assert_complete(table, conditions)


@settings(max_examples=20, deadline=None)
@given(
    n_lines=st.integers(2, 12),
    n_drugs=st.integers(2, 15),
    drug_fraction=st.floats(0.01, 0.6),
    line_fraction=st.floats(0.01, 0.6),
    val=st.floats(0.0, 0.3),
    seed=st.integers(0, 10_000),
    gap=st.integers(0, 5),
)
def test_block_properties(
    n_lines: int,
    n_drugs: int,
    drug_fraction: float,
    line_fraction: float,
    val: float,
    seed: int,
    gap: int,
) -> None:
    lines, drugs = TEN[:n_lines] + [f"M{i}" for i in range(n_lines - 10)], TWENTY[:n_drugs]
    missing = tuple((lines[i % n_lines], f"{drugs[i % n_drugs]}_5") for i in range(gap))
    conditions = conditions_of(lines, drugs, missing=missing)
    chosen = block(
        drug_fraction=drug_fraction,
        line_fraction=line_fraction,
        val_drug_fraction=val,
        val_line_fraction=val,
        seed=seed,
    )
    n_test_drugs = int(drug_fraction * n_drugs + 0.5)
    n_test_lines = int(line_fraction * n_lines + 0.5)
    if n_test_drugs == 0 or n_test_lines == 0:
        with pytest.raises(SplitError, match=r"rounds to zero|too few"):
            generate(conditions, chosen)
        return
    n_val = [max(1, int(val * n + 0.5)) if val else 0 for n in (n_drugs, n_lines)]
    full = n_test_drugs == n_drugs or n_test_lines == n_lines
    if full or n_test_drugs + n_val[0] > n_drugs or n_test_lines + n_val[1] > n_lines:
        with pytest.raises(SplitError, match="too few"):
            generate(conditions, chosen)
        return
    table = generate(conditions, chosen)
    assert_complete(table, conditions)
    shuffled = conditions.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(table, generate(shuffled, chosen))

    test, held = part(table, "test"), part(table, "val")
    test_drugs, test_lines = set(drug_of(test)), set(test["line"])
    assert len(test_drugs) == n_test_drugs
    assert len(test_lines) == n_test_lines
    # The whole block is held out: no dose of a test drug trains or validates in a test line.
    inside = table["line"].isin(test_lines) & drug_of(table).isin(test_drugs)
    assert set(table.loc[inside, "role"]) == {"test"}
    # Test drugs are learned in other lines, and the validation block shares neither side.
    assert test_drugs <= set(drug_of(part(table, "train")))
    assert not test_drugs & set(drug_of(held))
    assert not test_lines & set(held["line"])
    assert held.empty == (val == 0)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(2, 12),
    k=st.integers(2, 12),
    val=st.booleans(),
    seed=st.integers(0, 10_000),
    over_lines=st.booleans(),
)
def test_fold_properties(n: int, k: int, val: bool, seed: int, over_lines: bool) -> None:
    names = [f"N{i:02d}" for i in range(n)]
    conditions = conditions_of(*((names, ["A", "B"]) if over_lines else (["X", "Y"], names)))
    chosen = (lines_in if over_lines else drugs_in)(k, val=val, seed=seed)
    if k > n or (val and k == 2):
        with pytest.raises(SplitError) as caught:
            generate(conditions, chosen, 0)
        assert "k" in str(caught.value.fix)
        return
    tables = [generate(conditions, chosen, fold) for fold in range(k)]
    tested: list[str] = []
    for fold, table in enumerate(tables):
        assert_complete(table, conditions)
        pd.testing.assert_frame_equal(table, generate(conditions, chosen, fold))
        units = table["line"] if over_lines else drug_of(table)
        # A unit has one role in all its conditions: no dose and no line on two sides.
        assert table.groupby(units)["role"].nunique().max() == 1
        tested += sorted(units[table["role"] == "test"].unique())
        following = tables[(fold + 1) % k]
        if val:
            next_units = following["line"] if over_lines else drug_of(following)
            expected = set(next_units[following["role"] == "test"])
            assert set(units[table["role"] == "val"]) == expected
        else:
            assert part(table, "val").empty
        assert not part(table, "train").empty
    assert sorted(tested) == names  # disjoint, and all covered
    sizes = [len(part(table, "test")) for table in tables]
    assert max(sizes) - min(sizes) <= 4  # folds differ by one unit of 4 conditions at most


def test_seeds_differ() -> None:
    conditions = conditions_of(TEN, TWENTY)
    plans = {tuple(generate(conditions, block(seed=seed))["role"]) for seed in range(8)}
    assert len(plans) == 8


def test_halves_round_up() -> None:
    # 0.3 of 5 = 1.5 lines; binary fractions must not lose it: 0.35 * 10 = 3.4999999999999996
    table = generate(
        conditions_of(TEN[:5], TWENTY[:10]), block(drug_fraction=0.35, line_fraction=0.3)
    )
    assert drug_of(part(table, "test")).nunique() == 4
    assert part(table, "test")["line"].nunique() == 2


def test_the_test_block_does_not_depend_on_the_validation_fractions() -> None:
    conditions = conditions_of(TEN, TWENTY)
    with_val = generate(conditions, block())
    without = generate(conditions, block(val_line_fraction=0))
    pd.testing.assert_frame_equal(part(with_val, "test"), part(without, "test"))
    assert part(without, "val").empty


def test_a_single_line_has_no_block() -> None:
    one = conditions_of(["only"], TWENTY)
    with pytest.raises(SplitError, match="1 lines are too few"):
        generate(one, block(line_fraction=0.5, val_drug_fraction=0))
    with pytest.raises(SplitError, match=r"0\.2 of 1 lines rounds to zero"):
        generate(one, block(val_drug_fraction=0))


@pytest.mark.parametrize("fold", [None, -1, 3])
def test_a_fold_that_does_not_exist(fold: int | None) -> None:
    with pytest.raises(SplitError, match="no fold"):
        generate(conditions_of(TEN, TWENTY), lines_in(3), fold)


def test_only_controls() -> None:
    conditions = conditions_of(TEN, [])
    with pytest.raises(SplitError, match="only controls"):
        generate(conditions, block())
