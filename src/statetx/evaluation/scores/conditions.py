"""Our scores: one row per condition. Real and predicted deltas subtract the same real controls.

Symbols, for a condition p:

- r and q are the mean real and the mean predicted profile (log1p values, mean over cells).
- a and b are the real and the predicted delta: r and q minus the mean of all controls of the line,
  without the directions in which its batches of controls differ (`pseudobulk.Controls.delta`).
- c is the mean of the controls of the batches of the condition.
- noise is the trace of the covariance / n: the part of a squared error that sampling cells makes.

pearson_delta
    Pearson correlation over genes of b and a.
pearson_delta_perturbed
    The same, after subtracting the mean training delta of the line from both (the reference of
    Systema). What all perturbations share does not raise this score. The control cancels: the
    profile minus the mean profile of the line's training conditions remains.
pds_cosine
    1 - k / (P - 1), for P scored conditions of the line. k is the mid-rank of the cosine distance
    between b_p and a_p among the distances between b_p and the real deltas of all of them. Chance
    and any constant prediction have 0.5.
mse_unbiased, mse_control
    (|q - r|^2 - noise_r) / G and (|r - c|^2 - noise_r - noise_c) / G. The ratio of their sums over
    conditions is 0 for the true mean profile and 1 for the control profile. Noise is subtracted for
    the real cells only; in floor and ceiling also for the predicting cells. The mean of a model's
    cells is its prediction, because its cells do not show whether that mean is exact or noisy.
    Subtracting noise for it too turned a true ratio of 1.50 into 0.07 for an exact mean.
    `no_change` delivers control cells drawn at random, so it scores above 1: 3.7 for 40 cells and
    small effects.
energy, mmd, mmd_cellot, mmd_tahoe
    `energy_and_mmd.all_distances` of predicted and real cells.
de_overlap, de_mcc, direction_fidelity, direction_reach, lfc_nmae
    `de_agreement.agreement` of predicted and real differential expression. Both are tested against
    the same real controls: those of the batches of the real cells (`batch_controls`).
cell_covariance
    `covariance.covariance_agreement`.
dose_rho, dose_rho_real, dose_response
    Spearman correlation of effect size (|b|^2 and |a|^2, minus sampling noise) with dose over the
    conditions of a drug in the line; and 1 - half the absolute difference of the two.
spread_ratio
    Trace of the covariance of the predicted cells / that of the real cells.
delta_norm_ratio
    |b| / |a|.
variety, variety_real
    |b_p - mean_p b|^2 - noise, and the same of a. The ratio of their sums says how much predictions
    differ between perturbations, compared with real cells. The noise that is subtracted from the
    predicted sum is at most that sum.
drug_correlation, drug_correlation_real
    Mean Pearson correlation of b_p with the deltas of other drugs in the line, and the same of a,
    corrected for sampling noise (`drug_similarity`). A model that predicts the same effect for all
    drugs has 1.

A correlation that is undefined because of the prediction is 0, and its note says so. A value that
is undefined because of the real data is NaN for every model.

Resampled control cells as a prediction score 0 on average, without a special case. Their b is
sampling noise, whose covariance with a is zero because both subtract the mean m of all controls:
cov(q, m) = var(m). A smoother prediction does not score 0. Even for an inactive drug, a noise-free
control profile correlates by sqrt(n / (n + N)) with n cells and N controls: 0.30 for 40 and 400.
The usual delta of the field has this property too. Only separate controls for the two deltas would
remove it. In pearson_delta_perturbed the control cancels.
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
"""Column -> field of `de_agreement.Agreement`."""

NEED_GENES = ("de_mcc", "direction_fidelity", "direction_reach", "lfc_nmae")
"""Columns that are undefined for every model if the real cells have no significant gene."""

SILENT = 1e-6
"""A delta shorter than this share of its profile is not an effect. Rounding of float32 cells alone
leaves 6e-8."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Summary of the real and the predicted cells of one condition.

    Attributes
    ----------
    perturbation
        Label.
    real, pred
        Summaries of the real and of the predicted cells.
    real_delta, pred_delta
        float64 [G], see `pseudobulk.Controls.delta`. Both subtract the same controls for models,
        and different ones in floor and ceiling.
    control
        Real control profile of the batches of the condition.
    references
        float64 [G] each, mean delta of the line's training conditions. The first is relative to the
        controls that `real_delta` subtracts, the second to those that `pred_delta` subtracts. None:
        no such reference.
    distances
        As `energy_and_mmd.all_distances` returns them.
    covariance
        As `covariance.covariance_agreement` returns it.
    drug, dose
        Drug and dose of the label; NaN: no dose.
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
    """Return which genes the labels name (CRISPR screens): bool [G].

    A label names a gene if it is one, or if a part between ``+``, ``,`` or ``_`` is one. These
    genes are left out of the deltas of all labels. If each label left out only its own gene, a
    prediction could win by changing all other targets.

    Parameters
    ----------
    labels
        Labels of perturbations.
    genes
        The G gene names.
    """
    named: set[str] = set()
    for label in labels:
        named.add(label)
        for mark in "+,_":
            named.update(part.strip() for part in label.split(mark))
    return np.array([gene in named for gene in genes], dtype=bool)


