"""Whether cells vary together: planted modules of genes."""

from __future__ import annotations

import numpy as np
import pytest

from statetx.evaluation.scores.covariance import covariance_agreement

G = 60


def _cells(n: int, modules: np.ndarray, seed: int) -> np.ndarray:
    """Genes of one module share a latent factor."""
    rng = np.random.default_rng(seed)
    return np.abs(3 + rng.normal(size=(n, 6))[:, modules] + 0.5 * rng.normal(size=(n, G)))


@pytest.fixture
def modules() -> np.ndarray:
    return np.arange(G) % 6


def test_equal_structure_is_near_one_and_shuffled_cells_near_zero(modules: np.ndarray) -> None:
    real, same = _cells(300, modules, 0), _cells(200, modules, 1)
    fold = np.linspace(1, 2, G)
    assert (covariance_agreement(same, real, fold) or 0) > 0.9
    rng = np.random.default_rng(2)
    broken = np.stack([rng.permutation(column) for column in same.T], axis=1)
    assert abs(covariance_agreement(broken, real, fold) or 0) < 0.1


def test_it_is_the_correlation_of_correlations(modules: np.ndarray) -> None:
    real, pred = _cells(80, modules, 3), _cells(80, modules, 4)
    fold = np.random.default_rng(5).normal(size=G)
    upper = np.triu_indices(G, 1)
    expected = np.corrcoef(np.corrcoef(pred.T)[upper], np.corrcoef(real.T)[upper])[0, 1]
    assert covariance_agreement(pred, real, fold) == pytest.approx(expected, abs=1e-12)


def test_the_most_changed_genes_that_enough_cells_express(modules: np.ndarray) -> None:
    real, pred = _cells(90, modules, 6), _cells(90, modules, 7)
    real, pred = (np.concatenate([x] * 3, axis=1) for x in (real, pred))
    fold = np.zeros(3 * G)
    fold[2 * G :] = -3.0
    fold[G : 2 * G] = np.inf
    real[:, G : 2 * G] = 0.0
    # 60 most changed genes are expressed, 40 unchanged ones fill up.
    chosen = [*range(2 * G, 3 * G), *range(40)]
    upper = np.triu_indices(100, 1)
    sides = [np.corrcoef(x[:, chosen].T)[upper] for x in (pred, real)]
    expected = np.corrcoef(*sides)[0, 1]
    assert covariance_agreement(pred, real, fold) == pytest.approx(expected, abs=1e-9)


def test_too_few_is_nan_and_constant_cells_are_the_predictions_fault(modules: np.ndarray) -> None:
    real = _cells(100, modules, 8)
    fold = np.ones(G)
    assert np.isnan(covariance_agreement(real[:49], real, fold) or 0)
    assert np.isnan(covariance_agreement(real[:, :19], real[:, :19], fold[:19]) or 0)
    constant = np.repeat(real.mean(axis=0, keepdims=True), 60, axis=0).astype(np.float32)
    assert covariance_agreement(constant, real, fold) is None
