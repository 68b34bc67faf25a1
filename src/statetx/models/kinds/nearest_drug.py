"""Baseline: a perturbation has the mean effect of the most similar perturbations in the line.

The similarity of two perturbations (a drug at a dose) is the cosine of their training deltas, over
all lines in which both were trained: ``sum <d_i, d_j> / sqrt(sum |d_i|^2 sum |d_j|^2)``. The sums
run over these lines; for a held-out condition, they are other lines. Prediction = control cells
moved by a mean delta. It is the mean over the k most similar perturbations in the line, weighted by
cosine. Perturbations with negative cosine are not neighbours.

For an untrained dose, the nearest trained dose of the drug (in log dose) is used. If the drug was
not trained, or no neighbour was trained in the line, `perturbation_mean` predicts, as a fallback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statetx.models.baselines.deltas import Statistics
from statetx.models.baselines.doses import drug_and_dose
from statetx.models.kinds import perturbation_mean
from statetx.models.predictor import expect_tensors
from statetx.shared.labels import WITH_DOSES, Reading


def fit(statistics: Statistics, k: int = 5) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture (names of the rows, sizes) and tensors (all deltas, similarities, means).

    Parameters
    ----------
    statistics
        Pseudobulks of the training data.
    k
        Number of neighbours.
    """
    architecture, arrays = perturbation_mean.fit(statistics)
    lines, line = statistics.codes(0)
    labels, label = statistics.codes(1)
    rows = np.full((len(lines), len(labels)), -1, dtype=np.int32)
    rows[line, label] = np.arange(len(line))
    architecture |= {"k": k, "n_conditions": len(line)}
    arrays["rows"] = rows
    arrays["deltas"] = statistics.deltas.astype(np.float32)
    arrays["similarities"] = _similarities(statistics.deltas, rows).astype(np.float32)
    return architecture, arrays


def _similarities(deltas: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the cosine of every two perturbations over the lines that they share.

    Parameters
    ----------
    deltas
        Deltas of the training conditions, [conditions, G].
    rows
        Row of each condition in `deltas`, -1 if it was not trained, [training lines, labels].

    Returns
    -------
    numpy.ndarray
        [labels, labels]; 0 for perturbations that share no line, or have no effect.
    """
    n = rows.shape[1]
    products, squares = np.zeros((n, n)), np.zeros(rows.shape)
    for line, row in enumerate(rows):
        present = np.flatnonzero(row >= 0)
        of_line = deltas[row[present]].astype(np.float64)
        products[np.ix_(present, present)] += of_line @ of_line.T
        squares[line, present] = (of_line**2).sum(axis=1)
    shared = squares.T @ (rows >= 0)  # [i, j]: squares of i over the lines of j
    lengths = np.sqrt(shared * shared.T)
    return products / np.where(lengths > 0, lengths, np.inf)


class NearestDrug(perturbation_mean.PerturbationMean):
    """A model that moves control cells by the deltas of similar perturbations in the line.

    Parameters
    ----------
    architecture
        Architecture of `perturbation_mean.PerturbationMean`, with ``k`` and ``n_conditions``.
    arrays
        Tensors of `perturbation_mean.PerturbationMean`, with ``deltas`` [conditions, G], ``rows``
        [training lines, labels] (row of each condition in ``deltas``, -1: not trained) and
        ``similarities`` [labels, labels].
    control
        Control label, which is predicted as no change.
    reading
        How perturbation labels are read.
    """

    def __init__(
        self,
        architecture: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        control: str,
        reading: Reading = WITH_DOSES,
    ) -> None:
        super().__init__(architecture, arrays, control)
        self._reading = reading
        self._k = int(architecture["k"])
        self._rows = dict(zip(architecture["delta_lines"], arrays["rows"], strict=True))
        self._trained, self._similarities = arrays["deltas"], arrays["similarities"]
        self._index = {name: i for i, name in enumerate(architecture["delta_perturbations"])}
        self._doses: dict[str, list[tuple[float, str]]] = {}
        for name in self._index:
            drug, dose = drug_and_dose(name, reading)
            if dose is not None:
                self._doses.setdefault(drug, []).append((dose, name))

    def delta(self, line: str, perturbation: str) -> tuple[np.ndarray, bool]:
        """Return the mean delta [G] of the neighbours in `line`; a fallback without neighbours."""
        label = self._stand_in(perturbation)
        if label not in self._index or line not in self._rows:
            return super().delta(line, label)[0], True
        similar = np.where(self._rows[line] >= 0, self._similarities[self._index[label]], 0.0)
        nearest = np.argsort(-similar, kind="stable")[: self._k]
        weights = np.maximum(similar[nearest], 0.0)
        if not weights.any():
            return super().delta(line, label)[0], True
        nearest, weights = nearest[weights > 0], weights[weights > 0]
        deltas = self._trained[self._rows[line][nearest]].astype(np.float64)
        return weights @ deltas / weights.sum(), False

    def _stand_in(self, perturbation: str) -> str:
        """Return the label itself, or the trained label of its drug with the nearest dose.

        The higher of two equally near doses is used, as in a series of tenfold doses: its effect is
        larger against the noise (held-out middle doses of simulated drugs: Pearson 0.18, not 0.08).
        """
        drug, dose = drug_and_dose(perturbation, self._reading)
        if perturbation in self._index or dose is None or drug not in self._doses:
            return perturbation

        def order(known: tuple[float, str]) -> tuple[float, float, str]:
            # Rounded, because logs of 0.05, 0.5 and 5 are equally spaced only up to the last digit.
            return round(abs(known[0] - dose), 9), -known[0], known[1]

        return min(self._doses[drug], key=order)[1]


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> NearestDrug:
    """Build the baseline from the content of its model directory.

    Parameters
    ----------
    meta
        Content of ``model.json``.
    arrays
        Tensors of the checkpoint.

    Raises
    ------
    ModelError
        The tensors do not fit this kind.
    """
    architecture, genes = meta["architecture"], meta["n_genes"]
    labels = len(architecture["delta_perturbations"])
    shapes = {
        **perturbation_mean.shapes(architecture, genes),
        "deltas": (architecture["n_conditions"], genes),
        "rows": (len(architecture["delta_lines"]), labels),
        "similarities": (labels, labels),
    }
    expect_tensors(arrays, shapes, "nearest_drug")
    return NearestDrug(
        architecture, arrays, meta["control"], Reading.from_settings(meta, meta["control"])
    )
