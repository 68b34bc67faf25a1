"""The metrics of a verdict: what each is called, which columns it is made of, which way is up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes
    ----------
    name, label, description
        Key, short name and one sentence.
    better
        ``higher``, ``lower``, or ``neither`` for a diagnostic, which is never judged.
    perfect
        Value of a perfect prediction.
    column
        Column of ``scores.csv``.
    over
        Column to divide by: the metric is then a ratio of sums over conditions, not a mean of
        ratios, whose denominators may be near zero.
    headline
        Whether it may carry the verdict, if it has range.
    explained
        Whether readers also get its share explained, 0 = floor, 1 = ceiling.
    negative
        Lower end of its dynamic range.
    """

    name: str
    label: str
    better: str
    perfect: float
    description: str
    column: str
    over: str | None = None
    headline: bool = False
    explained: bool = False
    negative: str = "mean_response"


METRICS = [
    Metric(
        "pearson_delta",
        "Pearson of deltas",
        "higher",
        1.0,
        "Correlation over genes of predicted and real delta (against the line's controls). Both "
        "subtract the same controls, so a control profile without its sampling noise scores above "
        "0: read it together with the perturbed reference.",
        "pearson_delta",
        headline=True,
    ),
    Metric(
        "pearson_delta_perturbed",
        "Pearson, perturbed reference",
        "higher",
        1.0,
        "The same after subtracting the line's mean training delta: what all perturbations share "
        "earns nothing.",
        "pearson_delta_perturbed",
        headline=True,
        negative="floor",  # of the mean response nothing is left after that: 0 by definition
    ),
    Metric(
        "pds_cosine",
        "Discrimination",
        "higher",
        1.0,
        "How well the predicted delta points to its own condition among those of its line; chance "
        "is 0.5.",
        "pds_cosine",
        headline=True,
    ),
    Metric(
        "mse_ratio",
        "MSE / control's",
        "lower",
        0.0,
        "Squared error of the mean profile as a share of the control's, without the sampling noise "
        "of the real cells; 1 = the control profile. Noise in a model's prediction counts as its "
        "error, so control cells drawn at random score above 1, the more the fewer the cells.",
        "mse_unbiased",
        over="mse_control",
        headline=True,
    ),
    Metric(
        "energy",
        "Energy distance",
        "lower",
        0.0,
        "Energy distance (U) of predicted from real cells; 0 on average for two samples of one "
        "population.",
        "energy",
        headline=True,
        explained=True,
    ),
    Metric(
        "mmd",
        "MMD²",
        "lower",
        0.0,
        "Maximum mean discrepancy (U, RBF kernels fixed on training cells) of predicted from real "
        "cells.",
        "mmd",
        explained=True,
    ),
    Metric(
        "de_overlap",
        "DE overlap",
        "higher",
        1.0,
        "Jaccard index of predicted and real significant genes, tested against controls of the "
        "same batches.",
        "de_overlap",
    ),
    Metric(
        "de_mcc",
        "DE correlation",
        "higher",
        1.0,
        "Matthews correlation of predicted and real significant genes: 0 is chance, whatever their "
        "numbers.",
        "de_mcc",
    ),
    Metric(
        "direction_fidelity",
        "DE direction",
        "higher",
        1.0,
        "Genes predicted as significant that move the right way, as a share of those predicted or "
        "of the real ones, whichever are more: silence scores 0.",
        "direction_fidelity",
        headline=True,
    ),
    Metric(
        "direction_reach",
        "DE reach",
        "higher",
        1.0,
        "How far down its own ranking a prediction gets 9 of 10 directions of the real significant "
        "genes right.",
        "direction_reach",
    ),
    Metric(
        "lfc_nmae",
        "Fold change error",
        "lower",
        0.0,
        "Absolute error of log2 fold changes over the real significant genes, as a share of their "
        "size; 1 = predicting no change.",
        "lfc_nmae",
    ),
    Metric(
        "cell_covariance",
        "Cell covariance",
        "higher",
        1.0,
        "Correlation between predicted and real gene-gene correlations over the most changed genes: "
        "whether cells vary together as real ones do.",
        "cell_covariance",
    ),
    Metric(
        "dose_response",
        "Dose response",
        "higher",
        1.0,
        "How well the rank correlation of effect size with dose agrees with the real one, over the "
        "doses of a drug in a line; 0.5 is a difference of 1.",
        "dose_response",
    ),
    Metric(
        "variety",
        "Variety",
        "neither",
        1.0,
        "Variance of predicted deltas between perturbations, as a share of the real one; near 0 = "
        "the same answer for everything.",
        "variety",
        over="variety_real",
    ),
    Metric(
        "spread_ratio",
        "Spread of cells",
        "neither",
        1.0,
        "Variance between the cells of a predicted condition, as a share of the real one.",
        "spread_ratio",
    ),
    Metric(
        "delta_norm_ratio",
        "Effect size",
        "neither",
        1.0,
        "Length of the predicted delta, as a share of the real one.",
        "delta_norm_ratio",
    ),
]
"""In the order of the table."""
