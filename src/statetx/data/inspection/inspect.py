"""Look into h5ad files without loading them: labels, genes, scale, and whatever is wrong.

Kept apart from what `pack` runs on, so that a better report repacks, and hence retrains, nothing.
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
from statetx.data.inspection.estimate import (
    PackNeed,
    TrainingNeed,
    pack_bytes,
    pack_memory_bytes,
    training_bytes,
    value_bytes,
)
from statetx.data.inspection.scale import check_every_value
from statetx.shared import labels

__all__ = ["Needs", "Report", "cell_lines", "identity", "inspect"]

ALL = "all cells"
"""Stands for the labels of a column that nobody named."""


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


@dataclass(frozen=True)
class Needs:
    """What packing and training would take.

    Attributes
    ----------
    pack
        Bytes on disk.
    free, place
        Bytes free where results go, and where that is.
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
    """What `inspect` found.

    Attributes
    ----------
    full
        Whether every value was checked, or a sample of rows.
    declared
        What was said about columns and scale.
    files
        One entry per readable file.
    design
        Who was treated with what, as far as the columns are known, or None.
    needs
        What packing and training would take; None without a readable file.
    problems
        Everything that would stop `pack`.
    """

    full: bool
    declared: Dataset | Columns
    files: list[FileReport] = field(default_factory=list)
    design: Design | None = None
    needs: Needs | None = None
    problems: list[StatetxError] = field(default_factory=list)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note an error that ends the block, once."""
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
    """Describe files and collect everything that would stop `pack`.

    Parameters
    ----------
    paths
        h5ad files of one data set.
    settings
        What their columns mean: a data set of a configuration, or as much as is known.
    full
        Check every value of X and of the declared matrices (in chunks, in bounded memory), not
        only a sample of rows.
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
    seen: dict[Path, Path] = {}
    for path in paths:
        with report.noting():
            refuse_repeat(path, seen)
    yield from seen.values()


def _partial_header(found: FileReport, declared: Columns) -> Header | None:
    """Read the columns that somebody named; the others say the same of all cells."""
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
    """Put the exact labels of the declared columns in place of those of a sample."""
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
    """Check values and scale of X and of the declared obsm matrices: a sample, or all."""
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
    if matrix.name != "X" and known is None:
        for first_row, part in matrix.sample():
            check_values(part, matrix.path, matrix.name, first_row, None)
        return
    names = known if matrix.name == "X" and known else [f"#{i}" for i in range(matrix.shape[1])]
    check_scale(matrix, scale or found.looks_like, names)


def _check_labels(report: Report, declared: Columns) -> None:
    """Without a whole declaration: are there controls, as far as the columns say."""
    if report.design is None or declared.pert_col is None or not declared.control_pert:
        return
    shown = " or ".join(repr(name) for name in declared.control_pert)
    known = sorted(set(report.design.table["perturbation"]))
    if not set(declared.control_pert) & set(known):
        raise DataError(
            f"no cell has the control label {shown}",
            where=f"{report.files[0].path}, obs[{declared.pert_col!r}]",
            fix=f"{did_you_mean(declared.control_pert[0], known)} Give it with --control-pert",
        )
    lines = report.design.lines()
    without = lines.index[lines["controls"] == 0].tolist()
    if without and declared.cell_type_key is not None:
        raise DataError(
            f"{len(without)} of {len(lines)} cell lines have no control cell: "
            f"{', '.join(repr(name) for name in without[:5])}",
            where=f"obs[{declared.cell_type_key!r}]",
            fix="add their control cells, drop these lines, or give the spelling of their control "
            "label with a further --control-pert",
        )


def _check_genes(report: Report) -> None:
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
                    or "bring all files to the same genes: adata[:, genes]; or set "
                    "`genes: intersect` of the data set to keep those that all files have",
                )


def gene_difference(first: FileReport, other: FileReport) -> tuple[list[str], list[str]]:
    """Return the genes of `first` that `other` lacks, and those that it has besides."""
    here, there = set(first.genes), set(other.genes)
    missing = [name for name in first.genes if name not in there]
    return missing, [name for name in other.genes if name not in here]


def _weigh(report: Report, place: Path) -> None:
    """Estimate disk and memory, and note when the disk has not enough room."""
    declared, parts, store, width = report.declared, 0, 0, report.files[0].n_genes
    for found in report.files:
        dense = {}
        if isinstance(declared, Dataset):
            for key in dict.fromkeys([declared.expression_key, *declared.embed_keys]):
                if key is None or key not in found.obsm:
                    continue
                narrow = declared.embed_dtype == "float16" and key != declared.expression_key
                dense[key] = found.obsm[key][0] * (2 if narrow else 4)
                width = found.obsm[key][0] if key == declared.expression_key else width
        need = pack_bytes(
            found.n_cells,
            found.nonzeros,
            found.n_genes,
            value_bytes(found.seen.largest_count),
            dense,
        )
        parts, store = parts + need.parts, store + need.store
    here = next(path for path in (place, *place.absolute().parents) if path.exists())
    most = max(found.n_cells for found in report.files)
    if report.design is not None and declared.cell_type_key is not None:
        most = max([most, *map(int, report.design.lines()["cells"])])
    report.needs = Needs(
        pack=PackNeed(parts, store),
        free=shutil.disk_usage(here).free,
        place=here,
        memory=pack_memory_bytes(most),
        cells=sum(found.n_cells for found in report.files),
        training=training_bytes(store, width),
    )
    if parts + store > report.needs.free:
        with report.noting():
            raise ResultsError(
                f"packing needs {(parts + store) / 1e9:,.3g} GB of disk, but only "
                f"{report.needs.free / 1e9:,.3g} GB are free",
                where=here.absolute(),
                fix="free disk space, or run in a directory on another disk",
            )
