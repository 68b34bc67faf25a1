"""The ridge baseline: planted coefficients, scikit-learn as reference, doses never trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge, RidgeCV

from statetx.core.errors import ModelError
from statetx.models.baselines import least_squares
from statetx.models.baselines.deltas import Statistics
from statetx.models.kinds import ridge
from statetx.shared.labels import Reading

LINES, DRUGS, DOSES = [f"L{i}" for i in range(5)], [f"D{i}" for i in range(8)], (0.05, 0.5, 5.0)


def _conditions(seed: int = 0, share: float = 0.6) -> list[tuple[str, str]]:
    """A design with gaps; D6 has one dose, D7 has none (as a knocked-out gene)."""
    rng = np.random.default_rng(seed)
    pairs = [(line, f"{drug}_{dose}") for line in LINES for drug in DRUGS[:6] for dose in DOSES]
    pairs = [pair for pair in pairs if rng.random() < share]
    return sorted(pairs + [(line, label) for line in LINES for label in ("D6_0.5", "D7")])


def _features(pairs: list[tuple[str, str]], train: list[tuple[str, str]]) -> np.ndarray:
    """Dense features, written without the package: one-hots, and log doses less their means."""

    def dose(label: str) -> float:
        return float(np.log10(float(label.split("_")[1]))) if "_" in label else np.nan

    columns = [[line == name for line, _ in pairs] for name in LINES]
    columns += [[label.split("_")[0] == name for _, label in pairs] for name in DRUGS]
    for name in DRUGS[:6]:
        centre = np.mean([dose(label) for _, label in train if label.split("_")[0] == name])
        columns.append(
            [dose(label) - centre if label.split("_")[0] == name else 0.0 for _, label in pairs]
        )
    return np.array(columns, dtype=float).T


def _fitted(
    train: list[tuple[str, str]], deltas: np.ndarray, **settings: Any
) -> tuple[dict[str, Any], ridge.Ridge]:
    genes = deltas.shape[1]
    statistics = Statistics(LINES, np.zeros((len(LINES), genes)), train, deltas)
    architecture, arrays = ridge.fit(statistics, **settings)
    meta = {"architecture": architecture, "n_genes": genes, "control": "ctrl"}
    return architecture, ridge.restore(meta, arrays)


def test_planted_coefficients_predict_what_was_never_trained() -> None:
    rng = np.random.default_rng(1)
    train = _conditions()
    lines = {name: rng.standard_normal(4) for name in LINES}
    drugs = {name: rng.standard_normal(4) for name in DRUGS}
    slopes = {name: rng.standard_normal(4) for name in DRUGS[:6]}

    def planted(line: str, drug: str, dose: float) -> np.ndarray:
        return lines[line] + drugs[drug] + slopes.get(drug, 0.0) * np.log10(dose)

    def of(line: str, label: str) -> np.ndarray:
        drug, _, dose = label.partition("_")
        return planted(line, drug, float(dose or 1))

    architecture, model = _fitted(train, np.stack([of(*pair) for pair in train]))
    assert architecture["penalty"] == min(ridge.PENALTIES)  # no noise: shrinking only harms
    held_out = [
        (line, f"{drug}_{dose}")
        for line in LINES
        for drug in DRUGS[:6]
        for dose in (0.05, 0.2, 0.5, 5.0, 50.0)
    ]
    assert len(set(held_out) - set(train)) > 100
    for line, label in held_out:
        delta, fallback = model.delta(line, label)
        np.testing.assert_allclose(delta, of(line, label), atol=2e-5)
        assert not fallback
    # Other units and spellings are the same dose; a drug of one dose has no slope.
    np.testing.assert_allclose(
        model.delta("L1", "D2_200nM")[0], planted("L1", "D2", 0.2), atol=2e-5
    )
    np.testing.assert_array_equal(model.delta("L1", "D6_0.5")[0], model.delta("L1", "D6_9")[0])


@pytest.mark.parametrize("noise", [0.1, 1.0, 5.0])
def test_penalty_and_predictions_are_those_of_scikit_learn(
    noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(least_squares, "ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(2)
    train = _conditions()
    features = _features(train, train)
    truth = rng.standard_normal((features.shape[1], 9))
    deltas = features @ truth + noise * rng.standard_normal((len(train), 9)) + 3.0
    architecture, model = _fitted(train, deltas)
    reference = RidgeCV(alphas=ridge.PENALTIES).fit(features, deltas)
    assert architecture["penalty"] == pytest.approx(reference.alpha_)
    assert min(ridge.PENALTIES) < reference.alpha_ < max(ridge.PENALTIES)
    pairs = sorted({(line, label) for line in LINES for _, label in train})
    got = np.stack([model.delta(*pair)[0] for pair in pairs])
    np.testing.assert_allclose(got, reference.predict(_features(pairs, train)), atol=5e-6)


def test_left_out_error_is_that_of_fitting_without_each_row() -> None:
    rng = np.random.default_rng(3)
    line, drug = rng.integers(3, size=20), rng.integers(4, size=20)
    narrow, wide = least_squares.one_hot(line, 3), least_squares.one_hot(drug, 4)
    targets = rng.standard_normal((20, 2))
    sums = least_squares.Sums.from_features(narrow, wide, targets)
    solution = sums.solve(0.7 * np.eye(3), 0.7)
    features = np.hstack([narrow.toarray(), wide.toarray()])
    expected = 0.0
    for i in range(20):
        rest = np.arange(20) != i
        fit = Ridge(alpha=0.7, fit_intercept=False).fit(features[rest], targets[rest])
        expected += ((fit.predict(features[i : i + 1]) - targets[i]) ** 2).sum()
    assert sums.left_out_error(solution, targets) == pytest.approx(expected)


@pytest.mark.parametrize("genes", [12, 300])
def test_components_are_those_of_scikit_learn(genes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_squares, "ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(4)
    train = _conditions()
    features = _features(train, train)
    deltas = features @ rng.standard_normal((features.shape[1], genes))
    deltas += rng.standard_normal(deltas.shape) + 1.0
    architecture, model = _fitted(train, deltas, n_components=5)
    pca = PCA(5, svd_solver="full")
    reference = RidgeCV(alphas=ridge.PENALTIES).fit(features, pca.fit_transform(deltas))
    assert architecture["penalty"] == pytest.approx(reference.alpha_)
    got = np.stack([model.delta(*pair)[0] for pair in train])
    expected = pca.inverse_transform(reference.predict(features))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_more_components_than_there_are_is_an_error() -> None:
    train = _conditions()
    for genes in (4, 500):
        with pytest.raises(ModelError, match=f"{len(train)} training conditions and {genes} genes"):
            _fitted(train, np.zeros((len(train), genes)), n_components=min(len(train), genes))


def test_an_unseen_line_or_drug_adds_nothing_to_the_intercept() -> None:
    train = _conditions()
    deltas = np.random.default_rng(5).standard_normal((len(train), 3))
    _, model = _fitted(train, deltas)
    intercept, fallback = model.delta("new", "never_3")
    assert fallback
    parts = []
    for line, label in (("L1", "never"), ("new", "D1_0.5")):
        delta, fallback = model.delta(line, label)
        assert fallback
        parts.append(delta - intercept)
    delta, fallback = model.delta("L1", "D1_0.5")
    assert not fallback
    np.testing.assert_allclose(delta, intercept + parts[0] + parts[1], atol=1e-6)


def test_one_condition_is_enough_to_fit() -> None:
    architecture, model = _fitted([("L0", "D1_1")], np.array([[1.0, -2.0]]))
    np.testing.assert_allclose(model.delta("L0", "D1_1")[0], [1.0, -2.0], atol=1e-6)
    assert architecture["sloped_drugs"] == []


def test_plain_labels_have_no_slope() -> None:
    train = [(line, f"TP53_{i}") for line in LINES for i in (1, 2, 3)]
    deltas = np.random.default_rng(0).standard_normal((len(train), 4))
    means = np.zeros((len(LINES), 4))
    for reading, drugs in ((Reading("plain"), 3), (Reading(), 1)):
        fitted = ridge.fit(Statistics(LINES, means, train, deltas, reading))[0]
        assert len(fitted["drugs"]) == drugs
        assert len(fitted["sloped_drugs"]) == (0 if drugs == 3 else 1)
