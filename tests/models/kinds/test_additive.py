"""The additive baseline: planted effects, an independent solver, designs with gaps."""

from __future__ import annotations

import numpy as np
import pytest

from statetx.models.baselines.deltas import Statistics
from statetx.models.kinds import additive, context_mean, perturbation_mean

GENES = 6


def _fitted(conditions: list[tuple[str, str]], deltas: np.ndarray) -> additive.Additive:
    lines = sorted({line for line, _ in conditions})
    means = np.zeros((len(lines), GENES))
    architecture, arrays = additive.fit(Statistics(lines, means, conditions, deltas))
    meta = {"architecture": architecture, "n_genes": GENES, "control": "ctrl"}
    return additive.restore(meta, arrays)


def _design(share: float, seed: int = 0) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Training conditions, chosen so that all are linked, and the others."""
    rng = np.random.default_rng(seed)
    pairs = [(f"L{i}", f"d{j:02d}") for i in range(6) for j in range(15)]
    linked = {pair for pair in pairs if pair[0] == "L0" or pair[1] == "d00"}
    train = [pair for pair in pairs if pair in linked or rng.random() < share]
    return train, [pair for pair in pairs if pair not in set(train)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_planted_effects_are_recovered_where_the_design_has_gaps(share: float) -> None:
    rng = np.random.default_rng(1)
    train, held_out = _design(share)
    lines = {name: rng.standard_normal(GENES) for name in {pair[0] for pair in train}}
    labels = {name: rng.standard_normal(GENES) for name in {pair[1] for pair in train}}
    planted = [lines[line] + labels[label] for line, label in train]
    model = _fitted(train, np.stack(planted).astype(np.float32))
    assert held_out
    for line, label in held_out:
        delta, fallback = model.delta(line, label)
        np.testing.assert_allclose(delta, lines[line] + labels[label], atol=2e-6)
        assert not fallback
    # The reason for least squares: means are not exact where the design has gaps.
    statistics = Statistics(sorted(lines), np.zeros((6, GENES)), train, np.stack(planted))
    architecture, arrays = perturbation_mean.fit(statistics)
    mean = perturbation_mean.PerturbationMean(architecture, arrays, "ctrl")
    line, label = held_out[0]
    assert np.abs(mean.delta(line, label)[0] - lines[line] - labels[label]).max() > 0.1


def test_equals_numpy_least_squares() -> None:
    train, held_out = _design(0.4)
    rng = np.random.default_rng(2)
    deltas = rng.standard_normal((len(train), GENES))
    lines, labels = (sorted({pair[i] for pair in train}) for i in (0, 1))

    def features(pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.array(
            [[name == line for name in lines] + [name == label for name in labels]
             for line, label in pairs],
            dtype=float,
        )  # fmt: skip

    coefficients = np.linalg.lstsq(features(train), deltas, rcond=None)[0]
    model = _fitted(train, deltas)
    for pairs in (train, held_out):
        got = np.stack([model.delta(*pair)[0] for pair in pairs])
        np.testing.assert_allclose(got, features(pairs) @ coefficients, atol=1e-6)


def test_full_design_is_the_sum_of_means() -> None:
    train, _ = _design(1.0)
    deltas = np.random.default_rng(3).standard_normal((len(train), GENES))
    model = _fitted(train, deltas)
    statistics = Statistics(sorted({line for line, _ in train}), deltas[:6], train, deltas)
    by_line = dict(zip(*statistics.mean_deltas_by(0), strict=True))
    by_label = dict(zip(*statistics.mean_deltas_by(1), strict=True))
    expected = by_line["L2"] + by_label["d03"] - statistics.mean_delta()
    np.testing.assert_allclose(model.delta("L2", "d03")[0], expected, atol=1e-6)
    # What is never trained falls back on the other two baselines, flagged.
    for line, label, mean in (
        ("L2", "never", by_line["L2"]),
        ("new", "d03", by_label["d03"]),
        ("new", "never", statistics.mean_delta()),
    ):
        delta, fallback = model.delta(line, label)
        np.testing.assert_allclose(delta, mean, atol=1e-6)
        assert fallback
    architecture, arrays = context_mean.fit(statistics)
    again = context_mean.ContextMean(architecture, arrays, "ctrl").delta("L2", "never")[0]
    np.testing.assert_allclose(model.delta("L2", "never")[0], again, atol=1e-6)


def test_lines_that_share_no_perturbation_are_told_apart() -> None:
    """Between groups the data say nothing: the average lines count as alike, flagged."""
    train = [("A", "x"), ("A", "y"), ("B", "x"), ("C", "u"), ("D", "u"), ("D", "v")]
    rng = np.random.default_rng(4)
    lines = {name: rng.standard_normal(GENES) for name in "ABCD"}
    labels = {name: rng.standard_normal(GENES) for name in "xyuv"}
    model = _fitted(train, np.stack([lines[a] + labels[b] for a, b in train]))
    for line, label in [("B", "y"), ("C", "v")]:
        delta, fallback = model.delta(line, label)
        np.testing.assert_allclose(delta, lines[line] + labels[label], atol=1e-6)
        assert not fallback
    delta, fallback = model.delta("A", "u")
    own = (lines["A"] - lines["B"]) / 2
    np.testing.assert_allclose(delta, own + (lines["C"] + lines["D"]) / 2 + labels["u"], atol=1e-6)
    assert fallback
