"""The verdict in a terminal or in a log: the same sentences and numbers as on the page."""

from __future__ import annotations

import sys
from itertools import compress
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from statetx.evaluation.verdict.contract import Flag
from statetx.reporting import numbers as words
from statetx.reporting.verdict_view import VerdictView, read

_TONES = {"BETTER": "bold blue", "WORSE": "bold red", "SAME": "bold", "UNDECIDED": "bold yellow"}
_ASCII = str.maketrans(
    {words.MINUS: "-", words.NOTHING: "-", "↑": "^", "↓": "v", "▲": "+", "▼": "-", "×": "x"}
    | dict(zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True))
)
LEFT_TO_THE_PAGE = ("mean_response", "interpolated_duplicate")
"""Columns without which the table fits a terminal."""
LOG_WIDTH = 100
"""Line width when output is not a terminal. Tables are never wrapped there."""


def print_verdict(verdict: Path, file: TextIO | None = None) -> None:
    """Print the verdict: one sentence per trained model, the table, how it was measured.

    Colours on a terminal, plain text elsewhere; ASCII where the encoding knows no more.

    Parameters
    ----------
    verdict
        verdict.json.
    file
        Where to; standard output by default.

    Raises
    ------
    ResultsError
        The verdict is missing, unreadable or of another format.
    """
    view = read(Path(verdict))
    out = file or sys.stdout
    console = Console(file=out, highlight=False)
    grid = _table(view)
    needed = Console(file=out, width=10_000).measure(grid).maximum
    if console.is_terminal:
        grid = _table(view, narrow=needed > console.width)
    else:
        console = Console(file=out, highlight=False, width=max(LOG_WIDTH, needed))
    with console.capture() as captured:
        console.print(Group(_head(view), grid, _foot(view)))
    text = "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
    encoding = getattr(out, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    out.write(text)
    out.flush()


def _head(view: VerdictView) -> Group:
    parts = [Text()]
    for item in view.sentences:
        before, _, after = item.text.partition(item.call)
        line = Text(f"{item.glyph} ", style=_TONES[item.call])
        line.append(before, style="default")
        line.append(item.call if after else "", style=_TONES[item.call])
        line.append(after, style="default")
        parts.append(line)
    if not view.sentences:
        parts.append(Text("No trained model was judged: this experiment compares baselines only."))
    return Group(*parts)


def _table(view: VerdictView, narrow: bool = False) -> Table:
    shown = [column.role not in LEFT_TO_THE_PAGE for column in view.columns]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0))
    grid.add_column(Text("metric"))
    for column in compress(view.columns, shown):
        title = f"{column.name}\n{column.note}" if column.note else column.name
        trained = column.role == "model"
        grid.add_column(Text(title), justify="right", style="bold" if trained else "")
    one = len(view.models) == 1
    for model in view.models:
        title = "scaled" if one else f"scaled\n{model.name}" + (model.note and f"\n{model.note}")
        grid.add_column(Text(title), justify="right")
    if one:
        grid.add_column(Text("call"))
    for row in view.rows:
        name = f"{row.label}\N{NO-BREAK SPACE}{row.arrow}" + (f" in {row.unit}" if row.unit else "")
        texts = [Text(name + (" (no range)" if row.grey else ""))]
        for cell in compress(row.cells, shown):
            mark = "*" if cell.best else " "
            between = cell.interval if cell.role == "model" else ""
            texts.append(
                Text(f"{cell.text} {mark}\n{between}" if narrow and between
                     else f"{cell.text} {between} {mark}" if between else f"{cell.text} {mark}")
            )  # fmt: skip
        calls = {
            c.title: c.comparison.call
            for c in view.comparisons
            if c.comparison.metric == row.metric.name
        }
        for model, scaled in zip(view.models, row.scaled, strict=True):
            call = calls.get(model.title, "")
            glyph, tone = words.GLYPHS.get(call, " "), _TONES.get(call, "")
            if one:
                texts += [Text(scaled), Text(f"{glyph} {call}".strip(), style=tone)]
            else:
                texts.append(Text.assemble(scaled, " ", (glyph, tone)))
        grid.add_row(*texts, style="dim" if row.grey else None)
    return grid


def _foot(view: VerdictView) -> Group:
    cohort, interval = view.verdict.cohort, view.verdict.interval
    scored = words.count(cohort.n_conditions, "condition")
    lines = words.count(cohort.n_lines, "cell line")
    dropped = words.count(len(view.dropped), "condition")
    texts = [
        "* best value apart from the ceiling; scaled: 0 = best baseline, 1 = ceiling"
        + ("" if len(view.models) < 2 else "; ▲ better, ▼ worse, = same, ? undecided"),
        f"{scored} in {lines}, {dropped} dropped for every model",
    ]
    partly = sum(bool(row.left_out) for row in view.rows)
    if partly:
        texts.append(f"{words.count(partly, 'metric')} left out some conditions: see the page")
    if interval.unit:
        level = words.percent(interval.level)
        texts.append(f"intervals: {level}, bootstrap over {interval.unit}")
    else:
        texts.append(f"no intervals: {interval.reason or 'the verdict does not say why'}")
    texts += [f"flag: {_whose(flag)}: {flag.message}" for flag in view.verdict.flags]
    return Group(*(Text(text, style="dim") for text in texts))


def _whose(flag: Flag) -> str:
    return flag.name if flag.seed is None else f"{flag.name}, seed {flag.seed}"
