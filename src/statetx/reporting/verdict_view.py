"""The verdict, read and laid out once, for the page and for the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from statetx.core.documents import Wanted, read_json
from statetx.core.errors import ResultsError
from statetx.core.records import verify
from statetx.reporting import numbers as words
from statetx.reporting.verdict_rows import (
    GROUPS,
    REFERENCES,
    SECTIONS,
    Column,
    MetricRow,
    explained_row,
    exponent,
    has_range,
    label,
    mean_of,
    row_of,
    section,
)

FORMAT = 1


@dataclass(frozen=True)
class Sentence:
    """The verdict on one trained model."""

    model: str
    call: str
    glyph: str
    text: str
    others: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class VerdictView:
    """Everything that verdict.json says, in the order in which it is shown."""

    raw: dict[str, Any]
    columns: list[Column]
    metrics: list[dict[str, Any]]
    rows: list[MetricRow]
    models: list[Column]
    primary: dict[str, Any] | None
    sentences: list[Sentence]
    comparisons: list[dict[str, Any]]

    @property
    def dropped(self) -> list[dict[str, Any]]:
        """Conditions that nobody is judged on."""
        found = (self.raw.get("cohort") or {}).get("dropped") or []
        return [item for item in found if not item.get("metric")]

    @property
    def left_out(self) -> list[dict[str, Any]]:
        """Conditions that one metric leaves out for everybody."""
        found = (self.raw.get("cohort") or {}).get("dropped") or []
        return [item for item in found if item.get("metric")]

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
        Missing, unreadable, of another format, or without metrics or rows.
    """
    raw = read_json(
        verify(path), Wanted("the verdict", ResultsError, "run the verdict stage again")
    )
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise ResultsError(
            f"this verdict has format {found!r}, not {FORMAT}",
            where=path,
            fix="run the verdict stage again with this version of statetx",
        )
    for key in ("metrics", "rows"):
        if not raw.get(key):
            raise ResultsError(f"the verdict has no {key}", where=path, fix="run it again")
    return layout(raw)


def layout(raw: dict[str, Any]) -> VerdictView:
    """Lay out what verdict.json holds."""
    metrics = sorted(raw["metrics"], key=lambda m: SECTIONS.index(section(m)))
    columns = _columns(raw["rows"])
    models = [column for column in columns if column.role == "model"]
    headline = [m for m in metrics if m.get("headline")]
    primary = next((m for m in headline if has_range(m)), next(iter(headline), None))
    comparisons = [dict(item) for item in raw.get("comparisons") or []]
    for item in comparisons:
        item["title"] = _title_of(item, models)
    comparisons = _against_best(comparisons, columns, metrics)
    rows = []
    for metric in metrics:
        rows.append(row_of(metric, columns, models, comparisons))
        shares = [column.metrics.get(metric["name"], {}).get("explained") for column in columns]
        if any(words.is_number(share) for share in shares):
            rows.append(explained_row(metric, columns, models))
    for item in comparisons:
        power = exponent(metric_named(metrics, item["metric"]), columns)
        item["difference_text"], item["interval_text"] = words.difference(item, power)
        item["unit"] = words.power(power)
    # Where the mean of its seeds is judged, the seeds one by one stand in the tables only.
    means = {model.name for model in models if model.seed is None}
    told = [model for model in models if model.seed is None or model.name not in means]
    sentences = [_sentence(model, primary, headline, comparisons, columns) for model in told]
    return VerdictView(raw, columns, metrics, rows, models, primary, sentences, comparisons)


def metric_named(metrics: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The metric of that name."""
    return next(metric for metric in metrics if metric["name"] == name)


def _columns(rows: list[dict[str, Any]]) -> list[Column]:
    """Rows of verdict.json in order of role; baselines whose seeds all agree become one column."""
    names: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        names.setdefault((row["role"], row["name"]), []).append(row)
    columns = []
    for role in GROUPS:
        for (own_role, name), twins in names.items():
            if own_role != role:
                continue
            same = all(twin["metrics"] == twins[0]["metrics"] for twin in twins)
            if role != "model" and same and len(twins) > 1:
                note = f"{len(twins)} seeds, all equal"
                columns.append(Column(name, name, role, None, twins[0]["metrics"], note))
                continue
            for twin in twins:
                seed = twin.get("seed")
                which = f"mean of {len(twins) - 1} seeds" if seed is None else f"seed {seed}"
                title = GROUPS[role] if role in REFERENCES else name
                title = title if len(twins) == 1 else f"{name}, {which}"
                note = "" if len(twins) == 1 else which
                columns.append(Column(name, title, role, seed, twin["metrics"], note))
    return columns


def _title_of(comparison: dict[str, Any], models: list[Column]) -> str:
    for model in models:
        if (model.name, model.seed) == (comparison["model"], comparison.get("seed")):
            return model.title
    return str(comparison["model"])


def _against_best(
    comparisons: list[dict[str, Any]], columns: list[Column], metrics: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Keep, of several comparisons of one model in one metric, the one with the best baseline."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    order = {metric["name"]: i for i, metric in enumerate(metrics)}
    for item in comparisons:
        if item["metric"] not in order:
            continue
        key = (order[item["metric"]], item["title"])
        baselines = [c for c in columns if c.role == "baseline" and c.name == item.get("against")]
        means = [m for c in baselines if (m := mean_of(c, item["metric"])) is not None]
        metric = metrics[order[item["metric"]]]
        item["_rank"] = min((words.badness(metric, m) for m in means), default=float("inf"))
        if key not in kept or item["_rank"] < kept[key]["_rank"]:
            kept[key] = item
    for item in kept.values():
        item.pop("_rank")
    return [kept[key] for key in sorted(kept)]


def _sentence(
    model: Column,
    primary: dict[str, Any] | None,
    headline: list[dict[str, Any]],
    comparisons: list[dict[str, Any]],
    columns: list[Column],
) -> Sentence:
    own = {item["metric"]: item for item in comparisons if item["title"] == model.title}
    if primary is None:
        text = (
            f"{model.title}: no verdict, because no metric that may stand here has a range between "
            "floor and ceiling."
        )
        return Sentence(model.title, "UNDECIDED", words.GLYPHS["UNDECIDED"], text)
    item = own.get(primary["name"], {"against": None})
    made = call(item)
    better, power = str(primary.get("better")), exponent(primary, columns)
    text = words.sentence(item, model.title, label(primary), better, power)
    if not has_range(primary):
        text += " No headline metric has a range between floor and ceiling here: do not rely on it."
    others = [
        {
            "call": call(own[m["name"]]),
            "glyph": words.GLYPHS[call(own[m["name"]])],
            "label": label(m),
            "evidence": words.evidence(own[m["name"]], str(m.get("better")), exponent(m, columns)),
            "against": str(own[m["name"]].get("against")),
            "grey": "" if has_range(m) else "no range",
        }
        for m in headline
        if m is not primary and m["name"] in own
    ]
    return Sentence(model.title, made, words.GLYPHS[made], text, others)


def call(item: dict[str, Any]) -> str:
    """The call of a comparison; anything unknown is UNDECIDED."""
    made = str(item.get("call") or "UNDECIDED").upper()
    return made if made in words.GLYPHS else "UNDECIDED"
