"""cell-eval's clustering agreement, where the extras are installed; else its absence is told."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from cell_eval_fixture import uniform

from statetx.evaluation.cell_eval import clustering
from statetx.evaluation.cell_eval import columns as cell_eval

needs_extras = pytest.mark.skipif(
    clustering.why_absent() is not None, reason="needs igraph and umap-learn (extra clustering)"
)


def profiles(n: int, groups: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Two noisy views of `n` profiles that fall into `groups`, 20 genes each."""
    row, gene = np.meshgrid(np.arange(n), np.arange(20), indexing="ij")
    centre = uniform(row % groups, gene, 3)
    real, pred = (centre + noise * uniform(row, gene, side) for side in (5, 7))
    return real, pred


EXPECTED = {
    (3, 1, 1.0): 1.0,
    (12, 3, 0.5): 1.0,
    (16, 4, 1.0): 0.8065180133192948,
    (60, 5, 1.0): 0.92006232421845,
    (60, 5, 1.5): 0.640132341296375,
    (60, 5, 2.0): 0.21673855204845838,
    (100, 8, 1.5): 0.36870747993325054,
    (200, 8, 2.0): 0.12024887171389961,
    (200, 10, 3.0): 0.014667638101223412,
}
"""What cell-eval 0.8.2 with scanpy 1.11.5, umap-learn 0.5.12 and igraph 1.0.0 gives."""


@needs_extras
@pytest.mark.parametrize("case", EXPECTED, ids=str)
def test_every_value(case: tuple[int, int, float]) -> None:
    assert clustering.clustering_agreement(*profiles(*case)) == pytest.approx(
        EXPECTED[case], abs=1e-9
    )


@needs_extras
def test_it_does_not_move_the_random_numbers_of_others() -> None:
    import random

    random.seed(0)
    expected = random.random()
    random.seed(0)
    clustering.clustering_agreement(*profiles(10, 2, 0.5))
    assert random.random() == expected


def test_two_perturbations_have_no_graph() -> None:
    assert math.isnan(clustering.clustering_agreement(*profiles(2, 1, 1.0)))


def test_absence_is_told(monkeypatch, caplog) -> None:
    monkeypatch.setattr(clustering, "find_spec", lambda name: None if name == "umap" else name)
    assert "clustering_agreement" not in cell_eval.columns("full")
    assert len(cell_eval.columns("full")) == 27
    with caplog.at_level(logging.INFO, logger="statetx"):
        cell_eval.say_absent("full")
        cell_eval.say_absent("de")
        cell_eval.say_absent("full", skip=["clustering_agreement"])
    assert len(caplog.messages) == 1
    assert "it needs umap-learn (pip install 'statetx[clustering]')" in caplog.text
    monkeypatch.setattr(clustering, "find_spec", lambda name: name)
    assert cell_eval.columns("full")[-1] == "clustering_agreement"
    assert len(cell_eval.columns("full")) == 28
