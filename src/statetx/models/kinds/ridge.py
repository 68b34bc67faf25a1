"""Baseline: ridge regression of deltas on line, drug and dose.

``delta = intercept + u[line] + v[drug] + w[drug] * (x - mean x of the drug)`` with x = log10 dose
in uM. It is fitted by least squares with the penalty ``p (|u|^2 + |v|^2 + |w|^2)``, with the same p
for all genes (Hoerl & Kennard 1970, Technometrics 12). Prediction = control cells moved by this
delta.

Slopes per decade of dose are about as large as effects, so that the same p suits both. Slopes start
from the drug's mean dose, so that they do not depend on the unit of dose. Conditions have equal
weights. p is the value of `PENALTIES` that best predicts each training condition from all others
(closed form, see `statetx.models.baselines.least_squares`).

An untrained dose lies on the regression line of the drug and is not a fallback. An untrained line
or drug adds nothing to the intercept and is a fallback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import linalg, sparse

from statetx.core.errors import ModelError
from statetx.models.baselines.deltas import MovedControls, Statistics
from statetx.models.baselines.doses import drug_and_dose
from statetx.models.baselines.least_squares import Sums, chunks, one_hot
from statetx.models.predictor import expect_tensors
from statetx.shared.labels import WITH_DOSES, Reading

PENALTIES = tuple(float(p) for p in np.logspace(4, -6, 21))
"""Penalties, in conditions: p = 10 halves the effect of a drug with 10 conditions.

The larger of two penalties with equal errors is used, because it comes first.
"""


def fit(
    statistics: Statistics, n_components: int | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture (names of the rows, the penalty) and tensors (coefficients).

    Parameters
    ----------
    statistics
        Pseudobulks of the training data.
    n_components
        Number of principal components of the deltas to regress on; None: all genes. The
        coefficients are returned per gene in both cases.

    Raises
    ------
    ModelError
        `n_components` is not smaller than the numbers of conditions and of genes.
    """
    lines, line = statistics.codes(0)
    parsed = [drug_and_dose(label, statistics.reading) for _, label in statistics.conditions]
    drugs = sorted({drug for drug, _ in parsed})
    number = {drug: i for i, drug in enumerate(drugs)}
    drug = np.array([number[name] for name, _ in parsed])
    sloped, centres, slopes = _dose_features(
        drug, np.array([np.nan if dose is None else dose for _, dose in parsed])
    )
    n = len(line)
    narrow = sparse.hstack([np.ones((n, 1)), one_hot(line, len(lines))], format="csr")
    wide = sparse.hstack([one_hot(drug, len(drugs)), slopes], format="csr")

    mean = statistics.mean_delta()
    axes = None if n_components is None else _principal_axes(statistics.deltas, mean, n_components)
    targets = statistics.deltas if axes is None else _scores(statistics.deltas, mean, axes)
    sums = Sums.from_features(narrow, wide, targets)
    free_intercept = np.diag([0.0] + [1.0] * len(lines))
    errors = [
        sums.left_out_error(sums.solve(penalty * free_intercept, penalty), targets)
        for penalty in PENALTIES
    ]
    penalty = PENALTIES[int(np.argmin(errors))]
    fitted = sums.solve(penalty * free_intercept, penalty)
    blocks = {
        "intercept": fitted.narrow[0],
        "line_effects": fitted.narrow[1:],
        "drug_effects": fitted.wide[: len(drugs)],
        "drug_slopes": fitted.wide[len(drugs) :],
    }
    if axes is not None:
        blocks = {name: block @ axes.T for name, block in blocks.items()}
        blocks["intercept"] += mean
    return (
        {
            "control_lines": statistics.lines,
            "delta_lines": lines,
            "drugs": drugs,
            "sloped_drugs": [drugs[i] for i in sloped],
            "penalty": penalty,
        },
        {
            "control_means": statistics.control_means.astype(np.float32),
            "mean_log10_doses": centres,
            **{name: block.astype(np.float32) for name, block in blocks.items()},
        },
    )


