"""Columns of cell-eval (release 0.8), with the same values.

The columns keep the flaws of cell-eval, so that numbers can be compared with published ones:

- Real and predicted deltas each subtract the control of their own file.
- Both ranked lists are cut.
- Thresholds are float32.
- An undefined value is NaN where it makes the mean NaN, and empty where it is skipped.

Our scores in `statetx.evaluation.scores.conditions` do not have these flaws.

Three differences are deliberate:

- Ties of |log2 fold change| keep gene order (cell-eval: unstable order).
- A predicted delta that is rounding noise (norm <= 1e-9 of that of the profile) has no correlation
  (cell-eval: an arbitrary one between -0.3 and 0.1).
- Energy distances that are equal except for rounding have no correlation (cell-eval: 0.45 for a
  prediction of the same profile for all labels).
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
"""A delta shorter than this share of its profile is rounding noise. float64 sums over 2,000 genes
leave about 1e-16."""

NO_SPREAD = 1e-6
"""Numbers count as equal up to a range of this share of the largest. The error of float32 distances
is 1e-7."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Real and predicted profiles of one comparison.

    Attributes
    ----------
    labels, genes
        The P perturbations (sorted, without control) and the G genes.
    real, pred
        float64 [P, G], mean profiles.
    real_control, pred_control
        float64 [G], mean profile of the control cells that belong to `real` and to `pred`.
    real_de, pred_de
        Differential expression of real and of predicted cells, each against these control cells;
        rows as `labels`. It may be computed or supplied; None if no column needs it.
    real_energy, pred_energy
        float64 [P], energy distance (V) of real and of predicted cells from these control cells;
        None if no column needs it.
    real_embedded, pred_embedded
        float64 [P, D], deltas in an embedding for discrimination l2 and cosine; None: gene space.
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
        """Real profiles minus their control, float64 [P, G]."""
        return self.real - self.real_control

    @property
    def pred_delta(self) -> np.ndarray:
        """Predicted profiles minus their control, float64 [P, G]."""
        return self.pred - self.pred_control

    @cached_property
    def tests(self) -> tuple[Tests, Tests]:
        """Tests of the real and of the predicted cells.

        Raises
        ------
        ValueError
            The panel does not contain differential expression.
        """
        if self.real_de is None or self.pred_de is None:
            raise ValueError("this metric needs differential expression")
        real, pred = (
            Tests.from_table(tests) if isinstance(tests, DETable) else tests
            for tests in (self.real_de, self.pred_de)
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
        deltas = pred[row : row + 1], real
        if label in position:
            gene = position[label]
            deltas = np.delete(deltas[0], gene, axis=1), np.delete(deltas[1], gene, axis=1)
        distances = distances_between(*deltas, kind)[0]
        values.append(1.0 - int((distances < distances[row]).sum()) / n)
    return list(values)


def _pearson_energy(panel: Panel) -> Column:
    if panel.real_energy is None or panel.pred_energy is None:
        raise ValueError("this metric needs energy distances")
    energies = panel.real_energy, panel.pred_energy
    silent = any(np.ptp(values) <= NO_SPREAD * np.abs(values).max() for values in energies)
    return [float("nan") if silent else pearson(*energies)] * len(panel.labels)


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
"""Column without differential expression -> its function, in the order of cell-eval."""

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
"""Profile -> its columns, in the order of the file."""


REGISTERED = {"de_nsig_counts": ["de_nsig_counts_real", "de_nsig_counts_pred"]}
"""Metric of cell-eval's registry -> its columns, where their names differ."""


def columns(profile: str, skip: Sequence[str] = ()) -> list[str]:
    """Return the columns of a profile that can be computed with the installed packages, in order.

    Parameters
    ----------
    profile
        Name of the profile.
    skip
        Metrics to leave out, by their names in cell-eval's registry.

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
    """Return whether any of the columns needs differential expression."""
    return any(name in DE_COLUMNS for name in columns)


def needs_energy(columns: Sequence[str]) -> bool:
    """Return whether any of the columns needs energy distances."""
    return "pearson_edistance" in columns


def evaluate(panel: Panel, columns: Sequence[str]) -> dict[str, Column]:
    """Compute columns, one value per label.

    Parameters
    ----------
    panel
        Real and predicted profiles.
    columns
        Names of the columns.
    """
    return {
        name: DE_COLUMNS[name](*panel.tests) if name in DE_COLUMNS else PROFILE_COLUMNS[name](panel)
        for name in columns
    }


def say_absent(profile: str, skip: Sequence[str] = ()) -> None:
    """Log which columns of a profile cannot be computed, and why.

    Parameters
    ----------
    profile
        Name of the profile.
    skip
        Metrics that are left out anyway.
    """
    wanted = "clustering_agreement" in PROFILES[profile] and "clustering_agreement" not in skip
    if wanted and (reason := why_absent()):
        log.info("column clustering_agreement is left out: %s", reason)
