"""Columns of scores.csv and of the reference tables, and the format of their notes."""

from __future__ import annotations

from collections.abc import Mapping

IDENTITY = ("line", "perturbation", "drug", "dose", "n_cells")
COLUMNS = (
    "pearson_delta",
    "pearson_delta_perturbed",
    "pds_cosine",
    "mse_unbiased",
    "mse_control",
    "energy",
    "mmd",
    "mmd_cellot",
    "mmd_tahoe",
    "de_overlap",
    "de_mcc",
    "direction_fidelity",
    "direction_reach",
    "lfc_nmae",
    "cell_covariance",
    "dose_rho",
    "dose_rho_real",
    "dose_response",
    "spread_ratio",
    "delta_norm_ratio",
    "variety",
    "variety_real",
    "drug_correlation",
    "drug_correlation_real",
)
"""Score columns, in the order of the file, between `IDENTITY` and ``note``."""

SCORED_ZERO = "undefined by the prediction, scored 0"
DROPPED = "dropped"
FALLBACK = "fallback"
IMPOSSIBLE = "impossible"
REFERENCE = "reference"
"""Words of notes. A note has parts ``<metric or word>: <reason>``, joined by ``; ``."""


def parse_note(note: object) -> dict[str, str]:
    """Split a note into its parts.

    Parameters
    ----------
    note
        A value of the column ``note``; values that are not text have no parts.

    Returns
    -------
    dict
        Metric or word -> reason.
    """
    if not isinstance(note, str) or not note:
        return {}
    return dict(part.split(": ", 1) for part in note.split("; ") if ": " in part)


def write_note(reasons: Mapping[str, str]) -> str:
    """Join reasons into one note.

    Parameters
    ----------
    reasons
        Metric or word -> reason; ``; `` in a reason becomes ``, ``.
    """
    return "; ".join(f"{about}: {why.replace('; ', ', ')}" for about, why in reasons.items())
