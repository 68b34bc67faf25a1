"""Scores of one line from arrays with known answers; means that stream."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from statetx.core.errors import DataError
from statetx.evaluation.numerics.rank_sum import SortedControl
from statetx.evaluation.scores.columns import SCORED_ZERO, parse_note, write_note
from statetx.evaluation.scores.conditions import Condition, discrimination, score, target_genes
from statetx.evaluation.scores.differential_expression import compare
from statetx.evaluation.scores.pseudobulk import Controls, Group

G = 40


def cells(n: int, shift: np.ndarray | float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(6.0, 0.5, (n, G)) + shift


def exactly(mean: np.ndarray, seed: int, n: int = 10) -> np.ndarray:
    """Cells that scatter around a mean which is theirs to the last digit."""
    noise = np.random.default_rng([8, seed]).normal(0, 0.5, (n, G))
    return mean + noise - noise.mean(axis=0)


@pytest.fixture
def world() -> dict:
    shifts = np.random.default_rng(9).normal(size=(5, G))
    control = cells(200, 0.0, 0)
    return {
        "shifts": shifts,
        "control": control,
        "real": [cells(60, shift, i + 1) for i, shift in enumerate(shifts)],
    }


def scored(world: dict, predicted: list[np.ndarray], reference=None, excluded=None):
    controls = Controls.from_blocks([(world["control"], np.full(len(world["control"]), "a"))])
    groups = [
        (Group.from_cells(r), Group.from_cells(q))
        for r, q in zip(world["real"], predicted, strict=True)
    ]
    reference = np.zeros(G) if reference is None else reference
    conditions = [
        Condition(
            perturbation=f"p{i}",
            real=r,
            pred=q,
            real_delta=controls.delta(r.mean),
            pred_delta=controls.delta(q.mean),
            control=controls.matched(["a"]),
            references=(reference, reference),
        )
        for i, (r, q) in enumerate(groups)
    ]
    ranked, genes = SortedControl.from_cells(world["control"]), [f"g{i}" for i in range(G)]
    tables = [
        compare([(f"p{i}", c) for i, c in enumerate(side)], ranked, genes)
        for side in (world["real"], predicted)
    ]
    return score(conditions, *tables, excluded)


def test_streaming_means_are_plain_means() -> None:
    x = cells(103, 0.0, 0).astype(np.float32) + 100
    blocks = Group.merged(Group.from_cells(x[i : i + 10]) for i in range(0, 103, 10))
    np.testing.assert_allclose(blocks.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    expected = np.trace(np.cov(x.astype(float), rowvar=False))
    assert blocks.spread == pytest.approx(expected, rel=1e-9)
    assert blocks.noise == pytest.approx(expected / 103, rel=1e-9)
    rest = blocks.without(Group.from_cells(x[:40]))
    np.testing.assert_allclose(rest.mean, x[40:].mean(axis=0, dtype=np.float64), rtol=1e-9)
    assert rest.spread == pytest.approx(Group.from_cells(x[40:]).spread, rel=1e-6)
    with pytest.raises(DataError):
        blocks.without(blocks)
    with pytest.raises(DataError):
        Group.from_cells(x[:0])
    with pytest.raises(DataError):
        Controls.from_blocks([])


def test_the_difference_between_batches_is_no_effect() -> None:
    plate = np.random.default_rng(3).normal(size=G)
    batches = np.repeat(["a", "b", "few"], [50, 50, 3])
    control = cells(103, 0.0, 1) + np.where(batches == "b", 1.0, 0.0)[:, None] * plate
    controls = Controls.from_blocks([(control[:60], batches[:60]), (control[60:], batches[60:])])
    assert controls.directions.shape == (G, 2)
    known = Controls.from_blocks([(control[:100], batches[:100])])
    assert known.directions.shape == (G, 1)
    b = controls.batches["b"].mean
    assert np.linalg.norm(controls.delta(b)) < 1e-9
    effect = np.random.default_rng(4).normal(size=G)
    got = controls.delta(b + effect)
    expected = effect - controls.directions @ (controls.directions.T @ effect)
    np.testing.assert_allclose(got, expected, atol=1e-9)
    mixed = controls.matched(["a", "b", "b", "b"])
    np.testing.assert_allclose(mixed.mean, 0.25 * controls.batches["a"].mean + 0.75 * b)
    expected = 0.25**2 * controls.batches["a"].noise + 0.75**2 * controls.batches["b"].noise
    assert mixed.noise == pytest.approx(expected)
    np.testing.assert_allclose(controls.matched(["few"]).mean, control.mean(axis=0))
    half = Controls.from_blocks([(control[40:60], batches[40:60])], controls.known)
    assert half.known == {"a", "b"}
    assert half.directions.shape == (G, 1)
    assert Controls.from_blocks([(control[45:55], batches[45:55])]).known == set()
    one = Controls.from_blocks([(control, np.full(103, "a"))])
    np.testing.assert_allclose(one.delta(b), b - control.mean(axis=0))


def test_perfect_opposite_constant_and_silent(world: dict) -> None:
    real, base = world["real"], world["control"].mean(axis=0)
    perfect = scored(world, real)
    assert (
        perfect[["pearson_delta", "pds_cosine", "de_overlap", "direction_fidelity"]] > 1 - 1e-9
    ).all(axis=None)
    opposite = scored(world, [2 * base - x for x in real])
    assert (opposite["pearson_delta"] < -1 + 1e-9).all()
    assert (opposite["pds_cosine"] < 0.5).any()
    assert (opposite["direction_fidelity"] == 0).all()
    constant = scored(world, [cells(60, world["shifts"][0], 77)] * 5)
    assert constant["pds_cosine"].mean() == pytest.approx(0.5)
    np.testing.assert_allclose(constant["variety"] / constant["variety_real"], 0, atol=0.02)
    silent = scored(world, [np.tile(base, (60, 1))] * 5)
    assert (silent["pearson_delta"] == 0).all()
    assert (silent["pds_cosine"] == 0.5).all()
    assert all(parse_note(n)["pearson_delta"] == SCORED_ZERO for n in silent["note"])
    np.testing.assert_allclose(silent["mse_unbiased"], silent["mse_control"], rtol=0.05)


def test_a_shuffled_prediction_is_at_chance(world: dict) -> None:
    values = []
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(5)
        values.append(scored(world, [world["real"][i] for i in order])["pds_cosine"].mean())
    assert np.mean(values) == pytest.approx(0.5, abs=0.08)


def test_errors_are_those_of_the_means_not_of_the_sample() -> None:
    """Over many draws: the true mean errs by 0, another sample by its own noise, 0.25 / 10."""
    errors = []
    for seed in range(60):
        real = [cells(10, 0.0, 1000 + seed)]
        world = {"real": real, "control": cells(30, 0.3, 2000 + seed)}
        truth = scored(world, [exactly(np.full(G, 6.0), seed)]).iloc[0]
        sample = scored(world, [cells(10, 0.0, 3000 + seed)]).iloc[0]
        errors.append((truth["mse_unbiased"], sample["mse_unbiased"], truth["mse_control"]))
    mean, error = np.mean(errors, axis=0), np.std(errors, axis=0) / np.sqrt(60)
    assert (np.abs(mean - [0, 0.025, 0.09]) < 4 * error).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.5])
def test_the_true_ratio_of_different_exact_means_is_found(share: float) -> None:
    """Predictions that differ between labels and whose means scatter less than their cells do."""
    ratios = []
    for seed in range(12):
        rng = np.random.default_rng([7, seed])
        truth = 6.0 + 0.15 * rng.normal(size=(20, G))
        control = cells(1000, 0.0, 500 + seed)
        off = rng.normal(size=(20, G))
        length = np.linalg.norm(truth - 6.0, axis=1) / np.linalg.norm(off, axis=1)
        means = truth + np.sqrt(share) * length[:, None] * off
        world = {
            "real": [cells(10, row - 6.0, 100 * seed + i) for i, row in enumerate(truth)],
            "control": control,
        }
        got = scored(world, [exactly(row, i) for i, row in enumerate(means)])
        ratios.append(got["mse_unbiased"].sum() / got["mse_control"].sum())
    assert np.mean(ratios) == pytest.approx(share, abs=4 * np.std(ratios) / np.sqrt(12))
    assert np.std(ratios) / np.sqrt(12) < 0.05


def test_noise_that_a_prediction_does_not_have_is_not_taken_off() -> None:
    """The same cells under every label: their scatter must not lower the error."""
    shifts = 0.1 * np.random.default_rng(9).normal(size=(5, G))
    world = {
        "real": [cells(20, shift, i) for i, shift in enumerate(shifts)],
        "control": cells(200, 0.0, 99),
    }
    narrow = np.tile(world["control"].mean(axis=0), (20, 1))
    noise = np.random.default_rng(1).normal(0, 3, (20, G))
    wide = narrow + noise - noise.mean(axis=0)
    a, b = (scored(world, [x] * 5)["mse_unbiased"] for x in (narrow, wide))
    np.testing.assert_allclose(a, b, atol=1e-9)


def _squared_energy(x: np.ndarray, y: np.ndarray) -> float:
    """Energy distance (U) of squared Euclidean distances, as scPerturb takes it."""
    within = [pdist(one, "sqeuclidean").mean() for one in (x, y)]
    return float(2 * cdist(x, y, "sqeuclidean").mean() - sum(within))


def test_the_error_is_half_the_squared_energy_distance_and_the_predictions_noise(world) -> None:
    predicted = [x + 0.1 for x in world["real"]]
    got = scored(world, predicted)["mse_unbiased"]
    expected = [
        (_squared_energy(q, r) / 2 + Group.from_cells(q).noise) / G
        for q, r in zip(predicted, world["real"], strict=True)
    ]
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_the_perturbed_reference_takes_what_all_share(world: dict) -> None:
    common = np.full(G, 1.0) + np.arange(G) / 10
    for i, x in enumerate(world["real"]):
        world["real"][i] = x + common
    generic = [cells(60, common, 50 + i) for i in range(5)]
    got = scored(world, generic, reference=common)
    assert got["pearson_delta"].min() > 0.5
    assert abs(got["pearson_delta_perturbed"].mean()) < 0.2


def test_no_real_effect_is_undefined_for_everybody(world: dict) -> None:
    world["real"][0] = np.tile(world["control"].mean(axis=0), (60, 1))
    got = scored(world, [cells(60, 1.0, i) for i in range(5)])
    assert np.isnan(got["pearson_delta"][0])
    assert "no real effect" in parse_note(got["note"][0])["pearson_delta"]
    assert got["pearson_delta"][1:].notna().all()
    assert np.isnan(got["direction_fidelity"][0])


def test_ranks_are_mid_ranks_and_one_condition_has_none() -> None:
    real = np.eye(4)
    np.testing.assert_array_equal(discrimination(real, real), 1)
    np.testing.assert_array_equal(discrimination(np.zeros((4, 4)), real), 0.5)
    tied = np.array([[1.0, 1, 0, 0]] * 4)
    np.testing.assert_allclose(discrimination(tied, real), [1 - 0.5 / 3] * 2 + [1 - 2.5 / 3] * 2)
    assert np.isnan(discrimination(real[:1], real[:1])).all()


def test_targets_of_all_labels_are_left_out_together() -> None:
    named = target_genes(["g1", "g2+ctrl", "g4_g5"], [f"g{i}" for i in range(7)])
    assert np.flatnonzero(named).tolist() == [1, 2, 4, 5]


def test_genes_left_out_do_not_count(world: dict) -> None:
    excluded = np.zeros(G, dtype=bool)
    excluded[:10] = True
    spiked = []
    for x in world["real"]:
        y = x.copy()
        y[:, :10] += 50 * np.random.default_rng(0).normal(size=10)
        spiked.append(y)
    assert (scored(world, spiked, excluded=excluded)["pearson_delta"] > 1 - 1e-9).all()
    assert (scored(world, spiked)["pearson_delta"] < 0.9).all()


def test_notes_can_be_taken_apart() -> None:
    reasons = {"pearson_delta": SCORED_ZERO, "reference": "a: b; c"}
    assert parse_note(write_note(reasons)) == {**reasons, "reference": "a: b, c"}
    assert parse_note(float("nan")) == {}
