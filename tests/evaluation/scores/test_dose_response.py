"""Order of effect sizes over doses, drug by drug."""

from __future__ import annotations

import numpy as np

from statetx.evaluation.scores.dose_response import dose_response


def test_each_drug_has_its_own_order() -> None:
    drugs = ["A", "A", "A", "B", "B", "B", "C", "C", "D", "D", "D", "E"]
    doses = [0.1, 1, 10, 10, 1, 0.1, 1, 10, 1, 1, 10, np.nan]
    real = np.array([1, 2, 3, 9, 5, 1, 1, 2, 1, 2, 3, 1.0])
    pred = np.array([3, 2, 1, 5, 5, 5, 1, 2, 1, 2, 3, 1.0])
    found_real, found = dose_response(drugs, doses, real, pred)
    np.testing.assert_allclose(found_real[:6], 1.0)
    np.testing.assert_allclose(found[:3], -1.0)
    np.testing.assert_allclose(found[3:6], 0.0)  # one size for all doses follows none
    assert np.isnan(found_real[6:]).all()  # two doses, two different doses, no dose
    assert np.isnan(found[6:]).all()
