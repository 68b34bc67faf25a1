"""Report on h5ad files without loading them: labels, genes, scale, problems.

Packing does not import this module, so a change of the report repacks and retrains nothing.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from statetx.config import Dataset
from statetx.core.errors import DataError, ResultsError, StatetxError, did_you_mean
from statetx.data.h5ad.gene_names import common_names
from statetx.data.h5ad.header import Column, Header, barcodes, column, header, opened
from statetx.data.h5ad.identity import identity
from statetx.data.h5ad.matrix import Matrix, check_scale, check_values
from statetx.data.h5ad.obs_columns import pieces
from statetx.data.inspection.checks import check_together, refuse_repeat
from statetx.data.inspection.describe import FileReport, ObsColumn, describe, gene_names
from statetx.data.inspection.design import Columns, Design, tally
from statetx.data.inspection.disk_and_memory import (
    FileSize,
    PackNeed,
    TrainingNeed,
    pack_memory_bytes,
    pack_need,
    training_bytes,
)
from statetx.data.inspection.scale import check_every_value
from statetx.shared import labels

__all__ = ["Needs", "Report", "cell_lines", "identity", "inspect"]

ALL = "all cells"
"""Label of all cells for a column that was not given."""


def cell_lines(paths: Sequence[str | Path], cell_type_key: str) -> list[str]:
    """Return the sorted cell lines of the files, from one obs column of each.

    Parameters
    ----------
    paths
        h5ad files.
    cell_type_key
        Column of obs with the cell line.

    Raises
    ------
    DataError
        A file is unreadable, does not have the column, or has cells without a label.
    """
    lines: set[str] = set()
    for path in paths:
        with opened(path) as file:
            lines |= set(column(file, Path(path), cell_type_key, "cell_type_key").names)
    return sorted(lines)


@dataclass(frozen=True)
class Needs:
    """Disk space and memory that packing and training would take.

    Attributes
    ----------
    pack
        Disk space of packing.
    free
        Bytes free on the disk of the results.
    place
        Existing directory on that disk.
    memory
        Bytes of memory for packing.
    cells
        Number of cells.
    training
        Memory of training.
    """

    pack: PackNeed
    free: int
    place: Path
    memory: int
    cells: int
    training: TrainingNeed


@dataclass
class Report:
    """Result of `inspect`.

    Attributes
    ----------
    full
        Whether every value was checked. False: only a sample of rows.
    declared
        Settings of columns and scale.
    files
        One entry per readable file.
    design
        Cells by line, perturbation and batch, if a column of them is known, or None.
    needs
        Disk space and memory of packing and training; None without a readable file.
    problems
        All errors that would stop `pack`.
    """

    full: bool
    declared: Dataset | Columns
    files: list[FileReport] = field(default_factory=list)
    design: Design | None = None
    needs: Needs | None = None
    problems: list[StatetxError] = field(default_factory=list)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Add an error of the block to `problems`, unless it is listed already, and go on."""
        try:
            yield
        except StatetxError as error:
            if str(error) not in {str(known) for known in self.problems}:
                self.problems.append(error)


def inspect(
    paths: Sequence[str | Path],
    settings: Dataset | Columns | None = None,
    full: bool = True,
    place: str | Path = ".",
) -> Report:
    """Describe files and collect all errors that would stop `pack`.

    Parameters
    ----------
    paths
        h5ad files of one data set.
    settings
        A data set of a configuration, or the settings that are known.
    full
        Check every value of X and of the declared matrices, in bounded memory. False: check a
        sample of rows.
    place
        Directory of the results, which need not exist.
    """
    declared = settings or Columns()
    report = Report(full, declared)
    headers: list[Header] = []
    tallies = []
    for path in _once(list(map(Path, paths)), report):
        found, head = None, None
        with report.noting():
            found = describe(path)
            report.files.append(found)
        if found is None:
            continue
        with report.noting():
            found.genes = gene_names(path)
        with report.noting():
            if isinstance(declared, Dataset):
                head = header(path, declared)
            else:
                head = _partial_header(found, declared)
        if head is not None:
            tallies.append(tally(head))
            _name_labels(found, head, declared)
            head = head.without_cells()
            headers.append(head)
        if head is not None or not isinstance(declared, Dataset):
            _check_matrices(report, found, head)
    if tallies and (declared.pert_col or declared.cell_type_key):
        report.design = Design(tallies, labels.controls(declared.control_pert))
    with report.noting():
        if isinstance(declared, Dataset):
            if headers:
                check_together(headers, declared)
        else:
            _check_labels(report, declared)
    if not isinstance(declared, Dataset):
        _check_genes(report)
    if report.files:
        _weigh(report, Path(place))
    return report


def _once(paths: list[Path], report: Report) -> Iterator[Path]:
    """Yield each file once; repeats become problems of the report."""
    seen: dict[Path, Path] = {}
    for path in paths:
        with report.noting():
            refuse_repeat(path, seen)
    yield from seen.values()


def _partial_header(found: FileReport, declared: Columns) -> Header | None:
    """Read the given columns; all cells have the label `ALL` in other columns. None without any."""
    if not (declared.pert_col or declared.cell_type_key or declared.batch_col):
        return None
    nothing = Column(np.zeros(found.n_cells, dtype=np.int32), [ALL])
    with opened(found.path) as file:
        perturbation, line, batch = (
            nothing if name is None else column(file, found.path, name, f"--{option}")
            for name, option in (
                (declared.pert_col, "pert-col"),
                (declared.cell_type_key, "cell-type-key"),
                (declared.batch_col, "batch-col"),
            )
        )
    return Header(found.path, found.n_cells, found.genes, perturbation, line, batch)


