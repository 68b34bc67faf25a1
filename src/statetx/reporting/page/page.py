"""One HTML file that says whether a model beat its baselines. Opens offline; only draws.

Everything stands inside the file: style, figures (SVG with real text) and numbers; no script runs
and a content security policy forbids every load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from statetx.core.documents import Wanted, read_json
from statetx.core.errors import ResultsError
from statetx.core.records import verify
from statetx.core.text_files import write_text
from statetx.evaluation.verdict.contract import StratumComparison
from statetx.reporting import figures
from statetx.reporting import numbers as words
from statetx.reporting import verdict_rows as rows
from statetx.reporting.page import run_files as runs
from statetx.reporting.page import split_summary as splits
from statetx.reporting.page.run_files import RunFiles
from statetx.reporting.verdict_view import VerdictView
from statetx.reporting.verdict_view import read as read_view
from statetx.shared.labels import Reading

__all__ = ["RunFiles", "page"]


def page(
    verdict: Path,
    plans: Mapping[str, Path],
    model_dirs: Sequence[RunFiles | Mapping[str, Any]],
    manifest: Path,
    out: Path,
    title: str | None = None,
) -> None:
    """Write the page of one experiment.

    Parameters
    ----------
    verdict
        verdict.json of the experiment.
    plans
        plan.parquet of every split, by the split's name.
    model_dirs
        The runs: `RunFiles`, or dicts with ``split, model, seed, path``.
    manifest
        manifest.json of the store; ``conditions.parquet`` beside it gives the numbers of cells.
    out
        The HTML file; written whole or not at all. Equal inputs give equal bytes.
    title
        Title; None: names of experiment and data set.

    Raises
    ------
    ResultsError
        An input is missing, broken, or of another format.
    """
    view = read_view(Path(verdict))
    store = _manifest(Path(manifest))
    files = runs.as_run_files(model_dirs)
    read = splits.read_plans({name: Path(path) for name, path in plans.items()})
    cells = splits.cells_per_condition(Path(manifest))
    reading = Reading.from_settings(store, str(store.get("control_pert") or ""))
    curves = [runs.curve(run) for run in files]
    drawn = [(c.title, c.table, c.chosen) for c in curves if c.table is not None]
    judged = view.verdict
    counted = [splits.counts(name, plan, cells, reading) for name, plan in read.items()]
    context = {
        "title": title or f"{judged.experiment or 'experiment'} on {judged.dataset or '?'}",
        "verdict": judged,
        "view": view,
        "forest": _markup(figures.forest(view)),
        "heatmap": heatmap(view),
        "strata": strata(view),
        "curves": _markup(figures.curves(drawn)),
        "chosen": runs.grouped((c.why_chosen, c.title) for c in curves if c.table is not None),
        "no_curves": runs.grouped((c.why_not, c.model) for c in curves if c.table is None),
        "splits": counted,
        "cells_known": all(role.cells is not None for item in counted for role in item.roles),
        "pictures": splits.pictures(read, cells, reading) if read else [],
        "most_pictures": splits.MOST_PICTURES,
        "store": store,
        "sources": _sources(Path(manifest).with_name("sources.json")),
        "store_facts": runs.facts(_store_facts(store)),
        "stories": [runs.story(run) for run in files],
        "provenance": runs.facts(judged.provenance),
        "notes": _notes(view, read, files),
    }
    write_text(out, _environment().get_template("page.html").render(context))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("statetx.reporting.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["basename"] = lambda path: str(path).rsplit("/", 1)[-1]
    environment.filters["breakable"] = _breakable
    environment.globals.update(
        words=words,
        section=rows.section,
        references=rows.REFERENCES,
        role_colours=figures.ROLE_COLOURS,
        role_words=figures.ROLE_WORDS,
        ramp=[figures.cividis(i / 10)[0] for i in range(11)],
    )
    return environment


def _breakable(name: str) -> Markup:
    """Let a long name wrap after its underscores, hyphens and dots."""
    return Markup(re.sub(r"([_.-])", r"\1<wbr>", str(escape(name))))


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)


def _manifest(path: Path) -> dict[str, Any]:
    wanted = Wanted("the store's manifest", ResultsError, "pack the data set again")
    found = read_json(verify(path), wanted)
    if not isinstance(found, dict):
        raise ResultsError("this is not the manifest of a store", where=path, fix="pack it again")
    return found


def _sources(path: Path) -> list[dict[str, Any]]:
    """Read which files were packed; none of a store that an earlier version packed."""
    if not path.is_file():
        return []
    found = read_json(verify(path), Wanted("which files were packed", ResultsError, "pack again"))
    return [{**one, "bytes": one["stamp"][0]} for one in found["sources"]]


def _store_facts(store: Mapping[str, Any]) -> dict[str, Any]:
    lines = store.get("lines") or []
    return {
        "cell lines": len(lines),
        "cells": f"{sum(line.get('n_cells') or 0 for line in lines):,}",
        "of which controls": f"{sum(line.get('n_controls') or 0 for line in lines):,}",
        **{k: v for k, v in store.items() if k not in ("lines", "sources")},
    }


def strata(view: VerdictView) -> dict[str, Any] | None:
    """Lay out models x strength of the real effect: difference from the best baseline.

    Returns
    -------
    dict or None
        ``metric, unit, names, sizes, rows``; a row has ``title`` and a (difference, interval) per name.
        None where the verdict holds no strata of the main headline metric.
    """
    metric = view.primary or view.metrics[0]
    entries = [entry for entry in view.verdict.strata if entry.metric == metric.name]
    if not entries:
        return None
    power = rows.exponent(metric, view.columns)
    places = words.decimals((entry.difference or 0) / 10**power for entry in entries)
    names = list(dict.fromkeys(entry.stratum for entry in entries))
    found = {(entry.model, entry.seed, entry.stratum): entry for entry in entries}

    def cell(entry: StratumComparison | None) -> tuple[str, str]:
        if entry is None:
            return words.NOTHING, ""
        given = entry.difference, entry.low, entry.high
        middle, low, high = (words.scaled(value, power) for value in given)
        return words.number(middle, places, sign=True), words.interval(low, high, places, sign=True)

    return {
        "metric": metric,
        "unit": words.power(power),
        "names": names,
        "sizes": [max(entry.n for entry in entries if entry.stratum == name) for name in names],
        "rows": [
            {
                "title": model.title,
                "cells": [cell(found.get((model.name, model.seed, name))) for name in names],
            }
            for model in view.models
        ],
    }


def heatmap(view: VerdictView) -> dict[str, Any] | None:
    """Lay out cell lines × models of the main headline metric, with colours and numbers.

    Returns
    -------
    dict or None
        ``metric, unit, columns, rows, all, ends``; a row has ``line, split, n, cells``, a cell ``text,
        background, ink`` (brighter = better). None when there is nothing to show.
    """
    entries = view.verdict.per_line
    metric = view.primary or view.metrics[0]
    values = [entry.metrics.get(metric.name) for entry in entries]
    finite = [value for value in values if value is not None]
    if not finite:
        return None
    power = rows.exponent(metric, view.columns)
    places = words.decimals(value / 10**power for value in finite)
    ordered = sorted(finite, key=lambda value: words.badness(metric, value))
    best, worst = (words.badness(metric, end) for end in (ordered[0], ordered[-1]))
    found: dict[tuple[str, str], dict[Any, Any]] = {}
    for entry, value in zip(entries, values, strict=True):
        row = found.setdefault((entry.line, entry.split), {})
        row[(entry.name, entry.seed)] = value
        row[(entry.name, "any")] = value
        row["n"] = entry.n
    shown = {entry.name for entry in entries}
    columns = [column for column in view.columns if column.name in shown]

    def cell(row: dict[Any, Any], column: rows.Column) -> dict[str, str]:
        seed = "any" if column.seed is None else column.seed  # None: its seeds are all equal
        value = row.get((column.name, seed))
        if not words.is_number(value):
            return {"text": words.NOTHING, "background": "", "ink": ""}
        bad = words.badness(metric, value)
        background, ink = figures.cividis((worst - bad) / (worst - best) if worst > best else 0.5)
        return {
            "text": words.number(value / 10**power, places),
            "background": background,
            "ink": ink,
        }

    ends = [words.number(end / 10**power, places) for end in (ordered[-1], ordered[0])]
    return {
        "metric": metric,
        "unit": words.power(power),
        "columns": columns,
        "many_splits": len({split for _, split in found}) > 1,
        "rows": [
            {"line": line, "split": split, "n": row["n"], "cells": [cell(row, c) for c in columns]}
            for (line, split), row in sorted(found.items())
        ],
        "all": [
            words.number(words.scaled(rows.mean_of(column, metric.name), power), places)
            for column in columns
        ],
        "ends": ends,
    }


def _notes(
    view: VerdictView, plans: Mapping[str, Any], files: Sequence[RunFiles]
) -> list[tuple[str, str]]:
    """(about, message): the verdict's flags, then what does not fit together here."""
    notes = []
    for flag in view.verdict.flags:
        about = flag.name if flag.seed is None else f"{flag.name}, seed {flag.seed}"
        notes.append((about, flag.message))
    judged = set(view.verdict.splits)
    notes += [
        (str(name), "this split was judged, but its plan was not given to this page")
        for name in sorted(judged - set(plans))
    ]
    known = {(run.model, run.seed) for run in files}
    notes += [
        (model.title, "this model was judged, but its model directory was not given to this page")
        for model in view.models
        if model.seed is not None and (model.name, model.seed) not in known
    ]
    return notes
