"""The baselines: what they predict, and that moving cells moves their mean by the delta."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from statetx.core.errors import ModelError
from statetx.models.baselines.deltas import Statistics
from statetx.models.predictor import Predictor

GENES = 7
MOVING = ["context_mean", "perturbation_mean", "additive", "ridge", "nearest_drug"]


def _cells(seed: int, cells: int = 500) -> np.ndarray:
    """Sparse non-negative expression, as in single cells: 85 % zeros."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(2.0, 0.5, size=(cells, GENES))
    return np.where(rng.random(values.shape) < 0.85, 0.0, values).astype(np.float32)


def _statistics() -> Statistics:
    rng = np.random.default_rng(3)
    conditions = [("A", "x"), ("A", "y"), ("B", "x")]
    return Statistics(
        ["A", "B", "C"],
        np.stack([_cells(i).mean(0, dtype=np.float64) for i in range(3)]),
        conditions,
        0.04 * rng.standard_normal((3, GENES)),
    )


def _fitted(kind: str) -> Predictor:
    module = importlib.import_module(f"statetx.models.kinds.{kind}")
    architecture, arrays = module.fit(_statistics())
    meta = {"architecture": architecture, "n_genes": GENES, "control": "ctrl"}
    return module.restore(meta, arrays)


def test_no_change_returns_the_controls() -> None:
    cells = _cells(1)
    predicted = _fitted("no_change").predict(cells, "nowhere", "whatever")
    np.testing.assert_array_equal(predicted.cells, cells)
    assert predicted.cells is not cells
    assert not predicted.fallback


@pytest.mark.parametrize(
    ("kind", "line", "label", "rows", "fallback"),
    [
        ("context_mean", "A", "y", [0, 1], False),
        ("context_mean", "B", "never", [2], False),
        ("context_mean", "C", "x", [0, 1, 2], True),
        ("perturbation_mean", "A", "x", [0, 2], False),
        ("perturbation_mean", "C", "x", [0, 2], False),
        ("perturbation_mean", "C", "y", [1], False),
        ("perturbation_mean", "A", "never", [0, 1], True),
        ("perturbation_mean", "C", "never", [0, 1, 2], True),
        ("perturbation_mean", "new line", "never", [0, 1, 2], True),
    ],
)
def test_which_training_conditions_are_averaged(
    kind: str, line: str, label: str, rows: list[int], fallback: bool
) -> None:
    statistics = _statistics()
    index = "ABC".find(line)
    cells = _cells(index if index >= 0 else 9)
    predicted = _fitted(kind).predict(cells, line, label)
    target = np.maximum(cells.mean(0) + statistics.deltas[rows].mean(0), 0)
    np.testing.assert_allclose(predicted.cells.mean(0), target, atol=1e-6)
    assert predicted.fallback is fallback


@pytest.mark.parametrize("kind", MOVING)
def test_the_control_itself_is_not_moved(kind: str) -> None:
    cells = _cells(0)
    predicted = _fitted(kind).predict(cells, "A", "ctrl")
    np.testing.assert_array_equal(predicted.cells, cells)
    assert not predicted.fallback


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("line", ["A", "new line"])
@pytest.mark.parametrize("label", ["x", "never"])
def test_predicted_cells_have_the_mean_that_the_model_says(
    kind: str, line: str, label: str
) -> None:
    cells = _cells(0)
    model = _fitted(kind)
    predicted = model.predict(cells, line, label)
    delta, fallback = model.delta(line, label)
    target = np.maximum(cells.mean(0, dtype=np.float64) + delta, 0)
    np.testing.assert_allclose(predicted.cells.mean(0), target, atol=1e-6)
    assert predicted.cells.min() >= 0
    assert predicted.fallback is fallback
    assert predicted.cells.dtype == np.float32


@pytest.mark.parametrize("kind", MOVING)
def test_the_order_of_conditions_changes_nothing(kind: str) -> None:
    rng = np.random.default_rng(5)
    conditions = [(line, f"{drug}_{dose}") for line in "ABCD" for drug in "xyz" for dose in (1, 10)]
    conditions = [pair for pair in conditions if rng.random() < 0.8]
    deltas = rng.standard_normal((len(conditions), GENES)).astype(np.float32)
    module = importlib.import_module(f"statetx.models.kinds.{kind}")
    order = rng.permutation(len(conditions))
    fitted = []
    for rows in (np.arange(len(conditions)), order):
        means = np.zeros((4, GENES))
        given = Statistics(list("ABCD"), means, [conditions[i] for i in rows], deltas[rows])
        architecture, arrays = module.fit(given)
        meta = {"architecture": architecture, "n_genes": GENES, "control": "ctrl"}
        fitted.append(module.restore(meta, arrays))
    for line in "ABCDE":
        for label in ("x_1", "y_10", "z_3", "never"):
            one, other = (model.delta(line, label) for model in fitted)
            np.testing.assert_allclose(one[0], other[0], atol=1e-6)
            assert one[1] is other[1]


@pytest.mark.parametrize("kind", ["no_change", *MOVING])
def test_tensors_of_another_model_are_refused(kind: str) -> None:
    module = importlib.import_module(f"statetx.models.kinds.{kind}")
    architecture, arrays = module.fit(_statistics())
    meta = {"architecture": architecture, "n_genes": GENES, "control": "ctrl"}
    for name in arrays:
        with pytest.raises(ModelError, match=rf"1 tensor\(s\) are missing.*{name}"):
            module.restore(meta, {key: value for key, value in arrays.items() if key != name})
        with pytest.raises(ModelError, match=f"tensor '{name}' has shape"):
            module.restore(meta, {**arrays, name: arrays[name][None]})
    with pytest.raises(ModelError, match=r"1 tensor\(s\) are unknown.*'surplus'"):
        module.restore(meta, {**arrays, "surplus": np.zeros(2, np.float32)})
