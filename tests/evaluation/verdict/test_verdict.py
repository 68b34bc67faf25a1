"""Verdicts on scores whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from verdict_samples import Experiment, call

from statetx.core.errors import ResultsError
from statetx.evaluation.scores.columns import COLUMNS, DROPPED, FALLBACK, SCORED_ZERO, write_note
from statetx.evaluation.verdict.metrics import METRICS
from statetx.evaluation.verdict.verdict import RefScores, RunScores


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    one = Experiment(tmp_path)
    one.add("no_change", "no_change", 0.0)
    one.add("context_mean", "context_mean", 0.4)
    return one


def test_better_same_worse_in_both_directions(experiment: Experiment) -> None:
    experiment.add("good", "pertsets", 0.6)
    experiment.add("twin", "pertsets", 0.4)
    experiment.add("bad", "pertsets", 0.2)
    document = experiment.judge()
    for metric in METRICS:
        if metric.better == "neither":
            continue
        for model, expected in (("good", "BETTER"), ("twin", "SAME"), ("bad", "WORSE")):
            got = call(document, model, metric.name)
            assert got["call"] == expected, (model, metric.name)
            assert got["against"] == "context_mean"
            assert got["n"] == 30
        good = call(document, "good", metric.name)
        assert good["scaled"] == pytest.approx(0.4, abs=0.03)
        assert good["wins"] == 1
        assert good["p"] == 2 / 2**5  # five drugs, in two lines
        assert call(document, "bad", metric.name)["scaled"] < 0
        sign = 1 if metric.better == "higher" else -1
        assert sign * good["difference"] == pytest.approx(0.2, abs=0.02)
        assert good["low"] <= good["difference"] <= good["high"]
    twin = call(document, "twin")
    assert (twin["difference"], twin["low"], twin["high"], twin["p"]) == (0, 0, 0, 1)
    assert twin["wins"] == 0.5


def test_the_document_and_the_leaderboard(experiment: Experiment) -> None:
    experiment.add("good", "pertsets", 0.6)
    experiment.add("good", "pertsets", 0.5, seed=1)
    document = experiment.judge()
    assert document["cohort"]["n_conditions"] == 30
    assert (document["cohort"]["n_lines"], document["cohort"]["n_drugs"]) == (2, 5)
    assert document["interval"]["unit"] == "drugs"
    names = [(row["name"], row["role"], row["seed"]) for row in document["rows"]]
    assert names == [
        ("floor", "floor", None),
        ("no_change", "baseline", 0),
        ("context_mean", "baseline", 0),
        ("good", "model", 0),
        ("good", "model", 1),
        ("good", "model", None),
        ("ceiling", "ceiling", None),
    ]
    assert all(m["has_range"] for m in document["metrics"] if m["better"] != "neither")
    assert {m["name"] for m in document["metrics"] if m["headline"]} == {
        m.name for m in METRICS if m.headline
    }
    assert len(document["per_line"]) == 7 * 2
    assert document["provenance"]["code"] == "abc"
    board = pd.read_csv(experiment.root / "out" / "leaderboard.csv")
    assert len(board) == 7 * len(METRICS)
    row = board[(board["name"] == "good") & (board["metric"] == "energy") & (board["seed"] == 0)]
    assert row["call"].item() == "BETTER"
    assert row["difference_low"].item() < row["difference"].item() < 0


def test_the_best_baseline_is_chosen_per_metric(experiment: Experiment) -> None:
    def shuffled(frame: pd.DataFrame) -> None:
        frame["pds_cosine"] = 0.95

    experiment.add("perturbation_mean", "perturbation_mean", 0.1, change=shuffled)
    experiment.add("good", "pertsets", 0.6)
    document = experiment.judge()
    assert call(document, "good")["against"] == "context_mean"
    pds = call(document, "good", "pds_cosine")
    assert (pds["against"], pds["call"], pds["scaled"]) == ("perturbation_mean", "WORSE", None)
    assert "ceiling is not clearly better" in pds["scaled_reason"]


def test_one_drug_draws_lines_and_few_lines_draw_nothing(tmp_path: Path) -> None:
    for lines, unit, expected in ((6, "cell lines", "BETTER"), (3, None, "UNDECIDED")):
        one = Experiment(tmp_path / str(lines), lines=lines, drugs=1, doses=1)
        one.add("no_change", "no_change", 0.0)
        one.add("good", "pertsets", 0.6)
        document = one.judge()
        got = call(document, "good")
        assert document["interval"]["unit"] == unit
        assert document["interval"]["reason"]
        assert got["call"] == expected
        assert (got["low"] is None) == (unit is None)
        assert got["scaled"] == pytest.approx(0.66, abs=0.05)
        if unit is None:
            assert "an interval needs" in got["reason"]
            assert got["p"] is None


def test_what_real_cells_leave_undefined_goes_for_everybody(experiment: Experiment) -> None:
    def alone(frame: pd.DataFrame) -> None:
        frame["pds_cosine"] = np.nan
        frame["note"] = "pds_cosine: one condition in this line: nothing to tell apart"

    def dropped(frame: pd.DataFrame) -> None:
        alone(frame)
        frame.loc[0, list(COLUMNS)] = np.nan
        frame.loc[0, "note"] = write_note({DROPPED: "fewer than 2 real cells"})
        frame.loc[1, "direction_fidelity"] = np.nan

    for run in experiment.runs:
        frame = pd.read_csv(run.path)
        dropped(frame)
        frame.to_csv(run.path, index=False)
    experiment.add("good", "pertsets", 0.6, change=dropped)
    document = experiment.judge()
    assert document["cohort"]["n_conditions"] == 28
    assert [d["perturbation"] for d in document["cohort"]["dropped"]] == ["D0_0", "D0_0"]
    pds = next(m for m in document["metrics"] if m["name"] == "pds_cosine")
    assert not pds["has_range"]
    assert not pds["headline"]
    assert "nothing to tell apart" in pds["reason"]
    got = call(document, "good", "pds_cosine")
    assert (got["n"], got["call"], got["difference"]) == (0, "UNDECIDED", None)
    assert call(document, "good", "direction_fidelity")["n"] == 26
    assert {u["metric"]: u["n"] for u in document["cohort"]["undefined"]} == {
        "pds_cosine": 28,
        "direction_fidelity": 2,
    }


def changed(experiment: Experiment, change: Callable[[pd.DataFrame], None], ends=()) -> None:
    """Change scores that are already written: of all runs, or of floor and ceiling."""
    paths = [ref.directory / f"{end}.csv" for ref in experiment.references for end in ends]
    for path in paths or [run.path for run in experiment.runs]:
        frame = pd.read_csv(path)
        change(frame)
        frame.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("lines", "unit", "expected"), [(2, None, "UNDECIDED"), (6, "cell lines", "BETTER")]
)
def test_a_metric_is_drawn_from_its_own_conditions(tmp_path, lines, unit, expected) -> None:
    """direction_fidelity is defined for two drugs of five: too few to draw drugs from."""

    def rare(frame: pd.DataFrame) -> None:
        frame.loc[~frame["drug"].isin(["D0", "D1"]), "direction_fidelity"] = np.nan

    one = Experiment(tmp_path, lines=lines)
    one.add("context_mean", "context_mean", 0.4)
    one.add("good", "pertsets", 0.6)
    changed(one, rare)
    document = one.judge()
    assert document["interval"]["unit"] == "drugs"
    got = call(document, "good", "direction_fidelity")
    assert (got["unit"], got["call"], got["n"]) == (unit, expected, 6 * lines)
    assert (got["low"] is None) == (got["p"] is None) == (unit is None)
    if unit is None:
        assert "2 drugs in 2 cell lines: an interval needs" in got["reason"]
    assert call(document, "good")["call"] == "BETTER"


def test_the_ceiling_is_compared_where_it_is_defined(experiment: Experiment) -> None:
    """D0 is hard and has too few cells for a ceiling: it must not raise the ceiling's share."""
    experiment.add("good", "pertsets", 0.6)

    def hard(frame: pd.DataFrame) -> None:
        frame.loc[frame["drug"] == "D0", "pearson_delta"] -= 5.0

    before = call(experiment.judge(), "good")["scaled"]
    changed(experiment, hard)
    changed(
        experiment,
        lambda frame: frame.__setitem__(
            "pearson_delta", frame["pearson_delta"].where(frame["drug"] != "D0")
        ),
        ("ceiling",),
    )
    document = experiment.judge()
    got = call(document, "good")
    assert got["n"] == 30
    assert got["scaled"] == pytest.approx(before, abs=0.02)
    assert got["difference"] == pytest.approx(0.2, abs=0.02)
    # The floor is easy where the ceiling is not defined: both ends look at the same conditions.
    changed(
        experiment,
        lambda frame: frame.__setitem__(
            "pearson_delta", frame["pearson_delta"] + 9.0 * (frame["drug"] == "D0")
        ),
        ("floor",),
    )
    metric = next(m for m in experiment.judge()["metrics"] if m["name"] == "pearson_delta")
    assert metric["has_range"]


