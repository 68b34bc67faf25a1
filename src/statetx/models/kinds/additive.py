"""Baseline: the effect of a line plus the effect of a perturbation, without interaction.

``delta[line, perturbation] = a[line] + b[perturbation]``, by least squares over the training
conditions; prediction = control cells moved by it. Where every line has every perturbation this is
the mean of the line + the mean of the perturbation - the mean of all; with gaps it is still exact
when effects are additive, which means are not.

Conditions count equally, as in the other baselines: what the model cannot fit is mostly interaction,
which more cells do not make smaller, so weights by cells would let the deepest conditions decide.

Only sums a + b are determined. Centring tells them apart: over lines that are linked by shared
perturbations a has mean zero, so that b is the effect in their average line. A line never trained
therefore gets b, a perturbation never trained a + mean b; both are flagged, and so is a pair of
which no chain of training conditions links the two (it rests on average lines being alike).
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
    """Return architecture (names of the rows, groups of linked ones) and tensors (effects)."""
    lines, line = statistics.codes(0)
    labels, label = statistics.codes(1)
    n, size = len(lines), len(lines) + len(labels)
    links = sparse.coo_array((np.ones(len(line)), (line, n + label)), shape=(size, size))
    groups = connected_components(links, directed=False)[1]
    # The mean of a over a group, which the data leave open, is pulled to zero: it costs no accuracy.
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
    """Moves control cells by the effect of their line + the effect of the label.

    Parameters
    ----------
    architecture
        ``control_lines``, ``delta_lines`` and ``delta_perturbations``: names of the tensors' rows;
        ``line_groups`` and ``perturbation_groups``: number of the group that each is linked to.
    arrays
        ``control_means`` [lines, G], ``line_effects`` [training lines, G],
        ``perturbation_effects`` [labels, G].
    control
        Control label: predicted as no change.
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
        own, other = self._lines.get(line), self._labels.get(perturbation)
        delta = self._mean_effect if other is None else self._effects[other[0]]
        if own is None:
            return delta, True
        return self._line_effects[own[0]] + delta, other is None or own[1] != other[1]


def _rows(names: list[str], groups: list[int]) -> dict[str, tuple[int, int]]:
    """Return row and group by name."""
    pairs = zip(names, groups, strict=True)
    return {name: (row, group) for row, (name, group) in enumerate(pairs)}


def restore(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Additive:
    """Build the baseline from its directory's content.

    Raises
    ------
    ModelError
        The tensors are not those of this kind.
    """
    architecture, genes = meta["architecture"], meta["n_genes"]
    shapes = {
        "control_means": (len(architecture["control_lines"]), genes),
        "line_effects": (len(architecture["delta_lines"]), genes),
        "perturbation_effects": (len(architecture["delta_perturbations"]), genes),
    }
    expect_tensors(arrays, shapes, "additive")
    return Additive(architecture, arrays, meta["control"])
