"""References between floor and ceiling, shares explained and dynamic ranges on the page."""

from __future__ import annotations

import io
import json

import report_samples as samples

from statetx.reporting.page.page import page
from statetx.reporting.terminal.verdict_table import print_verdict


def told():
    """A verdict with all references, in which MMD has shares explained and Pearson a range."""
    content = samples.verdict()
    rows = content["rows"]
    named = {row["name"]: row for row in rows}
    for name, like in (("mean_response", "context_mean"), ("interpolated_duplicate", "ceiling")):
        metrics = json.loads(json.dumps(named[like]["metrics"]))
        rows.append({"name": name, "role": name, "kind": None, "seed": None, "metrics": metrics})
    for row in rows:
        share = {"floor": 0.0, "ceiling": 1.0, "pertsets": 0.764}.get(row["name"], 0.5)
        row["metrics"]["mmd"] |= {
            "explained": share, "explained_low": share - 0.1, "explained_high": share + 0.1,
            "explained_undefined": 3 if row["name"] == "pertsets" else 0,
        }  # fmt: skip
    content["metrics"][0]["dynamic_range"] = {
        "fraction": 0.87, "negative": "mean_response", "ceiling": 0.61,
        "interpolated_duplicate": 0.87, "n": 24, "undefined": 0,
    }  # fmt: skip
    return content


def row(laid, name):
    return next(row for row in laid.rows if row.metric.name == name)


def test_references_stand_around_what_they_are_held_against():
    laid = samples.laid_out(told())
    assert [c.title for c in laid.columns] == [
        "floor", "mean response", *samples.BASELINES, "pertsets", "interpolated duplicate", "ceiling",
    ]  # fmt: skip
    assert [(heading, n) for _, heading, n in laid.groups] == [
        ("floor", 1), ("mean response", 1), ("baselines", 3), ("trained", 1),
        ("interpolated duplicate", 1), ("ceiling", 1),
    ]  # fmt: skip


def test_a_reference_made_of_the_truth_is_never_the_best():
    best = [
        column.title
        for column, cell in zip(
            samples.laid_out(told()).columns,
            row(samples.laid_out(told()), "mmd").cells,
            strict=True,
        )
        if cell.best
    ]
    assert best == ["pertsets"]


def test_a_share_explained_stands_beneath_its_metric():
    laid = samples.laid_out(told())
    names = [one.metric.name for one in laid.rows]
    assert names[names.index("mmd") + 1] == "mmd_explained"
    assert sum(name.endswith("_explained") for name in names) == 1
    share = row(laid, "mmd_explained")
    assert (share.label, share.arrow) == ("MMD, explained", "↑")
    assert share.hint == "higher is better, 0 is the floor, 1 the ceiling"
    model = share.cells[[c.title for c in laid.columns].index("pertsets")]
    assert (model.text, model.interval) == ("0.764", "[0.664, 0.864]")
    assert model.notes == ("n = 21",)
    assert model.best
    assert laid.explains
    assert not samples.laid_out(samples.verdict()).explains


def test_without_any_share_there_is_no_row_of_them():
    content = told()
    for one in content["rows"]:
        one["metrics"]["mmd"] |= dict.fromkeys(
            ("explained", "explained_low", "explained_high", "explained_undefined")
        )
    laid = samples.laid_out(content)
    assert len(laid.rows) == len(laid.metrics)
    assert not laid.explains


def test_a_greyed_metric_has_a_greyed_share():
    content = told()
    content["metrics"][3] |= {"has_range": False, "headline": False, "reason": "saturated"}
    laid = samples.laid_out(content)
    assert row(laid, "mmd").grey == row(laid, "mmd_explained").grey == "saturated"


def test_the_page_tells_ranges_and_the_terminal_stays_narrow(tmp_path):
    content = told()
    laid = samples.laid_out(content)
    assert row(laid, "pearson_delta").spans == ["0.61", "0.87"]
    assert row(laid, "mmd").spans == []
    page(**samples.demo(tmp_path, content), out=tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    for part in ("interpolated duplicate", "MMD, explained", "range 0.61 · 0.87", "Range:"):
        assert part in html
    page(**samples.demo(tmp_path / "old"), out=tmp_path / "old.html")
    assert "Range:" not in (tmp_path / "old.html").read_text(encoding="utf-8")
    out = io.StringIO()
    print_verdict(tmp_path / "verdict.json", out)
    assert "MMD, explained" in out.getvalue()
    assert "mean_response" not in out.getvalue()
