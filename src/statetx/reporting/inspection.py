"""What `statetx inspect` prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from statetx.data.h5ad import FileReport, Report


def print_inspection(report: Report, console: Console | None = None) -> None:
    """Print one table per file, then every problem with its fix.

    Parameters
    ----------
    report
        From `statetx.data.h5ad.inspect`.
    console
        Where to print; standard output by default.
    """
    console = console or Console(highlight=False)
    for found in report.files:
        table = Table(show_header=False, title=str(found.path), title_justify="left", box=None)
        for name, value in _facts(found):
            table.add_row(name, value)
        console.print(table)
        console.print()
    for problem in report.problems:
        console.print(f"problem: {problem}\n", markup=False)
    if not report.problems:
        console.print("no problems found")


def _facts(found: FileReport) -> list[tuple[str, str]]:
    facts = [
        ("size", f"{found.bytes / 1e6:,.1f} MB"),
        ("X", f"{found.n_cells:,} cells x {found.n_genes:,} genes, {found.layout} {found.dtype}"),
        ("zeros", f"{100 * found.zeros:.1f} % of a sample of cells"),
        ("scale", f"looks like {found.looks_like} (largest value {found.largest:g})"),
        ("obs", _counted(found.obs, "labels")),
        ("obsm", _counted(found.obsm, "columns")),
        ("cell lines", _counted(found.lines, "cells")),
        ("perturbations", _counted(found.perturbations, "cells")),
        ("batches", _counted(found.batches, "cells")),
        ("controls", _counted(found.controls, "cells")),
    ]
    return [(name, value) for name, value in facts if value]


def _counted(counts: Mapping[str, int], unit: str, most: int = 8) -> str:
    shown = ", ".join(f"{name} ({n:,})" for name, n in list(counts.items())[:most])
    more = f", … {len(counts) - most} more" if len(counts) > most else ""
    return f"{shown}{more} {unit}" if counts else ""