def test_flags(experiment: Experiment) -> None:
    def odd(frame: pd.DataFrame) -> None:
        frame["variety"], frame["spread_ratio"] = 0.01, 0.001
        frame.loc[0, "pearson_delta"] = 0.0
        frame.loc[0, "note"] = write_note(
            {"pearson_delta": SCORED_ZERO, FALLBACK: "fell back for 100% of cells"}
        )

    experiment.add("odd", "pertsets", 0.6, change=odd)
    document = experiment.judge()
    messages = [flag["message"] for flag in document["flags"] if flag["name"] == "odd"]
    assert len(messages) == 4
    assert any("2 of 30 conditions: fell back" in message for message in messages)
    row = next(row for row in document["rows"] if row["name"] == "odd")
    assert row["metrics"]["pearson_delta"]["undefined"] == 2
    assert not any(flag["name"] == "context_mean" for flag in document["flags"])


def test_no_room_between_floor_and_ceiling(experiment: Experiment) -> None:
    for reference in experiment.references:
        floor = pd.read_csv(reference.directory / "floor.csv")
        floor.to_csv(reference.directory / "ceiling.csv", index=False)
    experiment.add("good", "pertsets", 0.6)
    document = experiment.judge()
    assert not any(m["has_range"] or m["headline"] for m in document["metrics"])
    assert call(document, "good")["scaled"] is None


