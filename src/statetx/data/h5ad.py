"""Look into h5ad files without loading them: labels, genes, scale, and whatever is wrong.

Kept apart from what `pack` runs on, so that a better report repacks, and hence retrains, nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from statetx import labels
from statetx.config import Dataset
from statetx.data.checks import (
    check_all_values,
    check_scales,
    check_together,
    check_x,
    controls_per_line,
)
from statetx.data.header import Header, column, columns, header, identity, opened
from statetx.data.matrix import Matrix, evidence
from statetx.errors import DataError

__all__ = ["FileReport", "Report", "cell_lines", "identity", "inspect"]


def cell_lines(paths: Sequence[str | Path], cell_type_key: str) -> list[str]:
    """Return the sorted cell lines that occur in the files; reads one obs column of each.

    Raises
    ------
    DataError
        Unreadable file, no such column, or cells without a label.
    """
    found: set[str] = set()
    for path in paths:
        with opened(path) as file:
            found |= set(column(file, Path(path), cell_type_key, "cell_type_key").names)
    return sorted(found)


@dataclass
class FileReport:
    """What a file holds.

    Attributes
    ----------
    path, bytes
        The file and its size.
    n_cells, n_genes
        Rows and columns of X.
    layout, dtype
        Of X: csr, csc or dense; type of its values.
    zeros, largest, integral, looks_like
        Evidence from a sample of rows: share of zeros, largest value, whether all values are
        whole numbers, and the scale that this suggests.
    obs
        Number of labels of each text column of obs.
    obsm
        Width of each obsm matrix.
    uns
        Keys of uns.
    perturbations, lines, batches
        Cells per label, where the columns are known.
    controls
        Control cells per line, where they are known.
    """

    path: Path
    bytes: int
    n_cells: int = 0
    n_genes: int = 0
    layout: str = ""
    dtype: str = ""
    zeros: float = float("nan")
    largest: float = float("nan")
    integral: bool = False
    looks_like: str = ""
    obs: dict[str, int] = field(default_factory=dict)
    obsm: dict[str, int] = field(default_factory=dict)
    uns: list[str] = field(default_factory=list)
    perturbations: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    controls: dict[str, int] = field(default_factory=dict)


@dataclass
class Report:
    """What `inspect` found: one entry per readable file, and every problem."""

    files: list[FileReport] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)


def inspect(
    paths: Sequence[str | Path], settings: Dataset | None = None, full: bool = True
) -> Report:
    """Describe files and collect everything that would stop `pack`.

    Parameters
    ----------
    paths
        h5ad files of one data set.
    settings
        What their columns mean; None: only describe.
    full
        Check every value of X and of the declared matrices (in chunks, in bounded memory), not
        only a sample.
    """
    report = Report()

    def attempt(step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except DataError as error:
            if str(error) not in {str(known) for known in report.problems}:
                report.problems.append(error)
        return None

    headers = []
    for path in map(Path, paths):
        found = attempt(_describe, path)
        if found is None:
            continue
        report.files.append(found)
        if settings is None:
            if full:
                attempt(check_x, path)
            continue
        head = attempt(header, path, settings)
        if head is not None:
            headers.append(head)
            _label(found, head, labels.controls(settings.control_pert))
            attempt(check_scales, path, settings)
            if full:
                attempt(check_all_values, head, settings)
    if settings is not None and headers:
        attempt(check_together, headers, settings)
    return report


def _describe(path: Path) -> FileReport:
    with opened(path) as file:
        report = FileReport(path, path.stat().st_size)
        x = Matrix(file, "X", path)
        seen = evidence(x)
        report.n_cells, report.n_genes = x.shape
        report.layout, report.dtype = x.layout, str(x.dtype)
        report.zeros, report.largest = seen.zeros, seen.largest
        report.integral, report.looks_like = seen.integral, seen.scale
        for name in columns(file):
            item = file["obs"][name]
            if isinstance(item, h5py.Group) and "categories" in item:
                report.obs[name] = int(item["categories"].shape[0])
            elif isinstance(item, h5py.Group) or h5py.check_string_dtype(item.dtype) is not None:
                report.obs[name] = len(column(file, path, name).names)
        for name in file.get("obsm", {}):
            report.obsm[name] = Matrix(file, f"obsm/{name}", path).shape[1]
        report.uns = sorted(file.get("uns", {}))
    return report


def _label(report: FileReport, head: Header, declared: list[str]) -> None:
    report.perturbations = head.perturbation.counts()
    report.lines = head.line.counts()
    report.batches = head.batch.counts()
    report.controls = controls_per_line(head, declared)
