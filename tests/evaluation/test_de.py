"""Ranks, adjusted p-values and fold changes against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from statetx.errors import DataError, ResultsError
from statetx.evaluation import de


def cells(n: int, genes: int, seed: int, signed: bool = False) -> np.ndarray:
    """Values with many zeros and many ties; the last genes are all zero and constant."""
    generator = np.random.default_rng(seed)
    values = np.log1p(generator.poisson(0.8, (n, genes)).astype(float))
    values[:, 0] = generator.normal(size=n)  # no ties at all
    if signed:
        values[:, 1:5] -= np.log(2)
    else:
        values[:, 0] = np.abs(values[:, 0])
    values[:, -2] = 0.0
    values[:, -1] = 1.5
    return values


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("n1", "n2"), [(1, 7), (7, 1), (8, 8), (60, 500), (500, 60)])
def test_rank_sum_is_scipys_asymptotic_test(n1: int, n2: int, signed: bool) -> None:
    x, y = cells(n1, 25, 1, signed), cells(n2, 25, 2, signed)
    x[:, 3] += 0.0 if n1 > 1 else 1.0
    got = de.rank_sum(x, y)
    varied = slice(0, -2)  # scipy warns and gives NaN where nothing varies
    expected = stats.mannwhitneyu(x[:, varied], y[:, varied], method="asymptotic")
    np.testing.assert_array_equal(got.statistic[varied], expected.statistic)
    np.testing.assert_allclose(got.pvalue[varied], expected.pvalue, rtol=1e-10)
    np.testing.assert_array_equal(got.statistic[-2:], n1 * n2 / 2)
    np.testing.assert_array_equal(got.pvalue[-2:], 1.0)


def test_a_far_tail_is_not_rounded_to_one() -> None:
    x, y = np.full((40, 1), 3.0), np.zeros((400, 1))
    expected = stats.mannwhitneyu(x, y, method="asymptotic")
    np.testing.assert_allclose(de.rank_sum(x, y).pvalue, expected.pvalue, rtol=1e-9)


def test_sparse_and_dense_agree_and_inputs_stay() -> None:
    x, y = cells(30, 25, 3), cells(80, 25, 4)
    for kind in (sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix):
        a, b = kind(x), kind(y)
        before = a.toarray().copy(), b.toarray().copy()
        got, expected = de.rank_sum(a, b), de.rank_sum(x, y)
        np.testing.assert_array_equal(got.statistic, expected.statistic)
        np.testing.assert_array_equal(got.pvalue, expected.pvalue)
        np.testing.assert_array_equal(a.toarray(), before[0])
        np.testing.assert_array_equal(b.toarray(), before[1])
    stored = sparse.csc_matrix(x)
    stored.data[:40] = 0.0  # explicitly stored zeros are zeros
    np.testing.assert_array_equal(
        de.rank_sum(stored, y).statistic, de.rank_sum(stored.toarray(), y).statistic
    )
    assert stored.nnz == sparse.csc_matrix(x).nnz


def test_float32_ties_are_the_same_ties() -> None:
    x, y = cells(30, 25, 5).astype(np.float32), cells(80, 25, 6).astype(np.float32)
    expected = stats.mannwhitneyu(x[:, :-2], y[:, :-2], method="asymptotic")
    np.testing.assert_array_equal(de.rank_sum(x, y).statistic[:-2], expected.statistic)


def test_benjamini_hochberg_is_scipys() -> None:
    p = np.random.default_rng(0).uniform(size=(4, 50)) ** 3
    p[1, :10] = p[1, 0]
    p[2] = 1.0
    p[3, :5] = 0.0
    np.testing.assert_allclose(
        de.benjamini_hochberg(p), stats.false_discovery_control(p, axis=-1), rtol=1e-12
    )


def test_fold_changes_of_geometric_means() -> None:
    control, target = cells(50, 25, 7), cells(20, 25, 8)
    control[:, 4] = 0.0
    target[:, 4] = 1.0
    target[:, 5] = 0.0
    genes = [f"g{i}" for i in range(25)]
    table = de.compare([("a", target)], de.SortedControl.of(control), genes)
    t, c = np.expm1(target.mean(0)), np.expm1(control.mean(0))
    np.testing.assert_allclose(table.target_mean[0], t)
    both = (t > 0) & (c > 0)
    np.testing.assert_allclose(table.log2_fold_change[0, both], np.log2(t[both] / c[both]))
    assert table.log2_fold_change[0, 4] == np.inf
    assert table.log2_fold_change[0, 5] == -np.inf
    assert table.log2_fold_change[0, -2] == 0.0
    assert table.percent_change[0, -2] == 0.0
    np.testing.assert_allclose(table.percent_change[0, both], t[both] / c[both] - 1)


def test_tables_survive_the_disk_and_select(tmp_path) -> None:
    control = de.SortedControl.of(cells(50, 25, 7))
    genes = [f"g{i}" for i in range(25)]
    table = de.compare([(p, cells(20, 25, i)) for i, p in enumerate("abc")], control, genes)
    de.write_table(table, tmp_path / "de.parquet")
    again = de.read_table(tmp_path / "de.parquet")
    for name in table.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    picked = again.select(["c", "a"])
    np.testing.assert_array_equal(picked.p_value, table.p_value[[2, 0]])
    with pytest.raises(ResultsError, match="'d'"):
        again.select(["d"])
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(ResultsError):
        de.read_table(tmp_path / "bad.parquet")


def test_bad_cells_are_named() -> None:
    good = cells(5, 6, 0)
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(DataError, match="cells hold NaN"):
        de.rank_sum(good, bad)
    with pytest.raises(DataError, match="NaN"):
        de.rank_sum(bad, good)
    with pytest.raises(DataError, match="no cells"):
        de.rank_sum(good, good[:0])
    with pytest.raises(DataError, match="no cells"):
        de.rank_sum(good[:0], good)
    with pytest.raises(DataError, match="genes"):
        de.rank_sum(good[:, :3], good)
