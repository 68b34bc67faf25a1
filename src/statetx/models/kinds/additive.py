"""Baseline: the effect of a line plus the effect of a perturbation, without interaction.

``delta[line, perturbation] = a[line] + b[perturbation]``, fitted by least squares to the training
conditions. Prediction = control cells moved by this delta. If every line has every perturbation,
the delta is the mean of the line + the mean of the perturbation - the mean of all. With gaps in the
design, the fit is still exact for additive effects, but means are not.

Conditions have equal weights, as in the other baselines. The residual is mostly interaction, which
does not shrink with more cells: weights by cells would let the deepest conditions decide.

Only sums a + b are determined. Centring separates them: over lines that are linked by shared
perturbations, a has mean zero, so that b is the effect in their average line. An untrained line
therefore gets b, and an untrained perturbation gets a + mean b. Both are fallbacks. A pair that no
chain of training conditions links is a fallback too: it assumes that average lines are similar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from statetx.models.baselines.deltas import MovedControls, Statistics
from statetx.models.baselines.least_squares import Sums, one_hot
from statetx.models.predictor import expect_tensors


def fit(statistics: Statistics) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return architecture (names of the rows, groups of linked rows) and tensors (effects).

    Parameters
    ----------
    statistics
        Pseudobulks of the training data.
    """
    lines, line = statistics.codes(0)
    labels, label = statistics.codes(1)
    n, size = len(lines), len(lines) + len(labels)
    links = sparse.coo_array((np.ones(len(line)), (line, n + label)), shape=(size, size))
    groups = connected_components(links, directed=False)[1]
    # The data do not determine the mean of a over a group. A penalty sets it to zero, without loss
    # of accuracy.
    member = one_hot(groups[:n], int(groups.max()) + 1).toarray()
    features = one_hot(line, n), one_hot(label, len(labels))
    fitted = Sums.from_features(*features, statistics.deltas).solve(member @ member.T)
    return (
        {
            "control_lines": statistics.lines,
            "delta_lines": lines,
            "delta_perturbations": labels,
            "line_groups": groups[:n].tolist(),
            "perturbation_groups": groups[n:].tolist(),
        },
        {
            "control_means": statistics.control_means.astype(np.float32),
            "line_effects": fitted.narrow.astype(np.float32),
            "perturbation_effects": fitted.wide.astype(np.float32),
        },
    )


class Additive(MovedControls):
    """A model that moves control cells by the effect of their line + the effect of the label.

    Parameters
    ----------
    architecture
        ``control_lines``, ``delta_lines`` and ``delta_perturbations``: names of the tensors' rows;
        ``line_groups`` and ``perturbation_groups``: number of the group of linked rows of each.
    arrays
        ``control_means`` [lines, G], ``line_effects`` [training lines, G],
        ``perturbation_effects`` [labels, G].
    control
        Control label, which is predicted as no change.
    """

    def __init__(
        self, architecture: Mapping[str, Any], arrays: Mapping[str, np.ndarray], control: str
    ) -> None:
        super().__init__(architecture, arrays, control)
        self._lines = _rows(architecture["delta_lines"], architecture["line_groups"])
        self._labels = _rows(
            architecture["delta_perturbations"], architecture["perturbation_groups"]
        )
        self._line_effects = arrays["line_effects"]
        self._effects = arrays["perturbation_effects"]
        self._mean_effect = self._effects.mean(axis=0, dtype=np.float64)

    def delta(self, line: str, perturbation: str) -> tuple[np.ndarray, bool]:
        """Return a + b [G]; a fallback unless training conditions link line and label."""
        of_line, of_label = self._lines.get(line), self._labels.get(perturbation)
        delta = self._mean_effect if of_label is None else self._effects[of_label[0]]
        if of_line is None:
            return delta, True
        return self._line_effects[of_line[0]] + delta, of_label is None or of_line[1] != of_label[1]


def _rows(names: list[str], groups: list[int]) -> dict[str, tuple[int, int]]:
    """Return row and group by name."""
    pairs = zip(names, groups, strict=True)
    return {name: (row, group) for row, (name, group) in enumerate(pairs)}


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Additive:
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
    shapes = {
        "control_means": (len(architecture["control_lines"]), genes),
        "line_effects": (len(architecture["delta_lines"]), genes),
        "perturbation_effects": (len(architecture["delta_perturbations"]), genes),
    }
    expect_tensors(arrays, shapes, "additive")
    return Additive(architecture, arrays, meta["control"])
