"""Cells that are moved have the wanted mean and stay cells."""

from __future__ import annotations

import numpy as np
import pytest

from statetx.shared.moved_cells import expressed_in, move


def _cells(seed: int, cells: int = 500, genes: int = 7) -> np.ndarray:
    """Sparse non-negative expression, as in single cells: 85 % zeros."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(2.0, 0.5, size=(cells, genes))
    return np.where(rng.random(values.shape) < 0.85, 0.0, values).astype(np.float32)


def moved_to(cells: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return move(cells, mean, expressed_in(cells), np.random.default_rng(0))


def test_moved_cells_have_the_wanted_mean_whatever_cells_were_drawn() -> None:
    cells = _cells(0)
    mean = _cells(1).mean(0, dtype=np.float64)
    delta = np.array([0.05, -0.05, 0.0, -mean[3], -10.0, 0.5, -0.5 * mean[6]])
    moved = moved_to(cells, mean + delta)
    np.testing.assert_allclose(moved.mean(0, np.float64), np.maximum(mean + delta, 0), 1e-6, 1e-7)
    assert moved.min() >= 0
    assert moved.dtype == np.float32
    # The reason for not clipping: most of a fall would be lost.
    clipped = np.maximum(cells + delta.astype(np.float32), 0)
    assert clipped.mean(0)[1] - cells.mean(0)[1] > 0.5 * delta[1]


def test_zeros_stay_zero_while_a_gene_rises_by_no_more_than_its_double() -> None:
    cells = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    moved = moved_to(cells, np.array([0.9, 1.5]))
    np.testing.assert_allclose(moved[:, 0], [0.0, 1.8], rtol=1e-6)
    np.testing.assert_allclose(moved[:, 1].mean(), 1.5, rtol=1e-6)


def test_a_gene_that_no_cell_expresses_cannot_fall_and_rises_in_few() -> None:
    moved = moved_to(np.zeros((40, 2), np.float32), np.array([-0.1, 0.1]))
    np.testing.assert_array_equal(moved[:, 0], 0.0)
    np.testing.assert_allclose(np.sort(moved[:, 1])[-5:], [0, 1, 1, 1, 1], rtol=1e-6)


def test_scaling_hits_the_mean_and_invents_no_cells() -> None:
    rng = np.random.default_rng(0)
    cells = rng.gamma(2.0, 0.5, (50, 6)).astype(np.float32) * (rng.random((50, 6)) < 0.6)
    cells[:, 3] = 0.0
    cells[:, 4] = 0.0
    cells[7, 4] = 1.0
    drawn = cells.mean(axis=0)
    mean = np.array([drawn[0] * 1.5, drawn[1] * 0.2, 0.0, 0.3, 1.2, drawn[5]])
    expressed = np.array([1.0, 1.0, 1.0, 2.5, 1.5, 1.0])
    moved = move(cells, mean, expressed, rng)
    np.testing.assert_allclose(moved.mean(axis=0), mean, atol=1e-6)
    for gene in (0, 1, 5):  # dispersion stays: what was not expressed is not
        np.testing.assert_array_equal(moved[:, gene] > 0, cells[:, gene] > 0)
    assert moved.min() >= 0
    assert moved[:, 4].max() < 4  # scaled alone, the one cell would have a value of 60
    # What a rare gene lacks goes to as many cells as express a gene of that mean, not to all.
    np.testing.assert_allclose(np.sort(moved[:, 3])[-6:], 2.5, rtol=1e-6)
    assert (moved[:, 3] > 0).sum() == 6


@pytest.mark.parametrize("most", [1.5, 2.0, 9.2])
def test_nothing_exceeds_the_largest_possible_value_and_the_mean_stays(most: float) -> None:
    cells, rng = _cells(0, cells=40), np.random.default_rng(0)
    wanted = np.array([0.1, 0.5, 1.0, 1.4, 0.0, 1.45, 0.3])
    free = move(cells, wanted, expressed_in(cells), np.random.default_rng(1))
    found = move(cells, wanted, expressed_in(cells), np.random.default_rng(1), most)
    np.testing.assert_allclose(found.mean(axis=0, dtype=float), wanted, atol=1e-6)
    assert found.min() >= 0
    assert found.max() <= most * (1 + 1e-6)
    for gene in np.flatnonzero((free <= most).all(axis=0)):
        np.testing.assert_array_equal(found[:, gene], free[:, gene])
    beyond = move(cells, wanted + 20, expressed_in(cells), rng, most)
    np.testing.assert_allclose(beyond, most, rtol=1e-6)


def test_no_gene_falls_below_zero_by_rounding() -> None:
    """What exceeds the largest value is spread exactly; the next cells may get nothing, not -1e-15."""
    rng = np.random.default_rng(0)
    for seed in range(200):
        cells = np.zeros((40, 3))
        cells[:3] = rng.uniform(3.0, 6.0, (3, 3))
        mean = np.array([0.4, 0.69, 0.5]) + 0.001 * seed
        moved = move(cells, mean, expressed_in(cells), np.random.default_rng(seed), 9.21)
        assert moved.min() >= 0
        assert moved.max() <= 9.21 + 1e-6
        assert np.allclose(moved.mean(axis=0), mean, atol=1e-5)
