"""References on a line with planted effects: what each must score, and that no half knows the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from line_samples import CONTROL, LINE, Line, Store, install

from statetx.config import Evaluation
from statetx.evaluation.held_out.held_out_line import HeldOutLine
from statetx.evaluation.held_out.reference import reference
from statetx.evaluation.scores.columns import COLUMNS, DROPPED, SCORED_ZERO, parse_note

G = 120
SETTINGS = Evaluation(max_cells=200)
NOTHING = np.zeros(G)
REFERENCES = ("floor", "mean_response", "interpolated_duplicate", "ceiling")
TESTED = [f"D{i:02d}" for i in range(12)]


def effects(shared: float, own: float, n_own: int = 8) -> dict[str, np.ndarray]:
    """48 drugs: what all of them do, and what each does to `n_own` genes of its own."""
    rng = np.random.default_rng(2)
    common = shared * rng.normal(size=G)
    found = {}
    for i in range(48):
        found[f"D{i:02d}"] = common.copy()
        genes = rng.choice(G, n_own, replace=False)
        found[f"D{i:02d}"][genes] += own * rng.choice([-1, 1], n_own)
    return found


def ends(
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    shifts: dict[str, np.ndarray],
    seed: int = 0,
    n_cells: int = 40,
    trained: bool = True,
) -> dict[str, pd.DataFrame]:
    parts = {CONTROL: [("a", 200, NOTHING)]}
    parts |= {
        name: [("a", n_cells, shift)] for name, shift in shifts.items() if trained or name in TESTED
    }
    plan = install(monkeypatch, Line(parts, {"a": NOTHING}, seed), TESTED, home)
    reference("store", plan, LINE, SETTINGS, home / "out")
    return {name: pd.read_csv(home / "out" / f"{name}.csv") for name in REFERENCES}


def test_the_mean_response_knows_what_all_drugs_share_and_nothing_else(monkeypatch, tmp_path):
    found = ends(monkeypatch, tmp_path, effects(shared=0.4, own=0.8))
    mean = found["mean_response"]
    assert list(mean.columns) == list(found["floor"].columns)
    assert set(COLUMNS) < set(mean.columns)
    assert mean["pds_cosine"].mean() == pytest.approx(0.5)  # exactly, for any constant
    assert (mean["pearson_delta_perturbed"] == 0).all()
    assert all(parse_note(note)["pearson_delta_perturbed"] == SCORED_ZERO for note in mean["note"])
    assert (mean["variety"].abs() < 1e-9).all()
    assert found["floor"]["pearson_delta"].mean() < 0.15
    assert 0.6 < mean["pearson_delta"].mean() < found["ceiling"]["pearson_delta"].mean()
    own = mean["mse_unbiased"].sum() / mean["mse_control"].sum()
    # 8 of 120 genes move by 0.8, all by 0.4 in common: 0.043 of a mean square of 0.20.
    assert own == pytest.approx(0.043 / 0.20, abs=0.08)
    assert (mean["energy"] < found["floor"]["energy"]).all()
    assert mean["spread_ratio"].mean() == pytest.approx(1, abs=0.15)


def test_without_effects_of_their_own_the_mean_response_is_as_good_as_a_replicate(
    monkeypatch, tmp_path
):
    found = ends(monkeypatch, tmp_path, effects(shared=0.5, own=0.0))
    means = {name: table[list(COLUMNS)].mean() for name, table in found.items()}
    assert means["mean_response"]["pearson_delta"] > means["ceiling"]["pearson_delta"]
    assert abs(means["mean_response"]["energy"]) < 0.05 * means["floor"]["energy"]
    # Nothing is left for the duplicate to know: it says what the mean response says.
    mixed = means["interpolated_duplicate"]
    assert mixed["pds_cosine"] == pytest.approx(0.5, abs=0.15)
    assert abs(mixed["pearson_delta_perturbed"]) < 0.1


def test_the_interpolated_duplicate_lacks_the_noise_of_a_replicate(monkeypatch, tmp_path):
    found = ends(monkeypatch, tmp_path, effects(shared=0.2, own=1.0), n_cells=20)
    means = {name: table[list(COLUMNS)].mean() for name, table in found.items()}
    mixed, ceiling = means["interpolated_duplicate"], means["ceiling"]
    for column in ("pearson_delta", "pearson_delta_perturbed"):
        assert mixed[column] > ceiling[column] + 0.03, column
    assert mixed["pds_cosine"] > 0.95
    assert mixed["lfc_nmae"] < ceiling["lfc_nmae"]
    assert mixed["energy"] < 0.3 * means["mean_response"]["energy"]
    assert mixed["mse_unbiased"] < 0.5 * means["mean_response"]["mse_unbiased"]
    assert mixed["spread_ratio"] == pytest.approx(1, abs=0.15)


def test_the_duplicate_knows_nothing_of_the_half_to_be_predicted(monkeypatch, tmp_path) -> None:
    """Shifted as a whole, that half keeps its spread; so must the half that predicts it."""
    parts = {CONTROL: [("a", 200, NOTHING)]}
    parts |= {name: [("a", 40, shift)] for name, shift in effects(0.2, 0.5).items()}
    line = Line(parts, {"a": NOTHING})
    plan = install(monkeypatch, line, TESTED, tmp_path)
    reference("store", plan, LINE, SETTINGS, tmp_path / "before")
    scene = HeldOutLine(Store(line), line, TESTED, SETTINGS.max_cells, SETTINGS.seed)
    truth, _ = scene.halves(scene.rows("D00"), "D00")
    line.cells[truth] += np.where(np.arange(G) % 2, 1.0, -1.0).astype(np.float32)
    reference("store", plan, LINE, SETTINGS, tmp_path / "after")
    before, after = (
        pd.read_csv(tmp_path / when / "interpolated_duplicate.csv", index_col="perturbation").loc[
            "D00"
        ]
        for when in ("before", "after")
    )
    assert after["spread_ratio"] == pytest.approx(before["spread_ratio"], rel=1e-5)
    assert after["pearson_delta"] < before["pearson_delta"] - 0.2


def test_without_training_there_is_no_mean_response_and_the_reason_is_said(monkeypatch, tmp_path):
    found = ends(monkeypatch, tmp_path, effects(0.3, 0.8), trained=False)
    for name in ("mean_response", "interpolated_duplicate"):
        assert found[name]["perturbation"].tolist() == TESTED
        assert found[name][list(COLUMNS)].isna().all(axis=None)
        assert all("no training" in parse_note(note)[DROPPED] for note in found[name]["note"])
    assert found["ceiling"]["pearson_delta"].notna().all()


def test_a_plate_is_no_part_of_the_mean_response(monkeypatch, tmp_path) -> None:
    """Every drug on one of three shifted plates: the duplicate knows the plate, the mean does not."""
    rng = np.random.default_rng(4)
    plates = {name: 0.6 * rng.normal(size=G) for name in "abc"}
    shifts = effects(shared=0.3, own=0.8)
    parts = {CONTROL: [(plate, 80, NOTHING) for plate in plates]}
    parts |= {name: [("abc"[i % 3], 40, shift)] for i, (name, shift) in enumerate(shifts.items())}
    plan = install(monkeypatch, Line(parts, plates), TESTED, tmp_path)
    reference("store", plan, LINE, SETTINGS, tmp_path / "out")
    found = {name: pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in REFERENCES}
    assert found["mean_response"]["pds_cosine"].mean() == pytest.approx(0.5)
    assert (found["mean_response"]["pearson_delta_perturbed"] == 0).all()
    assert found["mean_response"]["pearson_delta"].mean() > 0.4
    mixed, ceiling = (found[name] for name in ("interpolated_duplicate", "ceiling"))
    assert mixed["pds_cosine"].mean() > 0.95
    assert mixed["pearson_delta"].mean() > ceiling["pearson_delta"].mean() - 0.02
    assert mixed["mse_unbiased"].mean() < 0.3 * mixed["mse_control"].mean()
