"""Text and tables for a terminal that never cut a label: long ones are folded, long lists counted."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDTH = 100
"""Columns of text: more are harder to read, and logs have no more."""
_LIST_WIDTH = 64
"""Characters of a list of labels before its tail becomes a number."""
_TAIL_WIDTH = 16
"""Characters of ``… and 1,130 more``: a list that is longer by less is written out."""
_GLUE = "\N{WORD JOINER}"
_ASCII = str.maketrans({"…": "...", "×": "x", "≥": ">=", "–": "-"})


def write(parts: Sequence[RenderableType], out: TextIO) -> None:
    """Print: colours on a terminal, plain text elsewhere; ASCII where the encoding knows no more."""
    console = Console(file=out, highlight=False)
    width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    console = Console(file=out, highlight=False, width=width)
    with console.capture() as captured:
        console.print(Group(*parts))
    text = "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
    encoding = getattr(out, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    out.write(text)
    out.flush()


def title(text: str) -> RenderableType:
    """Return a heading with a blank line above."""
    return Padding(Text(text, style="bold", overflow="fold"), (1, 0, 0, 0))


def item(text: str, style: str = "") -> RenderableType:
    """Return a paragraph, its further lines indented."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    grid.add_row(Text("-"), Text(text, style=style))
    return Padding(grid, (0, 0, 0, 2))


def command(parts: Sequence[str]) -> RenderableType:
    """Return a command to copy, indented: its parts, not torn, on lines joined as a shell wants."""
    joined = " ".join(part.replace(" ", _GLUE) for part in parts)
    lines = textwrap.wrap(joined, WIDTH - 12, break_long_words=False, break_on_hyphens=False)
    text = " \\\n  ".join(lines).replace(_GLUE, " ")
    return Padding(Text(text, overflow="fold"), (0, 0, 0, 4))


def facts(rows: Sequence[tuple[str, str]], indent: int = 2) -> RenderableType:
    """Return names and what is so called; an equal name is not repeated."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    last = ""
    for name, value in rows:
        grid.add_row(Text("" if name == last else name), Text(value))
        last = name
    return Padding(grid, (0, 0, 0, indent))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """Return a table.

    Parameters
    ----------
    columns
        Headings; one that ends in ``>`` is a column of numbers.
    rows
        Their texts.
    """
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        numbers = name.endswith(">")
        grid.add_column(
            Text(name.removesuffix(">")),
            justify="right" if numbers else "left",
            no_wrap=numbers,
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*(Text(text) for text in row))
    return Padding(grid, (0, 0, 0, 2))


def cut(rows: Sequence[Sequence[str]], most: int, what: str) -> tuple[Sequence[Sequence[str]], str]:
    """Return the first rows, and a line that says how many more there are (or nothing)."""
    return rows[:most], f"    … and {len(rows) - most:,} more {what}" if len(rows) > most else ""


def some(
    names: Sequence[str],
    total: int | None = None,
    shown: Callable[[str], str] = repr,
    width: int = _LIST_WIDTH,
) -> str:
    """List names whole until the line is full, and say how many more there are.

    Parameters
    ----------
    names
        What is listed; the first always is.
    total
        Number of names, when `names` are not all.
    shown
        How a name is written: in quotes, so that blanks at its ends show.
    width
        Characters.
    """
    total = max(len(names), total or 0)
    whole = ", ".join(map(shown, names[:width]))
    if len(names) == total and len(names) <= width and len(whole) <= width + _TAIL_WIDTH:
        return whole
    out: list[str] = []
    length = 0
    for name in names:
        text = shown(name)
        if out and length + len(text) > width:
            break
        out.append(text)
        length += len(text) + 2
    more = total - len(out)
    return ", ".join(out) + (f", … and {more:,} more" if more and out else "")


def number(value: float) -> str:
    """Format a value of a matrix: whole numbers in full, others with four or five digits."""
    if value == round(value) or abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{float(f'{value:.5g}'):,}" if abs(value) >= 1000 else f"{value:.4g}"
