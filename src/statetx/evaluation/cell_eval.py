"""cell-eval's columns, value for value (release 0.8).

Kept as they are there, flaws included, so that numbers can be compared with published ones: each
side subtracts its own control, both ranked lists are cut, thresholds are float32, an undefined
value is NaN where it poisons a mean and empty where it is skipped. Our own scores, without these
flaws, are in `statetx.evaluation.scores`.

Two deliberate differences: ties of |log2 fold change| keep gene order (there: unstable), and a
predicted delta that is rounding noise (norm <= 1e-9 of the profile's) has no correlation (there:
an arbitrary one between -0.3 and 0.1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from statetx.errors import ConfigError, did_you_mean
from statetx.evaluation.de import DETable

log = logging.getLogger(__name__)

Column = list[float | None]
"""One value per label; None = no value (empty in the file), NaN = undefined."""

NO_EFFECT = 1e-9
"""A delta shorter than this share of its profile is rounding noise: sums over 2,000 genes in
float64 leave about 1e-16."""


@dataclass(frozen=True)
class Panel:
    """Both sides of one comparison.

    Attributes
    ----------
    labels, genes
        The P perturbations (sorted, no control) and the G genes.
    real, pred
        float64 [P, G], mean profiles.
    real_control, pred_control
        float64 [G], mean profile of each side's own control.
    real_de, pred_de
        Differential expression of each side against its own control, rows as `labels`; None where
        the profile needs none.
    real_energy, pred_energy
        float64 [P], energy distance (V) of each label from its own side's control; None as above.
    real_embedded, pred_embedded
        float64 [P, D], deltas in an embedding for discrimination l2 and cosine, or None.
    """

    labels: list[str]
    genes: list[str]
    real: np.ndarray
    pred: np.ndarray
    real_control: np.ndarray
    pred_control: np.ndarray
    real_de: DETable | None = None
    pred_de: DETable | None = None
    real_energy: np.ndarray | None = None
    pred_energy: np.ndarray | None = None
    real_embedded: np.ndarray | None = None
    pred_embedded: np.ndarray | None = None

    @property
    def real_delta(self) -> np.ndarray:
        """float64 [P, G], profiles minus control, real side."""
        return self.real - self.real_control

    @property
    def pred_delta(self) -> np.ndarray:
        """float64 [P, G], profiles minus control, predicted side."""
        return self.pred - self.pred_control

    @property
    def tables(self) -> tuple[DETable, DETable]:
        """Both tables of differential expression."""
        if self.real_de is None or self.pred_de is None:
            raise ValueError("this metric needs differential expression")
        return self.real_de, self.pred_de


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation, clipped to [-1, 1]; NaN when a side is constant."""
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    # A constant leaves rounding noise after centring, never an exact zero.
    norms = np.sqrt((x @ x) * (y @ y))
    if np.ptp(x) == 0 or np.ptp(y) == 0 or norms == 0:
        return float("nan")
    return float(np.clip((x @ y) / norms, -1.0, 1.0))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on, ties share their mean; scipy.stats would be half a second of every start."""
    return pd.Series(values).rank().to_numpy()


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman correlation with average ranks; NaN when a side is constant."""
    if len(x) < 2:
        return float("nan")
    return pearson(ranks(x), ranks(y))


# ---------------------------------------------------------------------------------------------
# differential expression


def _ranked(table: DETable) -> list[np.ndarray]:
    """Per label the significant genes, largest |log2 fold change| (float32) first."""
    size = np.abs(table.log2_fold_change.astype(np.float32))
    significant = table.significant
    out = []
    for row in range(len(table.labels)):
        genes = np.flatnonzero(significant[row])
        out.append(genes[np.argsort(-size[row, genes], kind="stable")])
    return out


def _overlaps(panel: Panel, k: int | None, by_pred: bool) -> Column:
    real_table, pred_table = panel.tables
    out: Column = []
    for real, pred in zip(_ranked(real_table), _ranked(pred_table), strict=True):
        longest = len(pred) if by_pred else len(real)
        top = longest if k is None else min(k, longest)
        shared = len(np.intersect1d(real[:top], pred[:top]))
        out.append(shared / top if top else 0.0)
    return out


