"""The nearest-drug baseline: planted groups of drugs, a plain computation, fallbacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from statetx.models.baselines.deltas import Statistics
from statetx.models.kinds import nearest_drug
from statetx.shared.labels import Reading

GENES = 40
LINES = ["A", "B", "C", "D"]


def _fitted(deltas: dict[tuple[str, str], np.ndarray], **settings: Any) -> nearest_drug.NearestDrug:
    conditions = sorted(deltas)
    values = np.stack([deltas[pair] for pair in conditions])
    means = np.zeros((len(LINES), GENES))
    architecture, arrays = nearest_drug.fit(
        Statistics(LINES, means, conditions, values), **settings
    )
    meta = {"architecture": architecture, "n_genes": GENES, "control": "ctrl"}
    return nearest_drug.restore(meta, arrays)


def _planted(seed: int = 0) -> dict[tuple[str, str], np.ndarray]:
    """Three groups of four drugs: the drugs of a group act alike, but differently in each line."""
    rng = np.random.default_rng(seed)
    group = {(line, g): rng.standard_normal(GENES) for line in LINES for g in range(3)}
    return {(line, f"d{i:02d}_1"): group[line, i % 3] for line in LINES for i in range(12)}


def test_planted_groups_are_recovered_in_lines_where_the_drug_was_not_trained() -> None:
    truth = _planted()
    held_out = [("A", "d00_1"), ("A", "d01_1"), ("B", "d05_1"), ("D", "d00_1")]
    model = _fitted({pair: truth[pair] for pair in truth if pair not in held_out}, k=2)
    for pair in held_out:
        delta, fallback = model.delta(*pair)
        np.testing.assert_allclose(delta, truth[pair], atol=1e-5)
        assert not fallback


@pytest.mark.parametrize("k", [1, 3, 50])
def test_equals_a_plain_computation(k: int) -> None:
    rng = np.random.default_rng(1)
    every = {pair: rng.standard_normal(GENES) + 0.3 for pair in _planted()}
    known = {pair: value for pair, value in every.items() if rng.random() < 0.7}
    labels = sorted({label for _, label in known})
    model = _fitted(known, k=k)
    checked = 0
    for line, label in sorted(set(every) - set(known)):
        scored = []
        for other in labels:
            shared = [one for one in LINES if (one, label) in known and (one, other) in known]
            if (line, other) in known and shared:
                own, theirs = (
                    np.concatenate([known[one, name] for one in shared]) for name in (label, other)
                )
                cosine = own @ theirs / np.linalg.norm(own) / np.linalg.norm(theirs)
                scored.append((cosine, other))
        nearest = [(cosine, other) for cosine, other in sorted(scored, reverse=True)[:k]
                   if cosine > 0]  # fmt: skip
        assert nearest
        expected = sum(cosine * known[line, other] for cosine, other in nearest)
        expected = expected / sum(cosine for cosine, _ in nearest)
        delta, fallback = model.delta(line, label)
        np.testing.assert_allclose(delta, expected, atol=1e-5)
        assert not fallback
        checked += 1
    assert checked > 5


def test_without_a_neighbour_it_is_perturbation_mean_flagged() -> None:
    truth = _planted()
    axis = np.eye(GENES)
    known = {pair: truth[pair] for pair in truth if pair[0] != "D" and pair != ("A", "d00_1")}
    known[("A", "alone_1")] = axis[0]
    known[("B", "orthogonal_1")] = axis[1]
    known[("C", "null_1")] = np.zeros(GENES)
    mean = np.mean([known["B", "d00_1"], known["C", "d00_1"]], axis=0)
    everything = np.mean(list(known.values()), axis=0)
    of_line = np.mean([value for (line, _), value in known.items() if line == "A"], axis=0)
    model = _fitted(known)
    for line, label, expected in [
        ("D", "d00_1", mean),  # nothing was trained in this line
        ("A", "never_1", of_line),
        ("D", "never_1", everything),
        ("A", "null_1", np.zeros(GENES)),  # no direction, so like nothing
    ]:
        delta, fallback = model.delta(line, label)
        np.testing.assert_allclose(delta, expected, atol=1e-6)
        assert fallback


def test_opposite_effects_are_no_neighbours() -> None:
    axis = np.eye(GENES)
    known = {("A", "x"): axis[0], ("A", "y"): -axis[0], ("A", "z"): axis[0] + axis[1],
             ("B", "y"): axis[2], ("B", "z"): axis[3]}  # fmt: skip
    model = _fitted(known, k=5)
    np.testing.assert_allclose(model.delta("B", "x")[0], axis[3], atol=1e-6)
    del known["B", "z"]
    delta, fallback = _fitted(known, k=5).delta("B", "x")
    np.testing.assert_allclose(delta, axis[0], atol=1e-6)
    assert fallback


def test_the_nearest_trained_dose_stands_for_one_never_trained() -> None:
    rng = np.random.default_rng(2)
    known = {(line, f"d_{dose}"): rng.standard_normal(GENES) for line in "AB" for dose in (0.05, 5)}
    model = _fitted(known, k=1)
    for asked, used in (
        ("d_0.06", "d_0.05"),
        ("d_0.5", "d_5"),
        ("d_90", "d_5"),
        ("d_5000nM", "d_5"),
    ):
        delta, fallback = model.delta("A", asked)
        np.testing.assert_allclose(delta, known["A", used], atol=1e-6)
        assert not fallback
    assert model.delta("A", "e_5")[1]


@pytest.mark.parametrize("kind", ["drug_dose", "plain"])
def test_ids_are_no_doses_where_labels_are_plain(kind: str) -> None:
    """A number that is an id gives no neighbour: `cmpd_002` does not stand in for `cmpd_003`."""
    rng = np.random.default_rng(0)
    truth = {(line, f"cmpd_00{i}"): rng.standard_normal(GENES) for line in LINES for i in (1, 2)}
    conditions = sorted(truth)
    reading = Reading(kind, ("ctrl",))
    values = np.stack([truth[pair] for pair in conditions])
    means = np.zeros((len(LINES), GENES))
    statistics = Statistics(LINES, means, conditions, values, reading)
    architecture, arrays = nearest_drug.fit(statistics, k=1)
    meta = {"architecture": architecture, "n_genes": GENES, "control": "ctrl", **reading.said()}
    model = nearest_drug.restore(meta, arrays)
    assert model.delta("A", "cmpd_003")[1] == (kind == "plain")
