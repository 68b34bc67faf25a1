"""Our scores: one row per condition, real controls on both sides of every delta.

Per condition p, with r and q the mean real and predicted profiles (log1p, over cells), a and b
their deltas: minus the mean of all the line's controls, without the directions in which its
batches of controls differ (`pseudobulk.Controls.delta` says why), and c the mean of the controls of
the condition's own batches:

pearson_delta
    Pearson over genes of b and a.
pearson_delta_perturbed
    The same after subtracting the mean training delta of the line from both (Systema's reference):
    what all perturbations share earns nothing. The control cancels: what is left is the profile
    minus the mean profile of the line's training conditions.
pds_cosine
    1 - k / (P - 1), k = mid-rank of the cosine distance of b_p to a_p among its distances to the
    deltas of the line's P scored conditions. Chance, and any constant prediction, is 0.5.
mse_unbiased, mse_control
    (|q - r|^2 - noise_r) / G and (|r - c|^2 - noise_r - noise_c) / G with noise = trace of the
    covariance / n: the part that sampling cells makes. Their ratio (of sums over conditions) is 0
    for the true mean profile and 1 for the control's. Only the noise of real cells is taken off,
    in floor and ceiling that of the predicting cells too. A model's mean as delivered is its
    prediction: from its cells nobody can tell whether it is exact or scattered, and credit for
    noise that a mean does not have made 0.07 of a true ratio of 1.50. So `no_change`, which
    delivers control cells drawn at random, scores above 1: 3.7 for 40 cells and small effects.
energy, mmd, mmd_cellot, mmd_tahoe
    `distances.all_distances` of predicted and real cells.
de_overlap, de_mcc, direction_fidelity, direction_reach, lfc_nmae
    `agreement.agreement` of differential expression, both sides tested against the same real
    controls, those of the batches in which the real cells lie (`own_controls`).
cell_covariance
    `covariance.covariance_agreement`.
dose_rho, dose_rho_real, dose_response
    Spearman of effect size (|b|^2 and |a|^2, less the sampling noise) with dose over the conditions of
    a drug in this line, and 1 - half the difference of both.
spread_ratio
    Trace of the predicted cells' covariance / the real cells'.
delta_norm_ratio
    |b| / |a|.
variety, variety_real
    |b_p - mean_p b|^2 - noise and the same of a: their ratio of sums says how much predictions
    differ between perturbations, compared with the real ones. The noise taken off the predicted
    side is at most what is there.
drug_correlation, drug_correlation_real
    Mean Pearson of b_p with the deltas of other drugs in the line, and the same of a without the
    effect of sampling noise (`likeness`): a model that answers the same for every drug has 1.

A correlation that is undefined because of the prediction is 0 and its note says so; whatever is
undefined because of the real data is NaN for every model. A prediction of resampled control cells
has b = sampling noise, whose covariance with a is zero because the mean m of all controls is
subtracted: cov(q, m) = var(m). So control cells score 0 on average, not by a special case. A
smoother profile does not: both deltas subtract the same finite m, so a model that returns the
control profile without its noise correlates with a drug that does nothing by
sqrt(n / (n + N)) for n cells and N controls, 0.30 for 40 and 400. That is in the field's delta and
goes only with controls kept aside; in pearson_delta_perturbed the control cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from statetx.evaluation.numerics.correlation import pearson, ranks
from statetx.evaluation.numerics.vector_distances import distances_between
from statetx.evaluation.scores.columns import COLUMNS, SCORED_ZERO, write_note
from statetx.evaluation.scores.de_agreement import agreement
from statetx.evaluation.scores.differential_expression import DETable
from statetx.evaluation.scores.dose_response import dose_response
from statetx.evaluation.scores.drug_similarity import drug_correlations, real_drug_correlations
from statetx.evaluation.scores.pseudobulk import Group, Profile

AGREEMENT = {
    "de_overlap": "overlap",
    "de_mcc": "mcc",
    "direction_fidelity": "fidelity",
    "direction_reach": "reach",
    "lfc_nmae": "lfc_nmae",
}
"""Column -> field of `agreement.Agreement`."""

NEED_GENES = ("de_mcc", "direction_fidelity", "direction_reach", "lfc_nmae")
"""Columns that are undefined, for every model alike, where the real cells have no significant gene."""

SILENT = 1e-6
"""A delta shorter than this share of its profile is no effect: storing cells as float32 leaves 6e-8."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Both sides of one condition, summed up.

    Attributes
    ----------
    perturbation
        Label.
    real, pred
        The cells of each side.
    real_delta, pred_delta
        float64 [G], each side's delta, see `pseudobulk.Controls.delta`: from the same controls for
        models, from disjoint ones in floor and ceiling.
    control
        Real control profile in the condition's batches.
    references
        float64 [G] each, mean delta of the line's training conditions from the controls that
        `real_delta` and `pred_delta` subtract; None: no such reference.
    distances
        What `distances.all_distances` returns.
    covariance
        What `covariance.covariance_agreement` returns.
    drug, dose
        What the label says; NaN: no dose.
    notes
        Remarks, as `columns.parse_note` returns them.
    pred_noise
        Sampling noise that the predicted mean is known to have: that of real cells in floor and
        ceiling, 0 for a model.
    """

    perturbation: str
    real: Group
    pred: Group
    real_delta: np.ndarray
    pred_delta: np.ndarray
    control: Profile
    references: tuple[np.ndarray, np.ndarray] | None = None
    distances: Mapping[str, float] = field(default_factory=dict)
    covariance: float | None = float("nan")
    drug: str = ""
    dose: float = float("nan")
    notes: Mapping[str, str] = field(default_factory=dict)
    pred_noise: float = 0.0


def target_genes(labels: Sequence[str], genes: Sequence[str]) -> np.ndarray:
    """Genes that a label names (CRISPR screens): bool [G].

    A label names a gene if it is one, or if a part between ``+``, ``,`` or ``_`` is one. They are
    left out of the deltas for every label alike: leaving out each label's own gene alone lets a
    prediction win by moving all the other targets.
    """
    named: set[str] = set()
    for label in labels:
        named.add(label)
        for mark in "+,_":
            named.update(part.strip() for part in label.split(mark))
    return np.array([gene in named for gene in genes], dtype=bool)


def _correlation(real: np.ndarray, pred: np.ndarray, sizes: tuple[float, float]) -> float | None:
    """Pearson; NaN when the real side has none, None when the predicted side has none."""
    if np.linalg.norm(real) <= SILENT * sizes[0] or np.ptp(real) == 0:
        return float("nan")
    if np.linalg.norm(pred) <= SILENT * sizes[1] or np.ptp(pred) == 0:
        return None
    return pearson(pred, real)


def _squared(x: np.ndarray, y: np.ndarray) -> float:
    off = x - y
    return float(off @ off)


def discrimination(pred: np.ndarray, real: np.ndarray) -> np.ndarray:
    """pds_cosine of deltas [P, G] -> [P]: mid-rank, 1 best, 0.5 chance; NaN for one condition."""
    n = len(real)
    if n < 2:
        return np.full(n, np.nan)
    # Rounding makes equal distances differ by 1e-16: ties are found after rounding to 1e-12.
    distance = np.round(distances_between(pred, real, "cosine"), 12)
    places = np.array([ranks(row)[i] - 1 for i, row in enumerate(distance)])
    return 1.0 - places / (n - 1)


def score(
    conditions: Sequence[Condition],
    real_de: DETable,
    pred_de: DETable,
    excluded: np.ndarray | None = None,
) -> pd.DataFrame:
    """Score the conditions of one line.

    Parameters
    ----------
    conditions
        All scored conditions of the line, at least two real cells each.
    real_de, pred_de
        Differential expression, rows as `conditions`.
    excluded
        bool [G], genes left out of correlations and of pds_cosine (`target_genes`).

    Returns
    -------
    One row per condition: ``perturbation``, `COLUMNS`, ``note``.
    """
    n_genes = len(real_de.genes)
    kept = np.ones(n_genes, dtype=bool) if excluded is None else ~excluded
    shape = (len(conditions), n_genes)
    real = np.array([c.real_delta for c in conditions]).reshape(shape)
    pred = np.array([c.pred_delta for c in conditions]).reshape(shape)
    silent = [
        np.linalg.norm(c.pred_delta) <= SILENT * np.linalg.norm(c.pred.mean) for c in conditions
    ]
    pred[np.array(silent, dtype=bool)] = 0.0  # rounding noise points somewhere; nothing does not
    pds = discrimination(pred[:, kept], real[:, kept])
    agreed = agreement(real_de, pred_de, excluded)
    nothing = real_de.significant.sum(axis=1) == 0
    response = _dose_response(conditions, real, pred)
    variety_real = _variety(real, [c.real for c in conditions], least=1.0)
    variety = _variety(pred, [c.pred for c in conditions], least=0.0)
    drugs = [c.drug for c in conditions]
    likeness = drug_correlations(pred[:, kept], drugs)
    likeness_real = real_drug_correlations(real[:, kept], drugs, [c.real.noise for c in conditions])
    rows = []
    for i, one in enumerate(conditions):
        notes = dict(one.notes)
        sizes = (
            float(np.linalg.norm(one.real.mean[kept])),
            float(np.linalg.norm(one.pred.mean[kept])),
        )
        row: dict[str, Any] = {"perturbation": one.perturbation}
        references = {"pearson_delta": (np.zeros(n_genes), np.zeros(n_genes))}
        if one.references is None:
            row["pearson_delta_perturbed"] = np.nan
            notes["pearson_delta_perturbed"] = "no training conditions to take as reference"
        else:
            references["pearson_delta_perturbed"] = one.references
        for name, reference in references.items():
            sides = [(d[i] - r)[kept] for d, r in zip((real, pred), reference, strict=True)]
            value = _correlation(sides[0], sides[1], sizes)
            if value is None:
                notes[name] = SCORED_ZERO
            elif np.isnan(value):
                notes[name] = "no real effect to correlate with"
            row[name] = 0.0 if value is None else value
        row["pds_cosine"] = pds[i]
        if len(conditions) < 2:
            notes["pds_cosine"] = "one condition in this line: nothing to tell apart"
        row["mse_unbiased"] = (
            _squared(one.pred.mean, one.real.mean) - one.real.noise - one.pred_noise
        ) / n_genes
        row["mse_control"] = (
            _squared(one.real.mean, one.control.mean) - one.real.noise - one.control.noise
        ) / n_genes
        row |= one.distances
        row |= {name: getattr(agreed, field)[i] for name, field in AGREEMENT.items()}
        if nothing[i]:
            for name in NEED_GENES:
                row[name], notes[name] = np.nan, "no significant gene in the real cells"
        elif np.isnan(row["lfc_nmae"]):
            notes["lfc_nmae"] = "fewer than 10 significant genes in the real cells"
        row["cell_covariance"] = 0.0 if one.covariance is None else one.covariance
        if one.covariance is None:
            notes["cell_covariance"] = SCORED_ZERO
        elif np.isnan(one.covariance):
            notes["cell_covariance"] = "too few cells or expressed genes to correlate"
        row |= {name: values[i] for name, values in response.items()}
        length = float(np.linalg.norm(real[i]))
        row["spread_ratio"] = one.pred.spread / one.real.spread if one.real.spread > 0 else np.nan
        row["delta_norm_ratio"] = float(np.linalg.norm(pred[i])) / length if length > 0 else np.nan
        row["variety"], row["variety_real"] = variety[i], variety_real[i]
        row["drug_correlation"], row["drug_correlation_real"] = likeness[i], likeness_real[i]
        row["note"] = write_note(notes)
        rows.append(row)
    return pd.DataFrame(rows, columns=["perturbation", *COLUMNS, "note"])


def _variety(deltas: np.ndarray, groups: Sequence[Group], least: float) -> np.ndarray:
    """Squared distance from the mean delta, less what sampling cells makes: [P].

    Parameters
    ----------
    deltas
        float64 [P, G].
    groups
        The cells behind them.
    least
        Least share of the sampling noise to take off: 1 = all of it, even if more than there is.
    """
    n = len(deltas)
    if n < 2:
        return np.full(n, np.nan)
    noise = np.array([group.noise for group in groups])
    off = deltas - deltas.mean(axis=0)
    found = np.einsum("ij,ij->i", off, off)
    expected = noise * (1 - 2 / n) + noise.sum() / n**2
    total = float(expected.sum())
    there = min(1.0, float(found.sum()) / total) if total > 0 else 1.0
    return found - max(least, there) * expected


def _dose_response(
    conditions: Sequence[Condition], real: np.ndarray, pred: np.ndarray
) -> dict[str, np.ndarray]:
    sizes = [
        np.einsum("ij,ij->i", deltas, deltas) - np.array(noise)
        for deltas, noise in (
            (real, [one.real.noise for one in conditions]),
            (pred, [one.pred_noise for one in conditions]),
        )
    ]
    drugs, doses = [one.drug for one in conditions], [one.dose for one in conditions]
    rho_real, rho = dose_response(drugs, doses, *sizes)
    return {
        "dose_rho": rho,
        "dose_rho_real": rho_real,
        "dose_response": 1 - np.abs(rho - rho_real) / 2,
    }
