"""Agreement of predicted with real differential expression, condition by condition.

S and T are the significant genes of the real and of the predicted cells, N = |S|. A sign is that of
the log2 fold change. The definitions are those of cell-eval2 0.16, and give its numbers from its
tables. Genes that a label names are left out of all scores but the Matthews correlation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from statetx.evaluation.scores.differential_expression import DETable

REACH = 0.9
"""A ranking is followed down to the last place at which this share of signs is right."""
GATE = 10
"""Fold changes are compared over at least this many significant genes."""


class Agreement(NamedTuple):
    """Scores of P conditions, float64 [P] each; NaN where the real cells do not define a score.

    Attributes
    ----------
    overlap
        |S and T| / |S or T|; 1 when both are empty.
    mcc
        Matthews correlation of S and T over all tested genes; -1 if S or T has all genes or none.
    fidelity
        k / max(m, N): m genes of T have a real sign, and k of them are predicted with that sign. A
        prediction without significant genes scores 0.
    reach
        k* / N. S is put into the order of the prediction: significant genes first, then by adjusted
        p, p, |log2 fold change| and name. k* is the deepest place down to which 9 of 10 signs are
        right.
    lfc_nmae
        sum |predicted - real| / sum |real| of log2 fold changes, over the genes of S with a finite
        real fold change, at least `GATE` genes. A predicted fold change that is not finite counts
        as 0. A perfect prediction scores 0, "no change" scores 1.
    """

    overlap: np.ndarray
    mcc: np.ndarray
    fidelity: np.ndarray
    reach: np.ndarray
    lfc_nmae: np.ndarray


def agreement(real: DETable, pred: DETable, excluded: np.ndarray | None = None) -> Agreement:
    """Compare two tables with the same perturbations and genes.

    Parameters
    ----------
    real, pred
        Tables of P perturbations and G genes.
    excluded
        bool [P, G] or [G], genes that labels name; None: no genes.
    """
    shape = real.fdr.shape
    kept = np.ones(shape, dtype=bool)
    if excluded is not None:
        kept &= ~np.broadcast_to(excluded, shape)
    s, t = real.significant & kept, pred.significant & kept
    signs = [np.nan_to_num(np.sign(x.log2_fold_change)) for x in (real, pred)]
    judged = (signs[0] != 0) & kept
    right = judged & (signs[0] == signs[1])
    n, called = s.sum(axis=1), t & judged
    longest = np.maximum(called.sum(axis=1), n)
    union = (s | t).sum(axis=1)
    return Agreement(
        np.where(union > 0, (s & t).sum(axis=1) / np.maximum(union, 1), 1.0),
        _matthews(real.significant, pred.significant),
        np.where(longest > 0, (called & right).sum(axis=1) / np.maximum(longest, 1), np.nan),
        np.array(
            [_reach(pred, row, s[row], t[row], judged[row], right[row]) for row in range(shape[0])]
        ),
        np.array(
            [
                _fold_error(real.log2_fold_change[row], pred.log2_fold_change[row], s[row])
                for row in range(shape[0])
            ]
        ),
    )


def _matthews(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    genes = s.shape[1]
    a, b, both = (x.sum(axis=1, dtype=np.float64) for x in (s, t, s & t))
    spread = a * b * (genes - a) * (genes - b)
    return np.where(spread > 0, (both * genes - a * b) / np.sqrt(np.maximum(spread, 1)), -1.0)


def _reach(
    pred: DETable,
    row: int,
    significant: np.ndarray,
    called: np.ndarray,
    judged: np.ndarray,
    right: np.ndarray,
) -> float:
    n = int(significant.sum())
    if n == 0:
        return float("nan")
    size = np.nan_to_num(np.abs(pred.log2_fold_change[row]), nan=-1.0, posinf=np.inf)
    # lexsort sorts by its last key first.
    order = np.lexsort((np.array(pred.genes), -size, pred.p_value[row], pred.fdr[row], ~called))
    order = order[(significant & judged)[order]]
    hits = np.cumsum(right[order])
    deep = np.flatnonzero(hits >= REACH * np.arange(1, len(order) + 1) - 1e-12)
    return float(deep[-1] + 1) / n if len(deep) else 0.0


def _fold_error(real: np.ndarray, pred: np.ndarray, significant: np.ndarray) -> float:
    gate = significant & np.isfinite(real)
    total = np.abs(real[gate]).sum()
    if gate.sum() < GATE or total == 0:
        return float("nan")
    finite = np.where(np.isfinite(pred[gate]), pred[gate], 0.0)
    return float(np.abs(finite - real[gate]).sum() / total)