def _dose_features(
    drug: np.ndarray, dose: np.ndarray
) -> tuple[np.ndarray, np.ndarray, sparse.csr_matrix]:
    """Return the drugs with several doses, their mean log doses, and their features [n, drugs].

    A feature is the log dose minus the drug's mean. It is 0 for other drugs and for conditions
    without a dose, so that it is orthogonal to the one-hot feature of the drug.

    Parameters
    ----------
    drug
        Index of each condition's drug, [n].
    dose
        log10 dose of each condition, NaN for a condition without a dose, [n].
    """
    known = ~np.isnan(dose)
    pairs = np.unique(np.stack([drug[known].astype(float), dose[known]]), axis=1)
    sloped, n_doses = np.unique(pairs[0].astype(np.int64), return_counts=True)
    sloped = sloped[n_doses > 1]
    column = np.full(int(drug.max()) + 1, -1)
    column[sloped] = np.arange(len(sloped))
    rows = np.flatnonzero(known & (column[drug] >= 0))
    at = column[drug[rows]]
    centres = np.bincount(at, dose[rows], len(sloped)) / np.bincount(at, minlength=len(sloped))
    values = dose[rows] - centres[at]
    features = sparse.csr_matrix((values, (rows, at)), shape=(len(drug), len(sloped)))
    return sloped, centres, features


def _principal_axes(deltas: np.ndarray, mean: np.ndarray, n_components: int) -> np.ndarray:
    """Return the orthonormal directions in which deltas vary most, [G, n_components].

    They are eigenvectors of the smaller Gram matrix: exact, unlike randomised methods. With 2,000
    genes the matrix takes 32 MB. With 20,000 genes and 20,000 conditions it takes 3 GB and an hour.
    """
    n, genes = deltas.shape
    if n_components >= min(n, genes):
        raise ModelError(
            f"n_components is {n_components}, but there are {n} training conditions and {genes} "
            "genes",
            where="models.<name>.n_components",
            fix="give a smaller number than both, or null for all genes",
        )
    first = min(n, genes) - n_components
    if genes <= n:
        gram = np.zeros((genes, genes))
        for rows in chunks(n):
            part = deltas[rows] - mean
            gram += part.T @ part
        return linalg.eigh(gram, subset_by_index=[first, genes - 1])[1]
    centred = deltas - mean
    vectors = linalg.eigh(centred @ centred.T, subset_by_index=[first, n - 1])[1]
    return linalg.qr(centred.T @ vectors, mode="economic")[0]


def _scores(deltas: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the coordinates of deltas on the axes, float64 [n, components]."""
    return np.concatenate([(deltas[rows] - mean) @ axes for rows in chunks(len(deltas))])


class Ridge(MovedControls):
    """A model that moves control cells by the delta of the regression.

    Parameters
    ----------
    architecture
        ``control_lines``, ``delta_lines``, ``drugs`` and ``sloped_drugs`` (drugs with several
        training doses): names of the tensors' rows.
    arrays
        ``control_means`` [lines, G], ``intercept`` [G], ``line_effects`` [training lines, G],
        ``drug_effects`` [drugs, G], ``drug_slopes`` [sloped drugs, G] per decade of dose, and
        ``mean_log10_doses`` [sloped drugs], at which the slope adds nothing.
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
        sloped = architecture["sloped_drugs"]
        self._intercept = arrays["intercept"]
        self._lines = dict(zip(architecture["delta_lines"], arrays["line_effects"], strict=True))
        self._drugs = dict(zip(architecture["drugs"], arrays["drug_effects"], strict=True))
        self._slopes = dict(zip(sloped, arrays["drug_slopes"], strict=True))
        self._centres = dict(zip(sloped, arrays["mean_log10_doses"], strict=True))

    def delta(self, line: str, perturbation: str) -> tuple[np.ndarray, bool]:
        """Return the delta [G] of the regression; a fallback if line or drug was not trained."""
        drug, dose = drug_and_dose(perturbation, self._reading)
        delta = self._intercept.astype(np.float64)
        if line in self._lines:
            delta += self._lines[line]
        if drug in self._drugs:
            delta += self._drugs[drug]
        if dose is not None and drug in self._slopes:
            delta += self._slopes[drug] * (dose - self._centres[drug])
        return delta, line not in self._lines or drug not in self._drugs


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Ridge:
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
    sloped = len(architecture["sloped_drugs"])
    shapes = {
        "control_means": (len(architecture["control_lines"]), genes),
        "intercept": (genes,),
        "line_effects": (len(architecture["delta_lines"]), genes),
        "drug_effects": (len(architecture["drugs"]), genes),
        "drug_slopes": (sloped, genes),
        "mean_log10_doses": (sloped,),
    }
    expect_tensors(arrays, shapes, "ridge")
    return Ridge(
        architecture, arrays, meta["control"], Reading.from_settings(meta, meta["control"])
    )
