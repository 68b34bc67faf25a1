"""Drugs that get the same answer are found out, right answers are not."""

from __future__ import annotations

import numpy as np
import pytest

from statetx.evaluation.scores.drug_similarity import drug_correlations, real_drug_correlations

G = 400


def planted(alike: float, n_drugs: int = 6, doses: int = 3) -> tuple[np.ndarray, list[str]]:
    """Deltas whose drugs correlate by `alike` on average; doses of one drug by 1."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=G)
    own = [
        np.sqrt(alike) * shared + np.sqrt(1 - alike) * rng.normal(size=G) for _ in range(n_drugs)
    ]
    deltas = np.array([(1 + dose) * drug for drug in own for dose in range(doses)])
    return deltas, [f"D{i}" for i in range(n_drugs) for _ in range(doses)]


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_equal_to_all_pairs_of_different_drugs(alike: float) -> None:
    deltas, drugs = planted(alike)
    pairs = np.corrcoef(deltas)
    expected = [
        np.mean([pairs[i, j] for j in range(len(drugs)) if drugs[j] != drugs[i]])
        for i in range(len(drugs))
    ]
    found = drug_correlations(deltas, drugs)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.mean() == pytest.approx(alike, abs=0.1)


def test_noise_of_real_cells_is_no_difference_between_drugs() -> None:
    """A right prediction without noise must not seem to make drugs alike."""
    deltas, drugs = planted(0.5)
    rng = np.random.default_rng(1)
    size = 2.0
    noisy = deltas + rng.normal(0, size, deltas.shape)
    plain = drug_correlations(noisy, drugs).mean()
    found = real_drug_correlations(noisy, drugs, [G * size**2] * len(drugs)).mean()
    assert plain < 0.3
    assert found == pytest.approx(drug_correlations(deltas, drugs).mean(), abs=0.15)


def test_what_is_undefined_is_nan() -> None:
    deltas, drugs = planted(0.5)
    deltas[4] = 0.0
    found = drug_correlations(deltas, drugs)
    assert np.isnan(found[4])
    assert np.isfinite(np.delete(found, 4)).all()
    np.testing.assert_allclose(  # it is no partner of others either
        np.delete(found, 4),
        drug_correlations(np.delete(deltas, 4, 0), [d for i, d in enumerate(drugs) if i != 4]),
    )
    assert np.isnan(drug_correlations(deltas, ["one"] * len(drugs))).all()
    assert drug_correlations(np.zeros((0, G)), []).shape == (0,)
    noise = np.random.default_rng(0).normal(size=deltas.shape)
    assert np.isnan(real_drug_correlations(noise, drugs, [float(G)] * len(drugs))).all()


def test_one_answer_for_all_is_one() -> None:
    _, drugs = planted(0.0)
    answer = np.tile(np.random.default_rng(3).normal(size=G), (len(drugs), 1))
    np.testing.assert_allclose(drug_correlations(answer, drugs), 1)
