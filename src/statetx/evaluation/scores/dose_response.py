"""Does the size of the predicted effect follow the dose as that of the real one does?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from statetx.evaluation.numerics.correlation import spearman

FEWEST = 3
"""Fewest doses of a drug that show an order."""


def dose_response(
    drugs: Sequence[str], doses: Sequence[float], real: np.ndarray, pred: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Spearman correlation of effect size with dose, for each drug of a line.

    Parameters
    ----------
    drugs, doses
        Of the P conditions of one line; NaN: no dose.
    real, pred
        float64 [P], effect sizes.

    Returns
    -------
    (real, predicted)
        float64 [P] each, the drug's value at all of its conditions; NaN for drugs with fewer than three
        doses. Predicted effects that are all of one size follow no dose: 0.
    """
    out = np.full((2, len(real)), np.nan)
    names, where = np.asarray(drugs, dtype=object), np.asarray(doses, dtype=np.float64)
    for drug in dict.fromkeys(drugs):
        rows = np.flatnonzero((names == drug) & np.isfinite(where))
        if len(np.unique(where[rows])) < FEWEST:
            continue
        out[0, rows] = spearman(where[rows], real[rows])
        out[1, rows] = np.nan_to_num(spearman(where[rows], pred[rows]))
    return out[0], out[1]
