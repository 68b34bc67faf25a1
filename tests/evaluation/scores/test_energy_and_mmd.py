"""Energy distance and MMD against scipy, geomloss and the fixture's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from cell_eval_fixture import make
from scipy import sparse
from scipy.spatial.distance import cdist, pdist

from statetx.core.errors import DataError
from statetx.evaluation.numerics import pair_sums as pairs
from statetx.evaluation.scores import energy_and_mmd as distances

EXPECTED = {  # pred vs real | control vs real, label pB
    "v6": (0.050352676, 0.065048272),
    "v50": (0.047670750, 0.058890290),
    "u6": (-0.000456094, 0.025104485),
    "v001": (0.043448573, 0.106133006),
    "median": (159.616899365, 157.338717233),
    "u_median": (-0.001471966, 0.080659517),
    "tahoe": (0.168550677, 0.411585063),
    "energy_v": (0.708096388, 2.005913408),
    "energy_u": (-0.018976406, 1.446630783),
}


@pytest.mark.parametrize("which", [0, 1])
def test_every_number_of_the_fixture(which: int) -> None:
    _, real, labels = make(predicted=False)
    _, pred, _ = make(predicted=True)
    y = real[labels == "pB"]
    x = pred[labels == "pB"] if which == 0 else real[labels == "ctrl"]
    median = distances.median_squared_distance(np.concatenate([x, y]))
    six = (2.0, 1.0, 0.5, 0.1, 0.01, 0.005)  # CellOT's kernel widths
    got = {
        "v6": distances.mmd(x, y, six, "V"),
        "v50": distances.mmd(x, y, np.logspace(1, -3, 50), "V"),
        "u6": distances.mmd(x, y, six),
        "v001": distances.mmd(x, y, [0.01], "V"),
        "median": median,
        "u_median": distances.mmd(x, y, [1 / median]),
        "energy_v": distances.energy(x, y, "V"),
        "energy_u": distances.energy(x, y),
    }
    every, _ = distances.all_distances(x, y, [1 / median])
    got |= {"u_median": every["mmd"], "v6": every["mmd_cellot"], "tahoe": every["mmd_tahoe"]}
    for name, value in got.items():
        assert value == pytest.approx(EXPECTED[name][which], abs=2e-9), name


def brute_energy(x: np.ndarray, y: np.ndarray) -> float:
    return 2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean()


@pytest.mark.parametrize("block", [7, 50, 1024])
def test_blocks_do_not_matter(monkeypatch, block: int) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(5, 1, (50, 8)), generator.normal(5.3, 1, (37, 8))
    monkeypatch.setattr(pairs, "BLOCK", block)
    assert distances.energy(x, y) == pytest.approx(brute_energy(x, y), abs=1e-10)
    kernel = [np.exp(-0.05 * cdist(a, b, "sqeuclidean")) for a, b in ((x, x), (y, y), (x, y))]
    expected = kernel[0].mean() + kernel[1].mean() - 2 * kernel[2].mean()
    assert distances.mmd(x, y, [0.05], "V") == pytest.approx(expected, abs=1e-12)


def counts(n: int, genes: int, density: float, seed: int) -> np.ndarray:
    """log1p values, some cells empty, some genes silent."""
    generator = np.random.default_rng(seed)
    kept = generator.random((n, genes)) < density
    kept[:, ::17] = False
    kept[::29] = False
    return np.log1p(generator.gamma(2, 2, (n, genes)) * kept).astype(np.float32)


@pytest.mark.parametrize("sizes", [(1, 2), (63, 64), (65, 3), (130, 300)])
@pytest.mark.parametrize("genes", [5, 128, 300])
@pytest.mark.parametrize("density", [(0.1, 0.3), (0.3, 1.0), (1.0, 0.1)])
def test_sparse_cells_give_the_sums_over_all_pairs(
    sizes: tuple[int, int], genes: int, density: tuple[float, float]
) -> None:
    x, y = (counts(n, genes, d, i) for i, (n, d) in enumerate(zip(sizes, density, strict=True)))
    gammas = [0.001, 0.002, 0.004, 0.05, 3.0]
    centre = y.mean(axis=0)
    for one, other in ((x, y), (sparse.csr_matrix(x), sparse.csr_matrix(y)), (x, None), (y, None)):
        clouds = [None if cells is None else pairs.Cloud(cells, centre) for cells in (one, other)]
        assert clouds[0] is not None
        found = pairs.pair_sums(clouds[0], clouds[1], gammas)
        left = np.asarray(one.todense() if sparse.issparse(one) else one, dtype=np.float64)
        distance = cdist(left, left if other is None else y.astype(np.float64))
        expected = [distance.sum(), *(np.exp(-g * distance**2).sum() for g in gammas)]
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("density", [0.2, 1.0])
def test_cells_that_nearly_agree_keep_their_distances(density: float) -> None:
    """A collapsed model's: float32 products alone would lose them in rounding."""
    generator = np.random.default_rng(9)
    one = counts(2, 200, density, 3)[1]
    shift = 1e-3 * generator.random((70, 200)) * (one > 0)
    x = (one + shift).astype(np.float32)
    y = (x + 1e-4 * (x > 0) * generator.random(x.shape)).astype(np.float32)
    for left, right in ((x, y), (x, None)):
        other = None if right is None else pairs.Cloud(right, one)
        found = pairs.pair_sums(pairs.Cloud(left, one), other)[0]
        other = pairs.Cloud(x if right is None else right, one * 0)
        far = pairs.pair_sums(pairs.Cloud(left, one * 0), other)[0]
        expected = cdist(left.astype(float), (x if right is None else right).astype(float)).sum()
        assert found == pytest.approx(expected, rel=1e-5)
        assert far == pytest.approx(expected, rel=1e-5)


