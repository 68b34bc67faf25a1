"""Dynamic range, share explained and alarms, on scores whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from verdict_samples import Experiment

from statetx.core.errors import ResultsError
from statetx.evaluation.scores.columns import IMPOSSIBLE, write_note
from statetx.evaluation.verdict.metrics import METRICS

JUDGED = [metric.name for metric in METRICS if metric.better != "neither"]


def nothing(frame: pd.DataFrame) -> None:
    """Leave a table as it is."""


def fixed(**values: float) -> Callable[[pd.DataFrame], None]:
    """Give columns one value each."""

    def change(frame: pd.DataFrame) -> None:
        for name, value in values.items():
            frame[name] = value

    return change


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    one = Experiment(tmp_path)
    one.end("mean_response", nothing, 0.4)
    one.end("interpolated_duplicate", nothing, 0.95)
    one.add("no_change", "no_change", 0.0)
    one.add("good", "pertsets", 0.6)
    return one


def metric(document: dict, name: str) -> dict:
    return next(one for one in document["metrics"] if one["name"] == name)


def entry(document: dict, name: str, metric_: str, seed: int | None = None) -> dict:
    rows = [row for row in document["rows"] if row["name"] == name]
    if len(rows) > 1:
        rows = [row for row in rows if row["seed"] == seed]
    return rows[0]["metrics"][metric_]


def messages(document: dict, name: str) -> list[str]:
    return [flag["message"] for flag in document["flags"] if flag["name"] == name]


def test_the_references_stand_in_the_verdict(experiment: Experiment) -> None:
    document = experiment.judge()
    assert [(row["name"], row["role"]) for row in document["rows"]] == [
        ("floor", "floor"),
        ("mean_response", "mean_response"),
        ("no_change", "baseline"),
        ("good", "model"),
        ("interpolated_duplicate", "interpolated_duplicate"),
        ("ceiling", "ceiling"),
    ]
    # They are no rivals: the mean response would be the best baseline here.
    assert {item["against"] for item in document["comparisons"]} == {"no_change"}
    board = pd.read_csv(experiment.root / "out" / "leaderboard.csv")
    assert {"mean_response", "interpolated_duplicate"} < set(board["name"])


def test_the_dynamic_range_is_the_way_from_the_mean_response_to_perfect(experiment) -> None:
    document = experiment.judge()
    for name in JUDGED:
        found = metric(document, name)["dynamic_range"]
        low = 0.0 if name == "pearson_delta_perturbed" else 0.4
        assert found["negative"] == ("floor" if low == 0 else "mean_response")
        assert found["ceiling"] == pytest.approx((0.9 - low) / (1 - low), abs=0.05), name
        assert found["interpolated_duplicate"] == pytest.approx((0.95 - low) / (1 - low), abs=0.05)
        assert found["fraction"] == found["interpolated_duplicate"]
        assert (found["n"], found["undefined"]) == (30, 0)
        assert metric(document, name)["has_range"]
    assert metric(document, "variety")["dynamic_range"] is None


@pytest.mark.parametrize("name", ["pearson_delta", "energy"])
def test_a_metric_that_the_mean_response_saturates_is_no_headline(experiment, name: str) -> None:
    """The ceiling is far above the floor: seen from there alone the metric has range."""
    best = {"pearson_delta": 0.9, "energy": 0.1}[name]
    for end in ("mean_response", "interpolated_duplicate", "ceiling"):
        experiment.end(end, fixed(**{name: best}), 0.4 if end == "mean_response" else 0.9)
    document = experiment.judge()
    found = metric(document, name)
    assert found["dynamic_range"]["fraction"] == 0
    assert not found["has_range"]
    assert not found["headline"]
    assert "from the mean response" in found["reason"]
    assert metric(document, "pds_cosine")["headline"]


def test_either_replicate_gives_range(experiment: Experiment) -> None:
    """Half the cells are noisier than a mean over many conditions; interpolated they are not."""
    experiment.end("ceiling", fixed(pearson_delta=0.3))
    found = metric(experiment.judge(), "pearson_delta")
    assert found["dynamic_range"]["ceiling"] < 0
    assert found["dynamic_range"]["fraction"] > 0.8
    assert found["has_range"]


def test_drugs_of_unequal_strength_are_no_doubt_about_the_range(experiment: Experiment) -> None:
    """An interval over five drugs holds 0 here, though the ceiling is better for each of them."""
    size = {f"D{i}": value for i, value in enumerate((0.1, 0.2, 0.3, 0.4, 9.0))}

    def uneven(frame: pd.DataFrame) -> None:
        frame["energy"] = frame["drug"].map(size) * (1 + 0.1 * frame["dose"])

    experiment.end("floor", uneven, 0.0)
    experiment.end("ceiling", fixed(energy=0.0))
    document = experiment.judge()
    assert entry(document, "floor", "energy")["low"] < 0
    assert metric(document, "energy")["has_range"]
    assert entry(document, "ceiling", "energy")["explained"] == pytest.approx(1)

    def noise(frame: pd.DataFrame) -> None:
        frame["energy"] = np.random.default_rng(len(frame)).normal(size=len(frame))

    experiment.end("floor", noise, 0.0)
    assert not metric(experiment.judge(), "energy")["has_range"]


def test_conditions_without_room_and_without_references(experiment: Experiment) -> None:
    def mixed(frame: pd.DataFrame) -> None:
        frame["energy"] = 0.6
        frame.loc[frame["drug"] == "D0", "energy"] = -0.01  # U statistics: perfect already
        frame.loc[frame["drug"] == "D1", "energy"] = np.nan

    experiment.end("mean_response", mixed, 0.4)
    experiment.end("ceiling", fixed(energy=0.3))
    experiment.end("interpolated_duplicate", fixed(energy=0.6))
    found = metric(experiment.judge(), "energy")["dynamic_range"]
    # 18 conditions at a half, 6 at zero.
    assert found["ceiling"] == pytest.approx(0.5, abs=1e-4)
    assert found["interpolated_duplicate"] == 0
    assert (found["n"], found["undefined"]) == (24, 6)


def test_references_without_the_middle_give_a_verdict_without_dynamic_range(tmp_path) -> None:
    one = Experiment(tmp_path)
    one.add("no_change", "no_change", 0.0)
    one.add("good", "pertsets", 0.6)
    document = one.judge()
    assert all(m["dynamic_range"] is None for m in document["metrics"])
    assert metric(document, "pearson_delta")["headline"]
    one.end("mean_response", nothing, 0.4)
    (one.references[1].directory / "mean_response.csv").unlink()
    with pytest.raises(ResultsError, match="cannot read the scores"):
        one.judge()


def test_without_a_mean_response_nothing_is_greyed(experiment: Experiment) -> None:
    for end in ("mean_response", "interpolated_duplicate"):
        experiment.end(end, lambda frame: frame.__setitem__("energy", np.nan))
    found = metric(experiment.judge(), "energy")
    assert found["dynamic_range"]["fraction"] is None
    assert found["dynamic_range"]["undefined"] == 30
    assert found["has_range"]


def test_the_share_explained_runs_from_floor_to_ceiling(experiment: Experiment) -> None:
    document = experiment.judge()
    for name in ("energy", "mmd"):
        assert entry(document, "floor", name)["explained"] == pytest.approx(0, abs=1e-12)
        assert entry(document, "ceiling", name)["explained"] == pytest.approx(1)
        good = entry(document, "good", name)
        assert good["explained"] == pytest.approx(0.6 / 0.9, abs=0.03)
        assert good["explained_low"] <= good["explained"] <= good["explained_high"]
        assert good["explained_undefined"] == 0
        assert entry(document, "interpolated_duplicate", name)["explained"] > 1
    assert "explained" not in entry(document, "good", "pearson_delta")
    board = pd.read_csv(experiment.root / "out" / "leaderboard.csv").set_index(["name", "metric"])
    assert board.loc[("good", "energy"), "explained"] == good["explained"]
    assert np.isnan(board.loc[("good", "pearson_delta"), "explained"])


def test_the_share_explained_is_one_of_sums(experiment: Experiment) -> None:
    """D0 has no effect, floor and ceiling side by side: a mean of ratios would be about 1,000."""

    def weak(value: float) -> Callable[[pd.DataFrame], None]:
        return lambda frame: frame.__setitem__(
            "energy", np.where(frame["drug"] == "D0", value, frame["energy"])
        )

    experiment.end("floor", weak(0.001), 0.0)
    experiment.end("ceiling", weak(0.0))
    experiment.add("odd", "pertsets", 0.6, change=weak(-1.0))
    document = experiment.judge()
    # (4 x 0.6 + 1) / (4 x 0.9)
    assert entry(document, "odd", "energy")["explained"] == pytest.approx(3.4 / 3.6, abs=0.04)


def test_conditions_that_a_reference_leaves_out_are_counted(experiment: Experiment) -> None:
    def small(frame: pd.DataFrame) -> None:
        frame.loc[frame["drug"] == "D0", "energy"] = np.nan

    experiment.end("ceiling", small)
    found = entry(experiment.judge(), "good", "energy")
    assert found["n"] == 30
    assert found["explained_undefined"] == 6
    assert found["explained"] == pytest.approx(0.6 / 0.9, abs=0.04)


def test_nothing_is_explained_where_there_is_nothing_to_explain(experiment: Experiment) -> None:
    experiment.end("ceiling", nothing, 0.0)
    found = entry(experiment.judge(), "good", "energy")
    assert found["explained"] is found["explained_low"] is found["explained_undefined"] is None


def test_the_mean_of_seeds_has_the_mean_share(experiment: Experiment) -> None:
    experiment.add("two", "pertsets", 0.5, seed=0)
    experiment.add("two", "pertsets", 0.7, seed=1)
    document = experiment.judge()
    each = [entry(document, "two", "energy", seed)["explained"] for seed in (0, 1)]
    assert entry(document, "two", "energy")["explained"] == pytest.approx(np.mean(each))


def test_drugs_too_much_alike_are_flagged(experiment: Experiment) -> None:
    real = {"drug_correlation_real": 0.3}
    experiment.add("same", "pertsets", 0.6, change=fixed(drug_correlation=0.8, **real))
    experiment.add("right", "pertsets", 0.6, change=fixed(drug_correlation=0.4, **real))
    experiment.add("all", "pertsets", 0.6, change=fixed(drug_correlation=1.0, variety=0.01, **real))
    unknown = fixed(drug_correlation=1.0, drug_correlation_real=np.nan)
    experiment.add("unknown", "pertsets", 0.6, change=unknown)
    document = experiment.judge()
    (message,) = messages(document, "same")
    assert "too much alike" in message
    assert "correlate by 0.80, real ones by 0.30" in message
    (message,) = messages(document, "all")  # one alarm for one fault
    assert "hardly differ between perturbations" in message
    assert "correlate by 1.00, real ones by 0.30" in message
    assert messages(document, "right") == messages(document, "unknown") == []


def test_impossible_values_and_drift_are_flagged(experiment: Experiment) -> None:
    def impossible(frame: pd.DataFrame) -> None:
        frame.loc[0, "note"] = write_note({IMPOSSIBLE: "3 predicted values of 15 or more"})

    experiment.add("high", "pertsets", 0.6, change=impossible)
    experiment.add("long", "pertsets", 0.6, change=fixed(delta_norm_ratio=8.0))
    document = experiment.judge()
    (message,) = messages(document, "high")
    assert "no cell can have in 2 of 30 conditions: 3 predicted values of 15 or more" in message
    (message,) = messages(document, "long")
    assert "8 times as large" in message
    json.dumps(document, allow_nan=False)
