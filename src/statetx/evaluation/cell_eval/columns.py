"""cell-eval's columns, value for value (release 0.8).

Kept as they are there, flaws included, so that numbers can be compared with published ones: each
side subtracts its own control, both ranked lists are cut, thresholds are float32, an undefined
value is NaN where it poisons a mean and empty where it is skipped. Our own scores, without these
flaws, are in `statetx.evaluation.scores.conditions`.

Three deliberate differences: ties of |log2 fold change| keep gene order (there: unstable); a
predicted delta that is rounding noise (norm <= 1e-9 of the profile's) has no correlation (there:
an arbitrary one between -0.3 and 0.1); energy distances that are equal but for rounding have none
either (there: 0.45 for a prediction that is one profile for all labels).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from statetx.core.errors import ConfigError, did_you_mean
from statetx.evaluation.cell_eval.clustering import clustering_agreement, why_absent
from statetx.evaluation.cell_eval.de_columns import DE_COLUMNS, Column, Tests
from statetx.evaluation.numerics.correlation import pearson
from statetx.evaluation.numerics.vector_distances import distances_between
from statetx.evaluation.scores.differential_expression import DETable

log = logging.getLogger(__name__)

NO_EFFECT = 1e-9
"""A delta shorter than this share of its profile is rounding noise: sums over 2,000 genes in
float64 leave about 1e-16."""

NO_SPREAD = 1e-6
"""Numbers whose range is this share of their size are equal: float32 distances carry 1e-7."""


@dataclass(frozen=True, kw_only=True)
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
        Differential expression of each side against its own control, rows as `labels`, computed
        or supplied; None where the profile needs none.
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
    real_de: DETable | Tests | None = None
    pred_de: DETable | Tests | None = None
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

    @cached_property
    def tests(self) -> tuple[Tests, Tests]:
        """Differential expression of both sides."""
        if self.real_de is None or self.pred_de is None:
            raise ValueError("this metric needs differential expression")
        real, pred = (
            Tests.from_table(side) if isinstance(side, DETable) else side
            for side in (self.real_de, self.pred_de)
        )
        return real, pred


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
    sides = panel.real_energy, panel.pred_energy
    silent = any(np.ptp(side) <= NO_SPREAD * np.abs(side).max() for side in sides)
    return [float("nan") if silent else pearson(*sides)] * len(panel.labels)


def _clustering(panel: Panel) -> Column:
    return [clustering_agreement(panel.real, panel.pred)] * len(panel.labels)


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
    "clustering_agreement": _clustering,
}
"""Columns that do not need differential expression, in cell-eval's order."""

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
    """The columns of a profile that can be computed here, in order.

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
    known = [*PROFILES["full"], *REGISTERED]
    for name in skip:
        if name not in known:
            raise ConfigError(f"no metric {name!r} to skip", fix=did_you_mean(name, known))
    left_out = {column for name in skip for column in REGISTERED.get(name, [name])}
    if why_absent():
        left_out.add("clustering_agreement")
    return [name for name in PROFILES[profile] if name not in left_out]


def needs_de(columns: Sequence[str]) -> bool:
    """Whether columns need differential expression."""
    return any(name in DE_COLUMNS for name in columns)


def needs_energy(columns: Sequence[str]) -> bool:
    """Whether columns need energy distances."""
    return "pearson_edistance" in columns


def evaluate(panel: Panel, columns: Sequence[str]) -> dict[str, Column]:
    """Compute columns, one value per label.

    Parameters
    ----------
    panel
        Both sides.
    columns
        Their names.
    """
    return {
        name: DE_COLUMNS[name](*panel.tests) if name in DE_COLUMNS else PROFILE_COLUMNS[name](panel)
        for name in columns
    }


def say_absent(profile: str, skip: Sequence[str] = ()) -> None:
    """Tell which columns of a profile cannot be computed here, and why."""
    wanted = "clustering_agreement" in PROFILES[profile] and "clustering_agreement" not in skip
    if wanted and (reason := why_absent()):
        log.info("column clustering_agreement is left out: %s", reason)