def test_float32_far_from_the_origin_keeps_its_digits() -> None:
    generator = np.random.default_rng(1)
    x = (generator.normal(size=(60, 20)) + 300).astype(np.float32)
    y = (generator.normal(size=(60, 20)) + 300.2).astype(np.float32)
    expected = brute_energy(x.astype(float), y.astype(float))
    assert distances.energy(x, y) == pytest.approx(expected, abs=1e-6)
    assert distances.energy(x.astype(float), y.astype(float)) == pytest.approx(expected, abs=1e-9)


def test_one_population_is_zero_on_average_and_never_negative_as_v() -> None:
    generator = np.random.default_rng(2)
    pairs = [generator.normal(size=(2, 20, 5)) for _ in range(300)]
    u = [distances.energy(x, y) for x, y in pairs]
    assert abs(np.mean(u)) < 4 * np.std(u) / np.sqrt(len(u))
    assert min(u) < 0 < max(u)
    assert min(distances.energy(x, y, "V") for x, y in pairs) >= 0
    assert distances.energy(pairs[0][0], pairs[0][0], "V") == pytest.approx(0, abs=1e-7)


def test_too_few_or_equal_cells_are_errors() -> None:
    cells = np.zeros((4, 3))
    with pytest.raises(DataError, match="too few"):
        distances.energy(cells[:1], cells)
    with pytest.raises(DataError, match="do not differ"):
        distances.gamma_grid(distances.median_squared_distance(cells))
    assert distances.gamma_grid(2.0) == [0.125, 0.25, 0.5, 1.0, 2.0]


def test_subsampling_is_seeded_and_without_repeats() -> None:
    cells = np.arange(20.0)[:, None]
    a = distances.at_most(cells, 5, np.random.default_rng(3))
    b = distances.at_most(cells, 5, np.random.default_rng(3))
    np.testing.assert_array_equal(a, b)
    assert len(np.unique(a)) == 5
    assert distances.at_most(cells, 20, np.random.default_rng(0)) is cells


def test_the_fast_forms_are_the_plain_ones() -> None:
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(30, 6)), generator.normal(0.4, 1, (41, 6))
    gammas = distances.gamma_grid(distances.median_squared_distance(x))
    every, samples = distances.all_distances(x, y, gammas)
    assert every["energy"] == pytest.approx(distances.energy(x, y), abs=1e-12)
    assert every["mmd"] == pytest.approx(distances.mmd(x, y, gammas), abs=1e-12)
    assert every["mmd_cellot"] == pytest.approx(
        distances.mmd(x, y, distances.CELLOT, "V"), abs=1e-12
    )
    far = distances.EnergyFrom(y, y.mean(axis=0))
    for found in (distances.EnergyFrom(y)(x), far(x), far(samples[0])):
        assert found == pytest.approx(distances.energy(x, y, "V"), abs=1e-12)


def test_float32_kernels_are_those_of_float64() -> None:
    generator = np.random.default_rng(6)
    x, y = generator.gamma(1, 1, (90, 40)), generator.gamma(1.1, 1, (70, 40))
    gammas = [*distances.gamma_grid(distances.median_squared_distance(x)), 2.0, 0.01, 0.005, 50.0]
    for statistic in ("U", "V"):
        exact = distances.mmd(x, y, gammas, statistic)
        single = distances.mmd(x.astype(np.float32), y.astype(np.float32), gammas, statistic)
        assert single == pytest.approx(exact, abs=3e-7)


def test_equal_cells_are_at_distance_zero_in_single_precision() -> None:
    """As a collapsed model predicts them: rounding would leave 1e-2 between them."""
    generator = np.random.default_rng(7)
    real = generator.gamma(1, 20, (50, 30)).astype(np.float32)
    constant = np.repeat(real.mean(0, keepdims=True), 40, axis=0)
    expected = 2 * cdist(constant[:1], real).mean() - pdist(real).mean()
    assert distances.energy(constant, real) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dense", [True, False])
def test_the_mean_as_prediction_is_compared_exactly(dense: bool) -> None:
    real = counts(400, 300, 0.3, 4)
    constant = np.repeat(real.mean(0, keepdims=True), 90, axis=0) * (np.arange(300) % 3 > 0)
    kind = np.asarray if dense else sparse.csr_matrix
    clouds = [pairs.Cloud(kind(cells), real.mean(0)) for cells in (constant, real)]
    assert clouds[0].is_constant
    assert not clouds[1].is_constant
    distance = cdist(constant[:1].astype(float), real.astype(float)).ravel()
    expected = 90 * np.array([distance.sum(), np.exp(-0.01 * distance**2).sum()])
    for one, other in (clouds, clouds[::-1]):
        np.testing.assert_allclose(pairs.pair_sums(one, other, [0.01]), expected, rtol=1e-12)
