"""Columns of cell-eval that compare real with predicted differential expression."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from statetx.evaluation.numerics.correlation import ranks, spearman
from statetx.evaluation.scores.differential_expression import ALPHA, DETable

Column = list[float | None]
"""One value per label. None: no value (empty in the file); NaN: undefined."""


@dataclass(frozen=True)
class Tests:
    """Differential expression of real or of predicted cells, in float32 as in cell-eval.

    Attributes
    ----------
    log2_fold_change
        float32 [P, G]; NaN and infinities are kept.
    size
        float32 [P, G], by which genes are ranked.
    fdr
        float32 [P, G]; NaN if unknown, which is never significant.
    tested, has_fold
        bool [P, G], whether the table has this test, and whether the test has a fold change.
        Supplied tables may not contain all rows and may have empty cells, which differ from NaN.
    """

    log2_fold_change: np.ndarray
    size: np.ndarray
    fdr: np.ndarray
    tested: np.ndarray
    has_fold: np.ndarray

    @classmethod
    def from_table(cls, table: DETable) -> Tests:
        """Convert a table that contains all tests.

        Parameters
        ----------
        table
            Computed differential expression.
        """
        fold = table.log2_fold_change.astype(np.float32)
        every = np.ones(fold.shape, dtype=bool)
        return cls(fold, np.abs(fold), table.fdr.astype(np.float32), every, every)

    @property
    def significant(self) -> np.ndarray:
        """Whether fdr < 0.05 in float32: bool [P, G]."""
        return self.fdr < ALPHA

    def __len__(self) -> int:
        """Return the number of perturbations."""
        return len(self.fdr)


def _places(values: np.ndarray) -> np.ndarray:
    """Return the place of each value among the distinct values, ascending; NaN is the largest."""
    return np.unique(values, return_inverse=True)[1]


def _ranked(tests: Tests) -> list[np.ndarray]:
    """Return the significant genes of each label, largest |log2 fold change| first.

    Ties keep gene order.
    """
    significant = tests.significant
    out = []
    for row in range(len(tests)):
        genes = np.flatnonzero(significant[row])
        out.append(genes[np.argsort(-_places(tests.size[row, genes]), kind="stable")])
    return out


def _overlaps(real: Tests, pred: Tests, k: int | None, by_pred: bool) -> Column:
    out: Column = []
    for real_genes, pred_genes in zip(_ranked(real), _ranked(pred), strict=True):
        longest = len(pred_genes) if by_pred else len(real_genes)
        top = longest if k is None else min(k, longest)
        shared = len(np.intersect1d(real_genes[:top], pred_genes[:top]))
        out.append(shared / top if top else 0.0)
    return out


def _counts(tests: Tests) -> np.ndarray:
    return tests.significant.sum(axis=1)


def _spearman_counts(real: Tests, pred: Tests) -> Column:
    some = _counts(real) > 0
    value = spearman(_counts(real)[some], _counts(pred)[some]) if some.any() else 1.0
    return [value] * len(real)


def _over(chosen: np.ndarray, value: Callable[[int, np.ndarray], float]) -> Column:
    """Return value(row, chosen genes of the row) for each row; None if it has no such genes."""
    genes = [np.flatnonzero(row) for row in chosen]
    return [
        value(row, chosen_genes) if len(chosen_genes) else None
        for row, chosen_genes in enumerate(genes)
    ]


def _direction_match(real: Tests, pred: Tests) -> Column:
    def value(row: int, genes: np.ndarray) -> float:
        a, b = (np.sign(tests.log2_fold_change[row, genes]) for tests in (real, pred))
        return float(((a == b) | (np.isnan(a) & np.isnan(b))).mean())

    return _over(real.significant & real.has_fold & pred.has_fold, value)


def _spearman_folds(real: Tests, pred: Tests) -> Column:
    predicted = np.where(pred.has_fold, pred.log2_fold_change, np.float32(0))

    def value(row: int, genes: np.ndarray) -> float:
        known = genes[real.has_fold[row, genes]]
        ranked = (_places(x[row, known]) for x in (real.log2_fold_change, predicted))
        return spearman(*ranked)

    return _over(real.significant, value)


def _recall(real: Tests, pred: Tests) -> Column:
    called = pred.significant
    return _over(real.significant, lambda row, genes: float(called[row, genes].mean()))


def _curves(real: Tests, pred: Tests, value: Callable[[np.ndarray, np.ndarray], float]) -> Column:
    unknown = ~pred.tested | np.isnan(pred.fdr)
    # float32 as in cell-eval: close q-values may tie, and all values below 1e-10 do.
    fdr = np.clip(np.where(unknown, np.float32(1), pred.fdr), np.float32(1e-10), np.float32(1))
    score = -np.log10(fdr)
    out: Column = []
    for row, known in enumerate(real.tested & ~np.isnan(real.fdr)):
        positive = real.significant[row, known]
        one_sided = positive.all() or not positive.any()
        out.append(float("nan") if one_sided else value(positive, score[row, known]))
    return out


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the average precision: the sum of (recall step) x precision over distinct thresholds.

    Parameters
    ----------
    positive
        bool [n], at least one True.
    score
        [n]; larger values should be positive.
    """
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def area_under_roc(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the share of (positive, negative) pairs in the right order; ties count one half.

    Parameters
    ----------
    positive
        bool [n], both values present.
    score
        [n]; larger values should be positive.
    """
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
"""Column of differential expression -> its function of real and predicted tests, in cell-eval's
order."""
