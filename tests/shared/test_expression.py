"""The one upper bound of log1p values."""

from __future__ import annotations

import numpy as np
import pytest

from statetx.core.errors import DataError
from statetx.shared.expression import bounded, impossible, largest_log1p, refuse_impossible


@pytest.mark.parametrize("target_sum", [1.0, 1832.5, 1e4, 1e6])
def test_a_gene_with_all_counts_of_its_cell_is_possible_and_nothing_above(
    target_sum: float,
) -> None:
    most = np.log1p(np.array([target_sum, 1.01 * target_sum], dtype=np.float32))
    assert impossible(most, target_sum).tolist() == [False, True]
    refuse_impossible(float(most[0]), target_sum, "X", "a.h5ad")
    with pytest.raises(DataError, match="target_sum"):
        refuse_impossible(float(most[1]), target_sum, "X", "a.h5ad")


def test_only_impossible_values_are_cut() -> None:
    values = np.array([[0.0, 9.2], [9.3, 17.7]], dtype=np.float32)
    found, number = bounded(values, 1e4)
    assert number == 2
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], values[0])
    np.testing.assert_allclose(found[1], largest_log1p(1e4), rtol=1e-6)
    assert bounded(values, None)[1] == 1