def _counts(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    real, pred = panel.tables
    return real.significant.sum(axis=1), pred.significant.sum(axis=1)


def _spearman_counts(panel: Panel) -> Column:
    real, pred = _counts(panel)
    some = real > 0
    value = spearman(real[some], pred[some]) if some.any() else 1.0
    return [value] * len(panel.labels)


def _over_significant(
    panel: Panel, value: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
) -> Column:
    """`value` of (real lfc, predicted lfc, predicted significance) at each label's real genes."""
    real, pred = panel.tables
    chosen, called = real.significant, pred.significant
    a, b = real.log2_fold_change.astype(np.float32), pred.log2_fold_change.astype(np.float32)
    return [
        value(a[row, chosen[row]], b[row, chosen[row]], called[row, chosen[row]])
        if chosen[row].any()
        else None
        for row in range(len(panel.labels))
    ]


def _curves(panel: Panel, value: Callable[[np.ndarray, np.ndarray], float]) -> Column:
    real, pred = panel.tables
    positive = real.significant
    # In float32 on purpose: neighbouring q-values may tie, and everything below 1e-10 does.
    clipped = np.clip(pred.fdr.astype(np.float32), np.float32(1e-10), np.float32(1.0))
    score = -np.log10(clipped)
    return [
        float("nan")
        if positive[row].all() or not positive[row].any()
        else value(positive[row], score[row])
        for row in range(len(panel.labels))
    ]


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


# ---------------------------------------------------------------------------------------------
# profiles


def _pearson_delta(panel: Panel) -> Column:
    values: Column = []
    for a, b, profile in zip(panel.real_delta, panel.pred_delta, panel.pred, strict=True):
        silent = np.linalg.norm(b) <= NO_EFFECT * np.linalg.norm(profile)
        values.append(float("nan") if silent else pearson(b, a))
    return values


def _errors(panel: Panel, delta: bool, power: int) -> Column:
    off = panel.pred_delta - panel.real_delta if delta else panel.pred - panel.real
    return [float(value) for value in (np.abs(off) ** power).mean(axis=1)]


def distances_between(pred: np.ndarray, real: np.ndarray, kind: str) -> np.ndarray:
    """Distances of every predicted [P, G] from every real delta [Q, G] -> [P, Q]; l1, l2, cosine.

    A vector without length has cosine distance 1.
    """
    if kind == "l1":
        return np.array([np.abs(row - real).sum(axis=1) for row in pred])
    if kind == "l2":
        return np.array([np.sqrt(((row - real) ** 2).sum(axis=1)) for row in pred])
    lengths = np.linalg.norm(pred, axis=1), np.linalg.norm(real, axis=1)
    unit = [
        x / np.where(n == 0, 1.0, n)[:, None] for x, n in zip((pred, real), lengths, strict=True)
    ]
    return np.clip(1.0 - unit[0] @ unit[1].T, 0.0, 2.0)


def _discrimination(panel: Panel, kind: str) -> Column:
    real, pred = panel.real_delta, panel.pred_delta
    position = {gene: i for i, gene in enumerate(panel.genes)}
    if kind != "l1" and panel.real_embedded is not None and panel.pred_embedded is not None:
        real, pred, position = panel.real_embedded, panel.pred_embedded, {}
    n, values = len(panel.labels), []
    for row, label in enumerate(panel.labels):
        sides = pred[row : row + 1], real
        if label in position:
            own = position[label]
            sides = np.delete(sides[0], own, axis=1), np.delete(sides[1], own, axis=1)
        line = distances_between(*sides, kind)[0]
        values.append(1.0 - int((line < line[row]).sum()) / n)
    return list(values)


def _pearson_energy(panel: Panel) -> Column:
    if panel.real_energy is None or panel.pred_energy is None:
        raise ValueError("this metric needs energy distances")
    return [pearson(panel.real_energy, panel.pred_energy)] * len(panel.labels)


def _floats(values: Iterable[float]) -> Column:
    return [float(value) for value in values]


_KS: tuple[int | None, ...] = (None, 50, 100, 200, 500)

DE_COLUMNS: dict[str, Callable[[Panel], Column]] = {
    **{f"overlap_at_{k or 'N'}": partial(_overlaps, k=k, by_pred=False) for k in _KS},
    **{f"precision_at_{k or 'N'}": partial(_overlaps, k=k, by_pred=True) for k in _KS},
    "de_spearman_sig": _spearman_counts,
    "de_direction_match": lambda p: _over_significant(
        p, lambda a, b, _: float((np.sign(a) == np.sign(b)).mean())
    ),
    "de_spearman_lfc_sig": lambda p: _over_significant(
        p, lambda a, b, _: spearman(a.astype(np.float64), b.astype(np.float64))
    ),
    "de_sig_genes_recall": lambda p: _over_significant(p, lambda _a, _b, hit: float(hit.mean())),
    "de_nsig_counts_real": lambda p: _floats(_counts(p)[0]),
    "de_nsig_counts_pred": lambda p: _floats(_counts(p)[1]),
    "pr_auc": lambda p: _curves(p, average_precision),
    "roc_auc": lambda p: _curves(p, area_under_roc),
}
"""Columns that need differential expression, in cell-eval's order."""

PROFILE_COLUMNS: dict[str, Callable[[Panel], Column]] = {
    "pearson_delta": _pearson_delta,
    "mse": lambda p: _errors(p, False, 2),
    "mae": lambda p: _errors(p, False, 1),
    "mse_delta": lambda p: _errors(p, True, 2),
    "mae_delta": lambda p: _errors(p, True, 1),
    "discrimination_score_l1": lambda p: _discrimination(p, "l1"),
    "discrimination_score_l2": lambda p: _discrimination(p, "l2"),
    "discrimination_score_cosine": lambda p: _discrimination(p, "cosine"),
    "pearson_edistance": _pearson_energy,
}
"""Columns that do not, in cell-eval's order."""

ABSENT = {
    "clustering_agreement": "it needs igraph's Leiden and a UMAP graph, and is 0 or 1 with few "
    "perturbations; the other 27 columns are complete"
}
"""Columns of cell-eval that are never written, and why."""

PROFILES: dict[str, list[str]] = {
    "full": [*DE_COLUMNS, *PROFILE_COLUMNS],
    "de": [*DE_COLUMNS],
    "anndata": [*PROFILE_COLUMNS],
    "minimal": [
        *("overlap_at_N", "precision_at_N", "de_nsig_counts_real", "de_nsig_counts_pred"),
        *("pearson_delta", "mse", "mae", "discrimination_score_l1"),
    ],
    "vcc": ["overlap_at_N", "mae", "discrimination_score_l1"],
    "pds": ["discrimination_score_l1"],
}
"""Columns of each profile, in the order of the file."""


REGISTERED = {"de_nsig_counts": ["de_nsig_counts_real", "de_nsig_counts_pred"]}
"""Metrics of cell-eval's registry that are not columns of the same name."""


def columns(profile: str, skip: Sequence[str] = ()) -> list[str]:
    """The columns of a profile, in order.

    Parameters
    ----------
    profile
        Its name.
    skip
        Metrics to leave out, by the names of cell-eval's registry.

    Raises
    ------
    ConfigError
        There is no such profile or metric.
    """
    if profile not in PROFILES:
        raise ConfigError(
            f"no metric profile {profile!r}", fix=did_you_mean(profile, sorted(PROFILES))
        )
    known = [*PROFILES["full"], *REGISTERED, *ABSENT]
    for name in skip:
        if name not in known:
            raise ConfigError(f"no metric {name!r} to skip", fix=did_you_mean(name, known))
    left_out = {column for name in skip for column in REGISTERED.get(name, [name])}
    return [name for name in PROFILES[profile] if name not in left_out]


def needs_de(columns: Sequence[str]) -> bool:
    """Whether columns need differential expression."""
    return any(name in DE_COLUMNS for name in columns)


def needs_energy(columns: Sequence[str]) -> bool:
    """Whether columns need energy distances."""
    return "pearson_edistance" in columns


def evaluate(panel: Panel, columns: Sequence[str] = PROFILES["full"]) -> dict[str, Column]:
    """Compute columns, one value per label.

    Parameters
    ----------
    panel
        Both sides.
    columns
        Their names.
    """
    every = DE_COLUMNS | PROFILE_COLUMNS
    return {name: every[name](panel) for name in columns}


def say_absent(profile: str, skip: Sequence[str] = ()) -> None:
    """Tell which columns of a profile are never written, and why."""
    for name, reason in ABSENT.items():
        if profile in ("full", "anndata") and name not in skip:
            log.info("column %s is left out: %s", name, reason)