def _name_labels(found: FileReport, head: Header, declared: Dataset | Columns) -> None:
    """Replace the sampled labels of the declared columns by the exact ones."""
    for name, exact in (
        (declared.pert_col, head.perturbation),
        (declared.cell_type_key, head.line),
        (declared.batch_col, head.batch),
    ):
        if name is not None:
            counts = exact.counts()
            names = tuple(sorted(counts, key=lambda label: -counts[label]))
            found.obs[name] = replace(
                found.obs.get(name, ObsColumn("labels")),
                n_labels=len(names),
                complete=True,
                names=names,
            )


def _check_matrices(report: Report, found: FileReport, head: Header | None) -> None:
    """Check values and scale of X and of the declared obsm matrices, in a sample or in full."""
    declared = report.declared
    expression = declared.expression_key if isinstance(declared, Dataset) else None
    widths = {} if head is None else head.widths
    with report.noting(), opened(found.path) as file:
        if report.full:
            with report.noting():
                for rows in pieces(found.n_cells):
                    barcodes(file, found.path, rows)
        for name in ["X", *(f"obsm/{key}" for key in widths)]:
            is_x = name == "X"
            known, scale = found.genes or None, declared.scale
            if not is_x:
                is_expression = name == f"obsm/{expression}"
                known = head.hvg if is_expression and head is not None else None
                scale = "log1p" if is_expression else None
            with report.noting():
                matrix = Matrix(file, name, found.path)
                _check_sample(matrix, scale, known, found)
                if report.full:
                    seen = check_every_value(matrix, known, scale, found.seen if is_x else None)
                    found.seen = found.seen if seen is None else seen


def _check_sample(
    matrix: Matrix, scale: str | None, known: list[str] | None, found: FileReport
) -> None:
    """Check the values of a sample, and the scale of expression."""
    if matrix.name != "X" and known is None:
        for first_row, part in matrix.sample():
            check_values(part, matrix.path, matrix.name, first_row, None)
        return
    names = known if matrix.name == "X" and known else [f"#{i}" for i in range(matrix.shape[1])]
    check_scale(matrix, scale or found.looks_like, names)


def _check_labels(report: Report, declared: Columns) -> None:
    """Check that the given control label and columns give every line control cells."""
    if report.design is None or declared.pert_col is None or not declared.control_pert:
        return
    shown = " or ".join(repr(name) for name in declared.control_pert)
    known = sorted(set(report.design.table["perturbation"]))
    if not set(declared.control_pert) & set(known):
        raise DataError(
            f"no cell has the control label {shown}",
            where=f"{report.files[0].path}, obs[{declared.pert_col!r}]",
            fix=f"{did_you_mean(declared.control_pert[0], known)} Set it with --control-pert",
        )
    lines = report.design.lines()
    without = lines.index[lines["controls"] == 0].tolist()
    if without and declared.cell_type_key is not None:
        raise DataError(
            f"{len(without)} of {len(lines)} cell lines have no control cell: "
            f"{', '.join(repr(name) for name in without[:5])}",
            where=f"obs[{declared.cell_type_key!r}]",
            fix="add their control cells, remove these lines, or give the spelling of their control "
            "label with another --control-pert",
        )


def _check_genes(report: Report) -> None:
    """Check that all files have the genes of the first one."""
    named = [found for found in report.files if found.genes]
    for other in named[1:]:
        missing, extra = gene_difference(named[0], other)
        if missing or extra:
            with report.noting():
                raise DataError(
                    f"the genes differ from those of {named[0].path}: {len(missing)} missing, "
                    f"{len(extra)} more",
                    where=other.path,
                    fix=common_names(other.path, other.genes, named[0].path, named[0].genes)
                    or "select the same genes in all files: adata[:, genes]; or set "
                    "`genes: intersect` of the data set to keep the genes that all files have",
                )


def gene_difference(first: FileReport, other: FileReport) -> tuple[list[str], list[str]]:
    """Return the genes that only `first` has, and those that only `other` has."""
    known, others = set(first.genes), set(other.genes)
    missing = [name for name in first.genes if name not in others]
    return missing, [name for name in other.genes if name not in known]


def _weigh(report: Report, place: Path) -> None:
    """Estimate disk space and memory; too little disk space becomes a problem of the report."""
    declared, sizes, width = report.declared, [], report.files[0].n_genes
    for found in report.files:
        widths = {}
        if isinstance(declared, Dataset):
            for key in dict.fromkeys([declared.expression_key, *declared.embed_keys]):
                if key is not None and key in found.obsm:
                    widths[key] = found.obsm[key][0]
            width = widths.get(declared.expression_key or "", width)
        sizes.append(
            FileSize(
                n_cells=found.n_cells,
                nonzeros=found.nonzeros,
                n_genes=found.n_genes,
                largest_count=found.seen.largest_count,
                widths=widths,
                csc_value_bytes=np.dtype(found.dtype).itemsize if found.layout == "csc" else None,
            )
        )
    need = pack_need(sizes, declared)
    directory = next(path for path in (place, *place.absolute().parents) if path.exists())
    most = max(found.n_cells for found in report.files)
    if report.design is not None and declared.cell_type_key is not None:
        most = max([most, *map(int, report.design.lines()["cells"])])
    report.needs = Needs(
        pack=need,
        free=shutil.disk_usage(directory).free,
        place=directory,
        memory=pack_memory_bytes(most),
        cells=sum(found.n_cells for found in report.files),
        training=training_bytes(need.store, width),
    )
    if need.parts + need.store > report.needs.free:
        with report.noting():
            raise ResultsError(
                f"packing needs {(need.parts + need.store) / 1e9:,.3g} GB of disk, but only "
                f"{report.needs.free / 1e9:,.3g} GB are free",
                where=directory.absolute(),
                fix="free disk space, or run in a directory on another disk",
            )