def _correlation(real: np.ndarray, pred: np.ndarray, sizes: tuple[float, float]) -> float | None:
    """Return the Pearson correlation; NaN without a real effect, None without a predicted one.

    `sizes` are the norms of the real and of the predicted profile.
    """
    if np.linalg.norm(real) <= SILENT * sizes[0] or np.ptp(real) == 0:
        return float("nan")
    if np.linalg.norm(pred) <= SILENT * sizes[1] or np.ptp(pred) == 0:
        return None
    return pearson(pred, real)


def _squared(x: np.ndarray, y: np.ndarray) -> float:
    off = x - y
    return float(off @ off)


def discrimination(pred: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return pds_cosine of each condition, float64 [P]: 1 is best, 0.5 chance.

    Parameters
    ----------
    pred, real
        float64 [P, G], deltas; all values are NaN for a single condition.
    """
    n = len(real)
    if n < 2:
        return np.full(n, np.nan)
    # Equal distances differ by 1e-16 after computation. Rounding to 1e-12 makes them ties.
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
        All scored conditions of the line, with at least two real cells each.
    real_de, pred_de
        Differential expression, rows as `conditions`.
    excluded
        bool [G], genes (`target_genes`) that are left out of correlations of deltas, of pds_cosine
        and of the scores of differential expression except de_mcc; None: no genes.

    Returns
    -------
    pandas.DataFrame
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
    pred[np.array(silent, dtype=bool)] = (
        0.0  # rounding noise has a direction, a zero delta does not
    )
    pds = discrimination(pred[:, kept], real[:, kept])
    de_scores = agreement(real_de, pred_de, excluded)
    no_significant_gene = real_de.significant.sum(axis=1) == 0
    response = _dose_response(conditions, real, pred)
    variety_real = _variety(real, [c.real for c in conditions], least=1.0)
    variety = _variety(pred, [c.pred for c in conditions], least=0.0)
    drugs = [c.drug for c in conditions]
    pred_similarity = drug_correlations(pred[:, kept], drugs)
    real_similarity = real_drug_correlations(
        real[:, kept], drugs, [c.real.noise for c in conditions]
    )
    rows = []
    for i, condition in enumerate(conditions):
        notes = dict(condition.notes)
        sizes = (
            float(np.linalg.norm(condition.real.mean[kept])),
            float(np.linalg.norm(condition.pred.mean[kept])),
        )
        row: dict[str, Any] = {"perturbation": condition.perturbation}
        references = {"pearson_delta": (np.zeros(n_genes), np.zeros(n_genes))}
        if condition.references is None:
            row["pearson_delta_perturbed"] = np.nan
            notes["pearson_delta_perturbed"] = "no training conditions to take as reference"
        else:
            references["pearson_delta_perturbed"] = condition.references
        for name, reference in references.items():
            deltas = [(d[i] - r)[kept] for d, r in zip((real, pred), reference, strict=True)]
            value = _correlation(deltas[0], deltas[1], sizes)
            if value is None:
                notes[name] = SCORED_ZERO
            elif np.isnan(value):
                notes[name] = "no real effect to correlate with"
            row[name] = 0.0 if value is None else value
        row["pds_cosine"] = pds[i]
        if len(conditions) < 2:
            notes["pds_cosine"] = "one condition in this line: nothing to tell apart"
        row["mse_unbiased"] = (
            _squared(condition.pred.mean, condition.real.mean)
            - condition.real.noise
            - condition.pred_noise
        ) / n_genes
        row["mse_control"] = (
            _squared(condition.real.mean, condition.control.mean)
            - condition.real.noise
            - condition.control.noise
        ) / n_genes
        row |= condition.distances
        row |= {name: getattr(de_scores, field)[i] for name, field in AGREEMENT.items()}
        if no_significant_gene[i]:
            for name in NEED_GENES:
                row[name], notes[name] = np.nan, "no significant gene in the real cells"
        elif np.isnan(row["lfc_nmae"]):
            notes["lfc_nmae"] = "fewer than 10 significant genes in the real cells"
        row["cell_covariance"] = 0.0 if condition.covariance is None else condition.covariance
        if condition.covariance is None:
            notes["cell_covariance"] = SCORED_ZERO
        elif np.isnan(condition.covariance):
            notes["cell_covariance"] = "too few cells or expressed genes to correlate"
        row |= {name: values[i] for name, values in response.items()}
        length = float(np.linalg.norm(real[i]))
        row["spread_ratio"] = (
            condition.pred.spread / condition.real.spread if condition.real.spread > 0 else np.nan
        )
        row["delta_norm_ratio"] = float(np.linalg.norm(pred[i])) / length if length > 0 else np.nan
        row["variety"], row["variety_real"] = variety[i], variety_real[i]
        row["drug_correlation"], row["drug_correlation_real"] = (
            pred_similarity[i],
            real_similarity[i],
        )
        row["note"] = write_note(notes)
        rows.append(row)
    return pd.DataFrame(rows, columns=["perturbation", *COLUMNS, "note"])


def _variety(deltas: np.ndarray, groups: Sequence[Group], least: float) -> np.ndarray:
    """Return the squared distance of each delta from the mean delta, minus sampling noise: [P].

    Parameters
    ----------
    deltas
        float64 [P, G].
    groups
        [P], summaries of the cells of the deltas.
    least
        Least share of the expected noise to subtract. 1: all of it. 0: at most the sum of the
        squared distances over all conditions.
    """
    n = len(deltas)
    if n < 2:
        return np.full(n, np.nan)
    noise = np.array([group.noise for group in groups])
    off = deltas - deltas.mean(axis=0)
    squares = np.einsum("ij,ij->i", off, off)
    expected = noise * (1 - 2 / n) + noise.sum() / n**2
    total = float(expected.sum())
    share = min(1.0, float(squares.sum()) / total) if total > 0 else 1.0
    return squares - max(least, share) * expected


def _dose_response(
    conditions: Sequence[Condition], real: np.ndarray, pred: np.ndarray
) -> dict[str, np.ndarray]:
    sizes = [
        np.einsum("ij,ij->i", deltas, deltas) - np.array(noise)
        for deltas, noise in (
            (real, [condition.real.noise for condition in conditions]),
            (pred, [condition.pred_noise for condition in conditions]),
        )
    ]
    drugs, doses = (
        [condition.drug for condition in conditions],
        [condition.dose for condition in conditions],
    )
    rho_real, rho = dose_response(drugs, doses, *sizes)
    return {
        "dose_rho": rho,
        "dose_rho_real": rho_real,
        "dose_response": 1 - np.abs(rho - rho_real) / 2,
    }
