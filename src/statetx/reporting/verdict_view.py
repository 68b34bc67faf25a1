"""The verdict, laid out once for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from statetx.core.errors import ResultsError
from statetx.evaluation.verdict.contract import (
    Comparison,
    DroppedCondition,
    MetricInfo,
    ScoredRow,
    Verdict,
)
from statetx.reporting import numbers as words
from statetx.reporting.verdict_rows import (
    GROUPS,
    REFERENCES,
    SECTIONS,
    Column,
    ComparisonView,
    MetricRow,
    explained_row,
    exponent,
    mean_of,
    row_of,
    section,
)


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """The verdict on one trained model; `others`: its calls in the other headline metrics."""

    model: str
    call: str
    glyph: str
    text: str
    others: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class VerdictView:
    """Everything that verdict.json says, in the order in which it is shown.

    Attributes
    ----------
    primary
        The metric of the first sentence: the first headline metric with a range. None: there is no
        headline metric.
    """

    verdict: Verdict
    columns: list[Column]
    metrics: list[MetricInfo]
    rows: list[MetricRow]
    models: list[Column]
    primary: MetricInfo | None
    sentences: list[Sentence]
    comparisons: list[ComparisonView]

    @property
    def dropped(self) -> list[DroppedCondition]:
        """Conditions on which no model is judged."""
        return self.verdict.cohort.dropped

    @property
    def explains(self) -> bool:
        """Whether there are rows of shares explained."""
        return len(self.rows) > len(self.metrics)

    @property
    def groups(self) -> list[tuple[str, str, int]]:
        """(role, heading, width) of the groups of columns."""
        counted = [(role, sum(c.role == role for c in self.columns)) for role in GROUPS]
        return [(role, GROUPS[role], n) for role, n in counted if n]


def read(path: Path) -> VerdictView:
    """Read verdict.json and lay it out.

    Raises
    ------
    ResultsError
        The file is missing, unreadable, of another format, or has no metrics or rows.
    """
    verdict = Verdict.read(path)
    for name, items in (("metrics", verdict.metrics), ("rows", verdict.rows)):
        if not items:
            raise ResultsError(f"the verdict has no {name}", where=path, fix=Verdict.WANTED.fix)
    return layout(verdict)


def layout(verdict: Verdict) -> VerdictView:
    """Lay out a verdict."""
    metrics = sorted(verdict.metrics, key=lambda metric: SECTIONS.index(section(metric)))
    columns = _columns(verdict.rows)
    models = [column for column in columns if column.role == "model"]
    headline = [metric for metric in metrics if metric.headline]
    primary = next((m for m in headline if m.has_range), next(iter(headline), None))
    comparisons = _comparisons(verdict.comparisons, columns, metrics)
    rows = []
    for metric in metrics:
        rows.append(row_of(metric, columns, models, comparisons, verdict.cohort.undefined))
        values = [column.metrics.get(metric.name) for column in columns]
        if any(value is not None and value.explained is not None for value in values):
            rows.append(explained_row(metric, columns, models))
    # Where the mean of its seeds is judged, single seeds are shown in the tables only.
    means = {model.name for model in models if model.seed is None}
    judged = [model for model in models if model.seed is None or model.name not in means]
    return VerdictView(
        verdict=verdict,
        columns=columns,
        metrics=metrics,
        rows=rows,
        models=models,
        primary=primary,
        sentences=[_sentence(m, primary, headline, comparisons, columns) for m in judged],
        comparisons=comparisons,
    )


def _columns(rows: Sequence[ScoredRow]) -> list[Column]:
    """Return the rows of a verdict in order of role; baselines whose seeds all agree become one."""
    names: dict[tuple[str, str], list[ScoredRow]] = {}
    for row in rows:
        names.setdefault((row.role, row.name), []).append(row)
    ordered = sorted(names.items(), key=lambda item: list(GROUPS).index(item[0][0]))
    return [column for (role, name), twins in ordered for column in _of_one_name(role, name, twins)]


def _of_one_name(role: str, name: str, twins: Sequence[ScoredRow]) -> list[Column]:
    same = all(twin.metrics == twins[0].metrics for twin in twins)
    if role != "model" and same and len(twins) > 1:
        note = f"{len(twins)} seeds, all equal"
        metrics = twins[0].metrics
        return [Column(name=name, title=name, role=role, seed=None, metrics=metrics, note=note)]
    columns = []
    for twin in twins:
        which = f"mean of {len(twins) - 1} seeds" if twin.seed is None else f"seed {twin.seed}"
        title = GROUPS[role] if role in REFERENCES else name
        columns.append(
            Column(
                name=name,
                title=title if len(twins) == 1 else f"{name}, {which}",
                role=role,
                seed=twin.seed,
                metrics=twin.metrics,
                note="" if len(twins) == 1 else which,
            )
        )
    return columns


def _comparisons(
    comparisons: Sequence[Comparison], columns: Sequence[Column], metrics: Sequence[MetricInfo]
) -> list[ComparisonView]:
    """Return one comparison per metric and model, in their order: the one with the best baseline."""
    titles = {(c.name, c.seed): c.title for c in columns if c.role == "model"}
    order = {metric.name: i for i, metric in enumerate(metrics)}
    kept: dict[tuple[int, str], tuple[float, ComparisonView]] = {}
    for comparison in comparisons:
        if comparison.metric not in order:
            continue
        metric = metrics[order[comparison.metric]]
        title = titles.get((comparison.model, comparison.seed), comparison.model)
        rank = _badness_of_baseline(comparison, columns, metric)
        key = order[comparison.metric], title
        if key not in kept or rank < kept[key][0]:
            kept[key] = rank, ComparisonView(comparison=comparison, title=title)
    return [_in_text(kept[key][1], metrics[key[0]], columns) for key in sorted(kept)]


def _badness_of_baseline(
    comparison: Comparison, columns: Sequence[Column], metric: MetricInfo
) -> float:
    rivals = [c for c in columns if c.role == "baseline" and c.name == comparison.against]
    means = [mean for c in rivals if (mean := mean_of(c, metric.name)) is not None]
    return min((words.badness(metric, mean) for mean in means), default=float("inf"))


def _in_text(view: ComparisonView, metric: MetricInfo, columns: Sequence[Column]) -> ComparisonView:
    power = exponent(metric, columns)
    difference, interval = words.difference(view.comparison, power)
    return replace(view, difference=difference, interval=interval, unit=words.power(power))


def _sentence(
    model: Column,
    primary: MetricInfo | None,
    headline: Sequence[MetricInfo],
    comparisons: Sequence[ComparisonView],
    columns: Sequence[Column],
) -> Sentence:
    undecided = words.GLYPHS["UNDECIDED"]
    if primary is None:
        text = (
            f"{model.title}: no verdict, because no metric that may stand here has a range between "
            "floor and ceiling."
        )
        return Sentence(model=model.title, call="UNDECIDED", glyph=undecided, text=text)
    own = {c.comparison.metric: c.comparison for c in comparisons if c.title == model.title}
    nothing = Comparison(model=model.name, metric=primary.name, n=0, call="UNDECIDED")
    judged = own.get(primary.name, nothing)
    power = exponent(primary, columns)
    text = words.sentence(judged, model.title, primary.label, primary.better, power)
    if not primary.has_range:
        text += " No headline metric has a range between floor and ceiling here: do not rely on it."
    others = [
        {
            "call": own[metric.name].call,
            "glyph": words.GLYPHS[own[metric.name].call],
            "label": metric.label,
            "evidence": words.evidence(own[metric.name], metric.better, exponent(metric, columns)),
            "against": str(own[metric.name].against),
            "grey": "" if metric.has_range else "no range",
        }
        for metric in headline
        if metric is not primary and metric.name in own
    ]
    glyph = words.GLYPHS[judged.call]
    return Sentence(model=model.title, call=judged.call, glyph=glyph, text=text, others=others)
