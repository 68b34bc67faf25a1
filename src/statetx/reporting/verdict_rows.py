"""The rows of the verdict's table: numbers as text, what is best, what is grey and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from statetx.evaluation.verdict.contract import Comparison, LeftOut, MetricInfo, MetricValue
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


@dataclass(frozen=True, kw_only=True)
class Column:
    """One scored thing: a reference, a baseline, or a model with its seed.

    Attributes
    ----------
    note
        Which seed, where several differ.
    """

    name: str
    title: str
    role: str
    seed: int | None
    metrics: Mapping[str, MetricValue]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ComparisonView:
    """A comparison as it is shown: the title of its model, and its numbers in one power of ten."""

    comparison: Comparison
    title: str
    difference: str = ""
    interval: str = ""
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table, as text."""

    text: str
    interval: str
    notes: tuple[str, ...]
    best: bool
    role: str
    value: float | None


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric of the table.

    Attributes
    ----------
    unit
        Power of ten in which the numbers are given; empty: plain.
    hint
        Which values are good.
    spans
        Dynamic range: to the ceiling, to the interpolated duplicate; empty: unknown.
    grey
        Why this metric is greyed; empty: it is not.
    left_out
        Conditions that the metric leaves out for every model, one sentence per reason.
    """

    metric: MetricInfo
    label: str
    arrow: str
    unit: str
    cells: list[Cell]
    scaled: list[str]
    hint: str
    spans: list[str]
    grey: str = ""
    left_out: tuple[str, ...] = ()


def section(metric: MetricInfo) -> str:
    """Return the part of the table that shows a metric, one of `SECTIONS`."""
    if metric.better not in words.ARROWS:
        return "diagnostics"
    return "headline metrics" if metric.headline else "further metrics"


def exponent(metric: MetricInfo, columns: Sequence[Column]) -> int:
    """Return the power of ten in which a metric's numbers are given everywhere."""
    return words.exponent(mean_of(column, metric.name) for column in columns)


def mean_of(column: Column, metric: str) -> float | None:
    """Return the pooled mean of a metric in a column; None: it is undefined or absent."""
    value = column.metrics.get(metric)
    return None if value is None else value.mean


def row_of(
    metric: MetricInfo,
    columns: Sequence[Column],
    models: Sequence[Column],
    comparisons: Sequence[ComparisonView],
    left_out: Sequence[LeftOut] = (),
) -> MetricRow:
    """Lay out one metric over all columns."""
    means = [mean_of(column, metric.name) for column in columns]
    power = exponent(metric, columns)
    places = words.decimals(words.scaled(mean, power) for mean in means)
    rivals = [
        mean
        for mean, column in zip(means, columns, strict=True)
        if mean is not None and column.role not in UPPER
    ]
    judged = section(metric) != "diagnostics"
    best = min(rivals, key=lambda mean: words.badness(metric, mean)) if rivals and judged else None
    values = [column.metrics.get(metric.name) for column in columns]
    usual = max((value.n for value in values if value is not None), default=None)
    cells = [
        Cell(
            text=words.number(words.scaled(mean, power), places),
            interval=_interval(value, power, places),
            notes=_notes(value, usual),
            best=mean is not None and column.role not in UPPER and mean == best,
            role=column.role,
            value=mean,
        )
        for column, value, mean in zip(columns, values, means, strict=True)
    ]
    shares = {
        c.title: c.comparison.scaled for c in comparisons if c.comparison.metric == metric.name
    }
    roles = dict(zip((column.role for column in columns), cells, strict=True))
    return MetricRow(
        metric=metric,
        label=metric.label,
        arrow=words.ARROWS.get(metric.better, ""),
        unit=words.power(power),
        cells=cells,
        scaled=[words.number(shares.get(model.title), 2, sign=True) for model in models],
        hint=words.direction(metric),
        spans=_spans(metric),
        grey=_grey(metric, roles),
        left_out=tuple(
            f"{words.count(item.n, 'condition')} left out: {item.reason}"
            for item in left_out
            if item.metric == metric.name
        ),
    )


def _interval(value: MetricValue | None, power: int, places: int) -> str:
    if value is None:
        return ""
    return words.interval(words.scaled(value.low, power), words.scaled(value.high, power), places)


def _notes(value: MetricValue | None, usual: int | None) -> tuple[str, ...]:
    if value is None:
        return ()
    undefined = [f"{value.undefined} undefined"] if value.undefined else []
    return (*undefined, *([f"n = {value.n}"] if value.n != usual else []))


def _spans(metric: MetricInfo) -> list[str]:
    """Return the dynamic range as texts; empty where it is unknown."""
    if metric.dynamic_range is None:
        return []
    known = metric.dynamic_range.ceiling, metric.dynamic_range.interpolated_duplicate
    return [words.number(value, 2) for value in known if value is not None]


def explained_row(
    metric: MetricInfo, columns: Sequence[Column], models: Sequence[Column]
) -> MetricRow:
    """Lay out the share of the way from floor to ceiling, for the row beneath the metric itself."""
    name = f"{metric.name}_explained"
    shares = [
        replace(column, metrics={name: _share(value)} if value is not None else {})
        for column in columns
        for value in [column.metrics.get(metric.name)]
    ]
    share = metric.model_copy(
        update={
            "name": name,
            "label": f"{metric.label}, explained",
            "better": "higher",
            "perfect": None,
            "dynamic_range": None,
        }
    )
    row = row_of(share, shares, models, [])
    return replace(row, hint="higher is better, 0 is the floor, 1 the ceiling")


def _share(value: MetricValue) -> MetricValue:
    """Return a metric's share explained as a value of its own."""
    return MetricValue(
        mean=value.explained,
        low=value.explained_low,
        high=value.explained_high,
        n=value.n - (value.explained_undefined or 0),
    )


def _grey(metric: MetricInfo, roles: Mapping[str, Cell]) -> str:
    if metric.has_range or section(metric) == "diagnostics":
        return ""
    if metric.reason:
        return metric.reason
    if "ceiling" not in roles or roles["ceiling"].value is None:
        return "no ceiling could be measured, so a good value is unknown"
    low = roles["floor"].text if "floor" in roles else words.NOTHING
    return (
        f"no range: the ceiling ({roles['ceiling'].text}) is not clearly better than the floor "
        f"({low}), so it cannot tell good from poor"
    )
