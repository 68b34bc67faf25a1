"""Rank-sum tests against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats
from tied_cells import cells

from statetx.core.errors import DataError
from statetx.evaluation.numerics import rank_sum as ranks
from statetx.evaluation.numerics.sorted_cells import SortedCells


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("n1", "n2"), [(1, 7), (7, 1), (8, 8), (60, 500), (500, 60)])
def test_rank_sum_is_scipys_asymptotic_test(n1: int, n2: int, signed: bool) -> None:
    x, y = cells(n1, 25, 1, signed), cells(n2, 25, 2, signed)
    x[:, 3] += 0.0 if n1 > 1 else 1.0
    got = ranks.rank_sum(x, y)
    varied = slice(0, -2)  # scipy warns and gives NaN where nothing varies
    expected = stats.mannwhitneyu(x[:, varied], y[:, varied], method="asymptotic")
    np.testing.assert_array_equal(got.statistic[varied], expected.statistic)
    np.testing.assert_allclose(got.pvalue[varied], expected.pvalue, rtol=1e-10)
    np.testing.assert_array_equal(got.statistic[-2:], n1 * n2 / 2)
    np.testing.assert_array_equal(got.pvalue[-2:], 1.0)


def test_a_far_tail_is_not_rounded_to_one() -> None:
    x, y = np.full((40, 1), 3.0), np.zeros((400, 1))
    expected = stats.mannwhitneyu(x, y, method="asymptotic")
    np.testing.assert_allclose(ranks.rank_sum(x, y).pvalue, expected.pvalue, rtol=1e-9)


def test_sparse_and_dense_agree_and_inputs_stay() -> None:
    x, y = cells(30, 25, 3), cells(80, 25, 4)
    for kind in (sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix):
        a, b = kind(x), kind(y)
        before = a.toarray().copy(), b.toarray().copy()
        got, expected = ranks.rank_sum(a, b), ranks.rank_sum(x, y)
        np.testing.assert_array_equal(got.statistic, expected.statistic)
        np.testing.assert_array_equal(got.pvalue, expected.pvalue)
        np.testing.assert_array_equal(a.toarray(), before[0])
        np.testing.assert_array_equal(b.toarray(), before[1])
    stored = sparse.csc_matrix(x)
    stored.data[:40] = 0.0  # explicitly stored zeros are zeros
    np.testing.assert_array_equal(
        ranks.rank_sum(stored, y).statistic, ranks.rank_sum(stored.toarray(), y).statistic
    )
    assert stored.nnz == sparse.csc_matrix(x).nnz


def test_float32_ties_are_the_same_ties() -> None:
    x, y = cells(30, 25, 5).astype(np.float32), cells(80, 25, 6).astype(np.float32)
    expected = stats.mannwhitneyu(x[:, :-2], y[:, :-2], method="asymptotic")
    np.testing.assert_array_equal(ranks.rank_sum(x, y).statistic[:-2], expected.statistic)


@pytest.mark.parametrize(("n1", "n2"), [(300, 400), (20, 2000), (2, 4000)])
def test_walking_and_searching_find_the_same_places(n1: int, n2: int) -> None:
    generator = np.random.default_rng(8)
    x, y = (np.log1p(generator.poisson(3, (n, 30))).astype(np.float32) for n in (n1, n2))
    got = ranks.rank_sum(sparse.csr_matrix(x), y.astype(np.float64))
    expected = stats.mannwhitneyu(x.astype(float), y.astype(float), method="asymptotic")
    np.testing.assert_array_equal(got.statistic, expected.statistic)
    np.testing.assert_allclose(got.pvalue, expected.pvalue, rtol=1e-9)


def test_one_thread_and_several_find_the_same() -> None:
    generator = np.random.default_rng(9)
    x, y = (np.log1p(generator.poisson(3, (n, 120)) * 1.0) for n in (1000, 2500))
    control, target = ranks.SortedControl.from_cells(y), SortedCells.from_cells(x)
    assert len(target.values) + min(8 * len(target.values), len(control.cells.values)) > ranks.SMALL
    for one, several in zip(
        control.test(target, single_threaded=True), control.test(target), strict=True
    ):
        np.testing.assert_array_equal(one, several)


def test_a_place_stored_twice_counts_once() -> None:
    """Its values are added up, as scipy does."""
    y = cells(30, 6, 1)
    twice = sparse.csr_matrix((np.ones(4), [0, 0, 2, 1], [0, 2, 4]), shape=(2, 6))
    got, expected = ranks.rank_sum(twice, y), ranks.rank_sum(twice.toarray(), y)
    np.testing.assert_array_equal(got.statistic, expected.statistic)
    assert twice.nnz == 4


def test_bad_cells_are_named() -> None:
    good = cells(5, 6, 0)
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(DataError, match="cells hold NaN"):
        ranks.rank_sum(good, bad)
    with pytest.raises(DataError, match="NaN"):
        ranks.rank_sum(bad, good)
    with pytest.raises(DataError, match="no cells"):
        ranks.rank_sum(good, good[:0])
    with pytest.raises(DataError, match="no cells"):
        ranks.rank_sum(good[:0], good)
    with pytest.raises(DataError, match="genes"):
        ranks.rank_sum(good[:, :3], good)