def test_folds_are_pooled_and_a_condition_counts_once(experiment: Experiment) -> None:
    experiment.add("good", "pertsets", 0.6)
    before = experiment.judge()
    again = [RunScores("s2", r.model, r.kind, r.seed, r.line, r.path) for r in experiment.runs]
    experiment.runs += again
    experiment.references += [RefScores("s2", r.line, r.directory) for r in experiment.references]
    after = experiment.judge()
    assert after["splits"] == ["s", "s2"]
    assert after["cohort"]["n_conditions"] == 30
    for a, b in zip(before["comparisons"], after["comparisons"], strict=True):
        assert a["difference"] == pytest.approx(b["difference"])
        assert a["call"] == b["call"]


def test_without_baselines_nothing_is_called(tmp_path: Path) -> None:
    one = Experiment(tmp_path)
    one.add("good", "pertsets", 0.6)
    got = call(one.judge(), "good")
    assert (got["against"], got["call"]) == (None, "UNDECIDED")
    assert "no baseline" in got["reason"]


def test_bad_scores_are_named(experiment: Experiment) -> None:
    experiment.add("good", "pertsets", 0.6)
    path = experiment.runs[-1].path
    frame = pd.read_csv(path)
    for change, message in (
        (frame.iloc[1:], "not scored on the same conditions"),
        (frame.drop(columns="energy"), "no column 'energy'"),
        (frame.assign(line="L9"), "not scores of"),
    ):
        change.to_csv(path, index=False)
        with pytest.raises(ResultsError, match=message):
            experiment.judge()
    path.unlink()
    with pytest.raises(ResultsError, match="cannot read the scores") as caught:
        experiment.judge()
    assert str(path) in caught.value.where
    assert not (experiment.root / "out").exists()


def test_the_mean_of_seeds_is_as_uncertain_as_seeds_differ(experiment: Experiment) -> None:
    """Three seeds of one skill, and three whose skills differ: equal means, a wider interval."""
    for seed in range(3):
        experiment.add("steady", "pertsets", 0.5, seed=seed)
        experiment.add("moody", "pertsets", 0.3 + 0.2 * seed, seed=seed)
    document = experiment.judge()
    found = {
        (c["model"], c["seed"]): c for c in document["comparisons"] if c["metric"] == "pds_cosine"
    }
    steady, moody = found["steady", None], found["moody", None]
    each = [found["moody", seed]["difference"] for seed in range(3)]
    assert moody["difference"] == pytest.approx(np.mean(each))
    assert steady["difference"] == pytest.approx(moody["difference"], abs=0.02)
    assert moody["high"] - moody["low"] > 2 * (steady["high"] - steady["low"])


def test_a_call_allows_for_the_number_of_models(experiment: Experiment, tmp_path: Path) -> None:
    """One gap beyond 0 at 95 %, alone and among eight models."""

    def slightly(frame: pd.DataFrame) -> None:
        rng = np.random.default_rng(4)
        shift = dict(zip(frame["drug"].unique(), rng.normal(0.05, 0.026, 5), strict=True))
        frame["pds_cosine"] += frame["drug"].map(shift)

    experiment.add("slightly", "pertsets", 0.4, change=slightly)
    alone = call(experiment.judge(), "slightly", "pds_cosine")
    for i in range(7):
        experiment.add(f"other{i}", "pertsets", 0.0)
    document = experiment.judge()
    among = call(document, "slightly", "pds_cosine")
    assert document["interval"]["call_level"] == pytest.approx(1 - 0.05 / 8)
    assert (alone["low"], alone["high"]) == (among["low"], among["high"])
    assert (alone["call"], among["call"]) == ("BETTER", "SAME")
    assert "not for the best of all models" in among["reason"]


def test_strata_hold_every_condition_once_and_see_where_a_model_is_good(
    experiment: Experiment,
) -> None:
    def strong(frame: pd.DataFrame) -> None:
        frame["mse_control"] = frame["dose"] + 1.0

    def good_where_strong(frame: pd.DataFrame) -> None:
        strong(frame)
        frame.loc[frame["dose"] == 2, "pds_cosine"] += 0.5

    for run in experiment.runs:
        frame = pd.read_csv(run.path)
        strong(frame)
        frame.to_csv(run.path, index=False)
    experiment.add("m", "pertsets", 0.4, change=good_where_strong)
    rows = [r for r in experiment.judge()["strata"] if r["metric"] == "pds_cosine"]
    assert [row["stratum"] for row in rows] == ["weak", "medium", "strong"]
    assert sum(row["n"] for row in rows) == 30
    assert rows[2]["low"] > 0.3
    assert abs(rows[0]["difference"]) < 0.1
