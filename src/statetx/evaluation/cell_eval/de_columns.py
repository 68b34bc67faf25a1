"""cell-eval's columns of differential expression, from the tests of both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from statetx.evaluation.numerics.correlation import ranks, spearman
from statetx.evaluation.scores.differential_expression import ALPHA, DETable

Column = list[float | None]
"""One value per label; None = no value (empty in the file), NaN = undefined."""


@dataclass(frozen=True)
class Tests:
    """What the columns see of one side's differential expression: float32, as cell-eval casts it.

    Attributes
    ----------
    log2_fold_change
        float32 [P, G]; NaN and infinities are kept.
    size
        float32 [P, G], by which genes are ranked.
    fdr
        float32 [P, G]; NaN where it is unknown, which is never significant.
    tested, has_fold
        bool [P, G], whether there is such a test, and a fold change in it: supplied tables may lack
        rows and leave cells empty, which is something else than NaN.
    """

    log2_fold_change: np.ndarray
    size: np.ndarray
    fdr: np.ndarray
    tested: np.ndarray
    has_fold: np.ndarray

    @classmethod
    def from_table(cls, table: DETable) -> Tests:
        """Tests of a table that has all of them."""
        fold = table.log2_fold_change.astype(np.float32)
        every = np.ones(fold.shape, dtype=bool)
        return cls(fold, np.abs(fold), table.fdr.astype(np.float32), every, every)

    @property
    def significant(self) -> np.ndarray:
        """Bool [P, G], fdr < 0.05 in float32."""
        return self.fdr < ALPHA

    def __len__(self) -> int:
        return len(self.fdr)


def _places(values: np.ndarray) -> np.ndarray:
    """Place of every value among the distinct ones, ascending; NaN is one value, the largest."""
    return np.unique(values, return_inverse=True)[1]


def _ranked(tests: Tests) -> list[np.ndarray]:
    """Per label the significant genes, largest |log2 fold change| first, ties in gene order."""
    significant = tests.significant
    out = []
    for row in range(len(tests)):
        genes = np.flatnonzero(significant[row])
        out.append(genes[np.argsort(-_places(tests.size[row, genes]), kind="stable")])
    return out


def _overlaps(real: Tests, pred: Tests, k: int | None, by_pred: bool) -> Column:
    out: Column = []
    for ours, theirs in zip(_ranked(real), _ranked(pred), strict=True):
        longest = len(theirs) if by_pred else len(ours)
        top = longest if k is None else min(k, longest)
        shared = len(np.intersect1d(ours[:top], theirs[:top]))
        out.append(shared / top if top else 0.0)
    return out


def _counts(tests: Tests) -> np.ndarray:
    return tests.significant.sum(axis=1)


def _spearman_counts(real: Tests, pred: Tests) -> Column:
    some = _counts(real) > 0
    value = spearman(_counts(real)[some], _counts(pred)[some]) if some.any() else 1.0
    return [value] * len(real)


def _over(chosen: np.ndarray, value: Callable[[int, np.ndarray], float]) -> Column:
    """`value` of (row, chosen genes of the row), None where there are none."""
    genes = [np.flatnonzero(row) for row in chosen]
    return [value(row, own) if len(own) else None for row, own in enumerate(genes)]


def _direction_match(real: Tests, pred: Tests) -> Column:
    def value(row: int, genes: np.ndarray) -> float:
        a, b = (np.sign(side.log2_fold_change[row, genes]) for side in (real, pred))
        return float(((a == b) | (np.isnan(a) & np.isnan(b))).mean())

    return _over(real.significant & real.has_fold & pred.has_fold, value)


def _spearman_folds(real: Tests, pred: Tests) -> Column:
    predicted = np.where(pred.has_fold, pred.log2_fold_change, np.float32(0))

    def value(row: int, genes: np.ndarray) -> float:
        known = genes[real.has_fold[row, genes]]
        sides = (_places(x[row, known]) for x in (real.log2_fold_change, predicted))
        return spearman(*sides)

    return _over(real.significant, value)


def _recall(real: Tests, pred: Tests) -> Column:
    called = pred.significant
    return _over(real.significant, lambda row, genes: float(called[row, genes].mean()))


def _curves(real: Tests, pred: Tests, value: Callable[[np.ndarray, np.ndarray], float]) -> Column:
    unknown = ~pred.tested | np.isnan(pred.fdr)
    # In float32 on purpose: neighbouring q-values may tie, and everything below 1e-10 does.
    fdr = np.clip(np.where(unknown, np.float32(1), pred.fdr), np.float32(1e-10), np.float32(1))
    score = -np.log10(fdr)
    out: Column = []
    for row, known in enumerate(real.tested & ~np.isnan(real.fdr)):
        positive = real.significant[row, known]
        one_sided = positive.all() or not positive.any()
        out.append(float("nan") if one_sided else value(positive, score[row, known]))
    return out


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Sum over distinct thresholds, descending, of (recall step) x precision."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def area_under_roc(positive: np.ndarray, score: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order, ties one half."""
    n_positive = int(positive.sum())
    rank_sum = ranks(score)[positive].sum()
    negatives = len(positive) - n_positive
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * negatives))


def _floats(values: Iterable[float]) -> Column:
    return [float(value) for value in values]


_KS: tuple[int | None, ...] = (None, 50, 100, 200, 500)

DE_COLUMNS: dict[str, Callable[[Tests, Tests], Column]] = {
    **{f"overlap_at_{k or 'N'}": partial(_overlaps, k=k, by_pred=False) for k in _KS},
    **{f"precision_at_{k or 'N'}": partial(_overlaps, k=k, by_pred=True) for k in _KS},
    "de_spearman_sig": _spearman_counts,
    "de_direction_match": _direction_match,
    "de_spearman_lfc_sig": _spearman_folds,
    "de_sig_genes_recall": _recall,
    "de_nsig_counts_real": lambda real, _: _floats(_counts(real)),
    "de_nsig_counts_pred": lambda _, pred: _floats(_counts(pred)),
    "pr_auc": lambda real, pred: _curves(real, pred, average_precision),
    "roc_auc": lambda real, pred: _curves(real, pred, area_under_roc),
}
"""Columns that need differential expression, in cell-eval's order, from real and predicted tests."""
