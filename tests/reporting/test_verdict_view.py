"""How the verdict is laid out."""

from __future__ import annotations

import json

import pytest
import report_samples as samples
from report_samples import BASELINES, GREYED, verdict

from statetx.core.errors import ResultsError
from statetx.reporting import numbers as words
from statetx.reporting import verdict_view as board


def row(told, name):
    return next(row for row in told.rows if row.metric.name == name)


def test_columns_run_from_floor_to_ceiling():
    told = samples.laid_out(verdict())
    assert [c.title for c in told.columns] == ["floor", *BASELINES, "pertsets", "ceiling"]
    assert [width for _, _, width in told.groups] == [1, 3, 1, 1]


@pytest.mark.parametrize(
    ("metric", "best"),
    [("pearson_delta", "pertsets"), ("pds_cosine", "perturbation_mean"), ("mmd", "pertsets")],
)
def test_best_respects_direction_and_leaves_out_the_ceiling(metric, best):
    told = samples.laid_out(verdict())
    marked = [
        c.title for c, cell in zip(told.columns, row(told, metric).cells, strict=True) if cell.best
    ]
    assert marked == [best]


def test_a_diagnostic_is_neither_judged_nor_grey():
    content = verdict()
    content["metrics"][6] |= {"better": "neither", "perfect": 1.0, "has_range": False}
    told = samples.laid_out(content)
    last = told.rows[-1]
    assert last.metric.name == "energy_distance"
    assert not any(c.best for c in last.cells)
    assert last.grey == ""
    assert words.direction(last.metric) == "diagnostic, never judged, 1 is perfect"


def test_a_reason_of_the_verdict_is_the_reason_shown():
    content = verdict()
    content["metrics"][-1]["reason"] = "a replicate is not better"
    assert row(samples.laid_out(content), GREYED).grey == "a replicate is not better"


def test_what_one_metric_leaves_out_is_said_in_its_row():
    content = verdict()
    content["cohort"]["undefined"] = [{"metric": "mmd", "n": 23, "reason": "too few cells"}]
    told = samples.laid_out(content)
    assert row(told, "mmd").left_out == ("23 conditions left out: too few cells",)
    assert [r.metric.name for r in told.rows if r.left_out] == ["mmd"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v["cohort"].pop("n_drugs"), "field 'cohort.n_drugs' is missing"),
        (lambda v: v.update(extra=1), "field 'extra' is unknown"),
        (lambda v: v.update(cohorts=v.pop("cohort")), "is missing|did you mean"),
        (lambda v: v["rows"][0].update(role="judge"), r"field 'rows.0.role' is 'judge'"),
        (
            lambda v: v["rows"][0]["metrics"]["mmd"].update(n="many"),
            "field 'rows.0.metrics.mmd.n' is 'many'",
        ),
        (lambda v: v.update(metrics=[]), "no metrics"),
        (lambda v: v.update(format=2), "format is 2, this version reads 1"),
    ],
)
def test_another_shape_names_file_field_and_fix(tmp_path, change, says):
    content = verdict()
    change(content)
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match=says) as caught:
        board.read(path)
    assert str(caught.value.where) == str(path)
    assert "run the verdict stage again" in caught.value.fix


def test_only_the_metric_without_range_is_grey_and_says_why():
    told = samples.laid_out(verdict())
    assert [r.metric.name for r in told.rows if r.grey] == [GREYED]
    assert (
        "ceiling (0.0340) is not clearly better than the floor (0.0310)" in row(told, GREYED).grey
    )


def test_undefined_conditions_and_smaller_cohorts_are_noted():
    content = verdict()
    content["rows"][-1]["metrics"]["mmd"]["n"] = 20
    told = samples.laid_out(content)
    assert row(told, "pds_cosine").cells[1].notes == ("2 undefined",)
    assert row(told, "mmd").cells[-1].notes == ("n = 20",)
    assert row(told, "mmd").cells[0].notes == ()


def test_the_primary_metric_has_a_range():
    content = verdict()
    content["metrics"][0]["has_range"] = False
    assert samples.laid_out(content).primary.name == "pds_cosine"
    for metric in content["metrics"]:
        metric["has_range"] = False
    told = samples.laid_out(content)
    assert told.primary.name == "pearson_delta"
    assert "do not rely on it" in told.sentences[0].text


def test_of_several_comparisons_the_one_with_the_best_baseline_counts():
    content = verdict()
    weak = [{**c, "against": "no_change", "call": "BETTER"} for c in content["comparisons"]]
    for order in (weak + content["comparisons"], content["comparisons"] + weak):
        told = samples.laid_out({**content, "comparisons": order})
        assert {c.comparison.against for c in told.comparisons} == {"perturbation_mean"}
        assert len(told.comparisons) == len(content["metrics"])


def test_seeds_of_a_baseline_merge_only_when_equal():
    content = verdict()
    again = [{**r, "seed": 1} for r in content["rows"] if r["role"] in ("baseline", "model")]
    content["rows"] += again
    told = samples.laid_out(content)
    assert [c.title for c in told.columns if c.role == "baseline"] == list(BASELINES)
    assert told.columns[1].note == "2 seeds, all equal"
    assert [c.title for c in told.models] == ["pertsets, seed 0", "pertsets, seed 1"]

    other = json.loads(json.dumps(content))
    other["rows"][-2]["metrics"]["mmd"]["mean"] = 9.0
    titles = [c.title for c in samples.laid_out(other).columns if c.role == "baseline"]
    assert titles[-2:] == ["perturbation_mean, seed 0", "perturbation_mean, seed 1"]


def test_numbers_of_different_seeds_are_not_mixed():
    content = verdict()
    second = json.loads(json.dumps(content["rows"][-2])) | {"seed": 1}
    second["metrics"]["pearson_delta"]["mean"] = 0.111
    content["rows"].append(second)
    content["comparisons"] += [
        {**c, "seed": 1, "call": "WORSE", "scaled": -9.0} for c in content["comparisons"]
    ]
    told = samples.laid_out(content)
    assert [s.call for s in told.sentences] == ["BETTER", "WORSE"]
    assert row(told, "pearson_delta").scaled == ["+0.10", "−9.00"]
    assert row(told, "pearson_delta").cells[-2].text == "0.111"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot read the verdict"),
        ("[]", "it contains a list instead of named fields"),
        ('{"format": 7}', "its format is 7, this version reads 1"),
        ('{"format": 1, "metrics": [], "rows": []}', "field 'cohort' is missing"),
    ],
)
def test_a_broken_verdict_is_refused(tmp_path, text, says):
    path = tmp_path / "verdict.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=says) as caught:
        board.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_verdict_is_refused(tmp_path):
    with pytest.raises(ResultsError, match="cannot read the verdict"):
        board.read(tmp_path / "none.json")


def test_nulls_everywhere_are_survived():
    content = verdict()
    for entry in content["rows"]:
        for value in entry["metrics"].values():
            value.update(mean=None, low=None, high=None)
    for item in content["comparisons"]:
        item.update(difference=None, low=None, high=None, wins=None, p=None, scaled=None,
                    call="UNDECIDED", reason="undefined", against=None)  # fmt: skip
    told = samples.laid_out(content)
    assert told.sentences[0].call == "UNDECIDED"
    assert not any(cell.best for r in told.rows for cell in r.cells)
