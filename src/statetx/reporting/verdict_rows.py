"""The rows of the verdict's table: numbers as text, what is best, what is grey and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from statetx.reporting import numbers as words

GROUPS = {
    "floor": "floor",
    "mean_response": "mean response",
    "baseline": "baselines",
    "model": "trained",
    "interpolated_duplicate": "interpolated duplicate",
    "ceiling": "ceiling",
}
"""Role -> heading of its columns, in their order."""
REFERENCES = ("floor", "mean_response", "interpolated_duplicate", "ceiling")
UPPER = ("interpolated_duplicate", "ceiling")
"""Made of the real cells to be predicted: no rivals for the best value."""
SECTIONS = ("headline metrics", "further metrics", "diagnostics")


@dataclass(frozen=True)
class Column:
    """One scored thing: a reference, a baseline, or a model with its seed."""

    name: str
    title: str
    role: str
    seed: int | None
    metrics: dict[str, dict[str, Any]]
    note: str = ""
    """Which seed, where several differ."""


@dataclass(frozen=True)
class Cell:
    """One number of the table, as text."""

    text: str
    interval: str
    notes: tuple[str, ...]
    best: bool
    role: str
    value: float | None


@dataclass(frozen=True)
class MetricRow:
    """One metric of the table."""

    metric: dict[str, Any]
    label: str
    arrow: str
    unit: str
    """Power of ten in which the numbers are given; empty: plain."""
    cells: list[Cell]
    scaled: list[str]
    hint: str
    """Which values are good."""
    spans: list[str]
    """Dynamic range: to the ceiling, to the interpolated duplicate; empty: unknown."""
    grey: str = ""
    """Why this metric is greyed; empty: it is not."""


def section(metric: dict[str, Any]) -> str:
    """Which part of the table a metric stands in, one of `SECTIONS`."""
    if metric.get("better") not in words.ARROWS:
        return "diagnostics"
    return "headline metrics" if metric.get("headline") else "further metrics"


def label(metric: dict[str, Any]) -> str:
    """The metric as people call it."""
    return str(metric.get("label") or metric["name"])


def exponent(metric: dict[str, Any], columns: list[Column]) -> int:
    """Power of ten in which a metric's numbers are given everywhere."""
    return words.exponent(mean_of(column, metric["name"]) for column in columns)


def has_range(metric: dict[str, Any]) -> bool:
    """Whether floor and ceiling leave room for a model (unknown counts as yes)."""
    return metric.get("has_range") is not False


def mean_of(column: Column, metric: str) -> float | None:
    value = (column.metrics.get(metric) or {}).get("mean")
    return value if words.is_number(value) else None


def row_of(
    metric: dict[str, Any],
    columns: list[Column],
    models: list[Column],
    comparisons: list[dict[str, Any]],
) -> MetricRow:
    name = metric["name"]
    means = [mean_of(column, name) for column in columns]
    power = exponent(metric, columns)
    places = words.decimals(None if m is None else m / 10**power for m in means)
    rivals = [
        m for m, c in zip(means, columns, strict=True) if m is not None and c.role not in UPPER
    ]
    judged = section(metric) != "diagnostics"
    best = min(rivals, key=lambda mean: words.badness(metric, mean)) if rivals and judged else None
    sizes = [c.metrics.get(name, {}).get("n") for c in columns]
    usual = max((n for n in sizes if words.is_number(n)), default=None)
    cells = []
    for column, mean in zip(columns, means, strict=True):
        entry = column.metrics.get(name) or {}
        notes = []
        if entry.get("undefined"):
            notes.append(f"{entry['undefined']} undefined")
        if words.is_number(entry.get("n")) and entry["n"] != usual:
            notes.append(f"n = {entry['n']}")
        cells.append(
            Cell(
                words.number(_in(mean, power), places),
                words.interval(_in(entry.get("low"), power), _in(entry.get("high"), power), places),
                tuple(notes),
                mean is not None and column.role not in UPPER and mean == best,
                column.role,
                mean,
            )
        )
    scaled = [
        words.number(
            next(
                (
                    c.get("scaled")
                    for c in comparisons
                    if (c["title"], c["metric"]) == (m.title, name)
                ),
                None,
            ),
            2,
            sign=True,
        )
        for m in models
    ]
    arrow = words.ARROWS.get(str(metric.get("better")), "")
    grey = _grey(metric, dict(zip((c.role for c in columns), cells, strict=True)))
    hint, spans = words.direction(metric), _spans(metric)
    unit = words.power(power)
    return MetricRow(metric, label(metric), arrow, unit, cells, scaled, hint, spans, grey)


def _spans(metric: dict[str, Any]) -> list[str]:
    """Dynamic range as texts; empty where none is told."""
    told = metric.get("dynamic_range") or {}
    known = [told.get(name) for name in ("ceiling", "interpolated_duplicate")]
    return [words.number(value, 2) for value in known if words.is_number(value)]


def explained_row(metric: dict[str, Any], columns: list[Column], models: list[Column]) -> MetricRow:
    """The share of the way from floor to ceiling, beneath the metric itself."""
    name = f"{metric['name']}_explained"
    shares = [
        replace(column, metrics={name: _share(column.metrics.get(metric["name"]) or {})})
        for column in columns
    ]
    own = {**metric, "name": name, "label": f"{label(metric)}, explained", "better": "higher"}
    row = row_of({**own, "perfect": None, "dynamic_range": None}, shares, models, [])
    return replace(row, hint="higher is better, 0 is the floor, 1 the ceiling")


def _share(entry: dict[str, Any]) -> dict[str, Any]:
    """A metric's entry of its share explained."""
    share = {"mean": entry.get("explained"), "n": entry.get("n")}
    share |= {end: entry.get(f"explained_{end}") for end in ("low", "high")}
    left_out = entry.get("explained_undefined")
    if words.is_number(left_out) and words.is_number(entry.get("n")):
        share["n"] = entry["n"] - left_out
    return share


def _in(value: Any, power: int) -> float | None:
    return value / 10**power if words.is_number(value) else None


def _grey(metric: dict[str, Any], ends: dict[str, Cell]) -> str:
    if has_range(metric) or section(metric) == "diagnostics":
        return ""
    if metric.get("reason"):
        return str(metric["reason"])
    if "ceiling" not in ends or ends["ceiling"].value is None:
        return "no ceiling could be measured, so nobody knows what a good value is"
    low = ends["floor"].text if "floor" in ends else words.NOTHING
    return (
        f"no range: the ceiling ({ends['ceiling'].text}) is not clearly better than the floor "
        f"({low}), so it cannot tell good from poor"
    )
