"""Ranks, adjusted p-values and fold changes against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tied_cells import cells

from statetx.core.errors import ResultsError
from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.scores import differential_expression as de


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
    table = de.compare([("a", target)], SortedControl.from_cells(control), genes)
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
    control = SortedControl.from_cells(cells(50, 25, 7))
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
