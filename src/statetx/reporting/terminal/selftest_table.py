"""The checks of `statetx.evaluation.selftest` as a table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import RenderableType
from rich.table import Table

from statetx.evaluation.selftest import Check
from statetx.reporting.terminal.terminal import item, write


def print_checks(checks: Sequence[Check], out: TextIO, every: bool = False) -> None:
    """Print what failed, or with `every` all checks, and the count.

    Parameters
    ----------
    checks
        What `selftest` returned.
    out
        Where to print.
    every
        Whether to list the checks that pass.
    """
    shown = [check for check in checks if every or not check.passed]
    parts: list[RenderableType] = []
    if shown:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("column", "planted prediction", "must be", "is", ""):
            table.add_column(name, overflow="fold", justify="right" if name == "is" else "left")
        for check in shown:
            mark = "ok" if check.passed else "WRONG"
            row = (check.column, check.prediction, check.expected, f"{check.value:.3g}", mark)
            table.add_row(*row, style=None if check.passed else "bold red")
        parts.append(table)
    wrong = sum(not check.passed for check in checks)
    columns = len({check.column for check in checks})
    told = f"{len(checks)} checks of {columns} columns: "
    parts.append(item(told + (f"{wrong} WRONG" if wrong else "all as planted")))
    write(parts, out)
