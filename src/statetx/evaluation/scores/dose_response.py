"""Correlation of effect size with dose, in predicted and in real cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from statetx.evaluation.numerics.correlation import spearman

FEWEST = 3
"""A drug with fewer doses has no dose response."""


def dose_response(
    drugs: Sequence[str], doses: Sequence[float], real: np.ndarray, pred: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Spearman correlation of effect size with dose, for each drug of a line.

    Parameters
    ----------
    drugs, doses
        [P], drug and dose of the conditions of one line; NaN: no dose.
    real, pred
        float64 [P], effect sizes.

    Returns
    -------
    (real, predicted)
        float64 [P] each. All conditions of a drug have its value; NaN for drugs with fewer than
        three doses. The predicted value is 0 if all predicted effects have the same size.
    """
    out = np.full((2, len(real)), np.nan)
    names, dose_values = np.asarray(drugs, dtype=object), np.asarray(doses, dtype=np.float64)
    for drug in dict.fromkeys(drugs):
        rows = np.flatnonzero((names == drug) & np.isfinite(dose_values))
        if len(np.unique(dose_values[rows])) < FEWEST:
            continue
        out[0, rows] = spearman(dose_values[rows], real[rows])
        out[1, rows] = np.nan_to_num(spearman(dose_values[rows], pred[rows]))
    return out[0], out[1]
