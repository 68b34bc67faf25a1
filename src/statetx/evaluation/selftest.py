"""Self-test of all metrics on simulated cells with known effects.

A screen of 4 drugs x 3 doses is drawn from known means. Predictions of it are correct, or wrong in
one known way. Each check compares one column of one prediction with what it must be. A metric fails
a check if it does not distinguish correct from wrong predictions, or if it changes with something
that it must ignore.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from tqdm import tqdm

from statetx.evaluation.standalone.line_scores import LineCells
from statetx.evaluation.standalone.score_line import score_line

DRUGS, DOSES, GENES, CELLS, CONTROLS = 4, (0.1, 1.0, 10.0), 120, 80, 300
LABELS = [f"Drug{drug}_{dose:g}" for drug in range(DRUGS) for dose in DOSES]


@dataclass(frozen=True)
class Check:
    """Result of one check of one column.

    Attributes
    ----------
    column
        Column of ``scores.csv``, a ratio of two (``a/b``, of sums), or a column of cell-eval.
    prediction
        Name of the prediction.
    expected
        Condition on the value, in words.
    value
        The value.
    passed
        Whether the value meets the condition.
    """

    column: str
    prediction: str
    expected: str
    value: float
    passed: bool


class Screen:
    """A simulated screen with known effects, and predictions of it.

    Parameters
    ----------
    seed
        Seed of all draws.
    """

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng([7, seed])
        self._base = self._rng.gamma(2.0, 1.0, GENES) + 0.5
        self._modules = self._rng.integers(0, 6, GENES)
        effects = self._rng.normal(size=(DRUGS, GENES)) * (self._rng.random((DRUGS, GENES)) < 0.4)
        sizes = np.linspace(0.25, 1.0, len(DOSES))
        self._deltas = (sizes[None, :, None] * effects[:, None]).reshape(-1, GENES) * 0.8
        self.control = self._cells(np.zeros(GENES), CONTROLS)
        self.real = {name: self._cells(d, CELLS) for name, d in self._by_label()}

    def _by_label(self) -> Iterator[tuple[str, np.ndarray]]:
        yield from zip(LABELS, self._deltas, strict=True)

    def _cells(self, delta: np.ndarray, n: int) -> np.ndarray:
        """Draw `n` cells [n, GENES] with normal noise, shared in part by the genes of a module."""
        shared = self._rng.normal(size=(n, 6))[:, self._modules]
        noise = 0.35 * shared + 0.25 * self._rng.normal(size=(n, GENES))
        cells: np.ndarray = np.maximum(self._base + delta + noise, 0.0).astype(np.float32)
        return cells

    @cached_property
    def predictions(self) -> dict[str, dict[str, np.ndarray]]:
        """Name of the prediction -> label -> predicted cells [CELLS, GENES]."""
        mean = self.control.mean(axis=0, dtype=np.float64)
        oracle = {name: self._cells(d, CELLS) for name, d in self._by_label()}
        moves = {name: cells.mean(axis=0) - mean for name, cells in oracle.items()}
        alike = self._cells(np.zeros(GENES), CELLS)
        alike = alike + (mean - alike.mean(axis=0))
        average = np.mean(list(moves.values()), axis=0)
        noise = self._rng.normal(size=(CELLS, GENES))
        noise -= noise.mean(axis=0)
        turned = [*LABELS[len(DOSES) :], *LABELS[: len(DOSES)]]
        n = len(DOSES)
        backwards = [label for i in range(DRUGS) for label in LABELS[n * i : n * i + n][::-1]]
        return {
            "oracle": oracle,
            "control cells": {name: self._cells(np.zeros(GENES), CELLS) for name in LABELS},
            "control profile": dict.fromkeys(LABELS, alike),
            "mean response": dict.fromkeys(LABELS, alike + average),
            "sign flipped": {name: alike - moves[name] for name in LABELS},
            "drugs exchanged": {n: oracle[m] for n, m in zip(LABELS, turned, strict=True)},
            "doses reversed": {n: oracle[m] for n, m in zip(LABELS, backwards, strict=True)},
            "effects doubled": {n: x + moves[n] for n, x in oracle.items()},
            "cells scattered": {n: x + noise for n, x in oracle.items()},
            "cells all alike": {
                n: np.repeat(x.mean(axis=0, keepdims=True), CELLS, axis=0)
                for n, x in oracle.items()
            },
            "genes apart": {
                n: np.stack([self._rng.permutation(column) for column in x.T], axis=1)
                for n, x in oracle.items()
            },
        }

    def scores(self, prediction: str) -> pd.DataFrame:
        """Return all columns of one prediction, ours and cell-eval's, one row per label.

        Parameters
        ----------
        prediction
            Name in `predictions`.
        """
        real = LineCells(self.real, self.control, {})
        predicted = LineCells(self.predictions[prediction], self.control, {})
        mean = self.control.mean(axis=0, dtype=np.float64)
        reference = np.mean(
            [x.mean(axis=0, dtype=np.float64) - mean for x in self.real.values()], 0
        )
        genes = [f"gene{i:03d}" for i in range(GENES)]
        result = score_line(
            "planted",
            real=real,
            predicted=predicted,
            predicted_on_real_scale=predicted,
            genes=genes,
            profile="full",
            max_cells=CONTROLS,
            seed=0,
            reference=reference,
        )
        cell_eval = pd.DataFrame(result.columns, index=result.labels).astype(float)
        assert result.scores is not None  # requested by default
        return result.scores.set_index("perturbation").join(cell_eval, rsuffix="_cell_eval")


EXPECTED: list[tuple[str, str, str, float]] = [
    ("pearson_delta", "oracle", ">", 0.9),
    ("pearson_delta", "control cells", "near", 0.0),
    ("pearson_delta", "sign flipped", "<", -0.9),
    ("pearson_delta", "drugs exchanged", "<", 0.4),
    ("pearson_delta", "effects doubled", "as oracle", 0.01),
    ("pearson_delta", "cells scattered", "as oracle", 0.01),
    ("pearson_delta_perturbed", "oracle", ">", 0.85),
    ("pearson_delta_perturbed", "mean response", "near", 0.0),
    ("pearson_delta_perturbed", "drugs exchanged", "<", 0.2),
    ("pds_cosine", "oracle", ">", 0.9),
    ("pds_cosine", "mean response", "near", 0.5),
    ("pds_cosine", "control cells", "near", 0.5),
    ("pds_cosine", "sign flipped", "<", 0.4),
    ("pds_cosine", "drugs exchanged", "<", 0.6),
    ("pds_cosine", "effects doubled", "as oracle", 0.01),
    ("mse_unbiased/mse_control", "oracle", "near", 0.0),
    ("mse_unbiased/mse_control", "control profile", "near", 1.0),
    ("mse_unbiased/mse_control", "sign flipped", ">", 3.0),
    ("mse_unbiased/mse_control", "effects doubled", ">", 0.8),
    ("mse_unbiased/mse_control", "cells scattered", "as oracle", 0.01),
    ("energy", "oracle", "near", 0.0),
    ("energy", "control cells", ">", 0.5),
    ("energy", "sign flipped", ">", 2.0),
    ("energy", "cells scattered", ">", 0.5),
    ("energy", "cells all alike", ">", 0.5),
    ("mmd", "oracle", "near", 0.0),
    ("mmd", "control cells", ">", 0.02),
    ("mmd", "cells scattered", ">", 0.02),
    ("mmd_cellot", "drugs exchanged", "> oracle", 0.0),
    ("mmd_tahoe", "drugs exchanged", "> oracle", 0.0),
    ("de_overlap", "oracle", ">", 0.7),
    ("de_overlap", "control cells", "<", 0.1),
    ("de_mcc", "oracle", ">", 0.7),
    ("de_mcc", "drugs exchanged", "<", 0.3),
    ("direction_fidelity", "oracle", ">", 0.8),
    ("direction_fidelity", "sign flipped", "<", 0.1),
    ("direction_fidelity", "control cells", "<", 0.1),
    ("direction_reach", "oracle", ">", 0.95),
    ("direction_reach", "sign flipped", "<", 0.1),
    ("lfc_nmae", "oracle", "<", 0.4),
    ("lfc_nmae", "control profile", "near", 1.0),
    ("lfc_nmae", "sign flipped", ">", 1.6),
    ("cell_covariance", "oracle", ">", 0.8),
    ("cell_covariance", "genes apart", "near", 0.0),
    ("dose_response", "oracle", ">", 0.9),
    ("dose_response", "doses reversed", "<", 0.1),
    ("spread_ratio", "oracle", "near", 1.0),
    ("spread_ratio", "cells scattered", ">", 2.0),
    ("spread_ratio", "cells all alike", "near", 0.0),
    ("delta_norm_ratio", "effects doubled", ">", 1.8),
    ("variety/variety_real", "oracle", "near", 1.0),
    ("variety/variety_real", "mean response", "near", 0.0),
    ("drug_correlation", "oracle", "near", 0.0),
    ("drug_correlation", "effects doubled", "as oracle", 0.05),
    ("drug_correlation", "mean response", "near", 1.0),
    ("drug_correlation_real", "mean response", "near", 0.0),
    ("pearson_delta_cell_eval", "oracle", ">", 0.9),
    ("pearson_delta_cell_eval", "sign flipped", "<", -0.9),
    ("mse", "drugs exchanged", "> oracle", 0.0),
    ("mae", "drugs exchanged", "> oracle", 0.0),
    ("mse_delta", "sign flipped", "> oracle", 0.0),
    ("mae_delta", "sign flipped", "> oracle", 0.0),
    ("discrimination_score_l1", "oracle", ">", 0.9),
    ("discrimination_score_l1", "drugs exchanged", "< oracle", 0.2),
    ("discrimination_score_l2", "drugs exchanged", "< oracle", 0.2),
    ("discrimination_score_cosine", "sign flipped", "< oracle", 0.4),
    ("pearson_edistance", "oracle", ">", 0.9),
    ("pearson_edistance", "doses reversed", "<", 0.0),
    ("overlap_at_N", "drugs exchanged", "< oracle", 0.2),
    ("precision_at_N", "drugs exchanged", "< oracle", 0.2),
    ("de_spearman_sig", "doses reversed", "< oracle", 0.5),
    ("de_direction_match", "sign flipped", "<", 0.1),
    ("de_spearman_lfc_sig", "sign flipped", "<", -0.7),
    ("de_sig_genes_recall", "control cells", "<", 0.2),
    ("pr_auc", "drugs exchanged", "< oracle", 0.2),
    ("roc_auc", "control cells", "near", 0.5),
]
"""Column, prediction, relation and number. ``near``: within 0.15 of the number. ``as oracle``:
differs from the oracle by at most the number. ``< oracle``, ``> oracle``: differs by more than the
number."""

NEAR = 0.15


def selftest(seed: int = 0) -> list[Check]:
    """Score the predictions of a simulated screen and check all columns.

    Parameters
    ----------
    seed
        Seed of the screen.
    """
    screen = Screen(seed)
    tables: dict[str, pd.DataFrame] = {}

    def value(column: str, prediction: str) -> float:
        if prediction not in tables:
            tables[prediction] = screen.scores(prediction)
        names = column.split("/")
        if any(name not in tables[prediction] for name in names):
            return float("nan")
        sums = [float(tables[prediction][name].mean()) for name in names]
        return sums[0] / sums[1] if len(sums) > 1 else sums[0]

    checks = []
    for column, prediction, relation, number in tqdm(
        EXPECTED, desc="selftest", unit="check", leave=False, disable=None
    ):
        observed, oracle = value(column, prediction), value(column, "oracle")
        words, passed = {
            ">": (f"above {number:g}", observed > number),
            "<": (f"below {number:g}", observed < number),
            "near": (f"near {number:g}", abs(observed - number) < NEAR),
            "as oracle": (f"as for the oracle, {oracle:.3g}", abs(observed - oracle) <= number),
            "> oracle": (f"above the oracle's {oracle:.3g}", observed > oracle + number),
            "< oracle": (f"below the oracle's {oracle:.3g}", observed < oracle - number),
        }[relation]
        checks.append(Check(column, prediction, words, observed, bool(passed)))
    return checks
