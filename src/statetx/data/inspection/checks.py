"""Checks of input files beyond their headers: scale of the values, agreement between files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from statetx.config import Dataset
from statetx.core.errors import DataError, did_you_mean
from statetx.data.h5ad.gene_names import common_names
from statetx.data.h5ad.header import Header, genes, opened
from statetx.data.h5ad.matrix import Matrix, check_scale, note_decimals
from statetx.shared import labels
from statetx.shared.expression import refuse_impossible


def check_scales(path: Path, settings: Dataset) -> None:
    """Check that samples of X and of the expression matrix agree with the declared scale.

    Parameters
    ----------
    path
        The h5ad.
    settings
        Settings of the data set.

    Raises
    ------
    DataError
        The values contradict the declared scale, or cannot be expression.
    """
    with opened(path) as file:
        names = genes(file, path)
        chosen = [("X", settings.scale)]
        if settings.expression_key is not None:
            chosen.append((f"obsm/{settings.expression_key}", "log1p"))
        for name, scale in chosen:
            matrix = Matrix(file, name, path)
            known = names if name == "X" else [f"#{i}" for i in range(matrix.shape[1])]
            seen = check_scale(matrix, scale, known)
            note_decimals(seen, scale, name, path)
            if scale == "log1p":
                refuse_impossible(seen.largest, settings.target_sum, name, path)


def check_together(headers: Sequence[Header], settings: Dataset) -> None:
    """Check that files agree in genes and matrices, and that every line has control cells.

    Genes in another order are not an error: they are aligned by name.

    Parameters
    ----------
    headers
        Headers of the files of a data set.
    settings
        Settings of the data set.

    Raises
    ------
    DataError
        No gene is in all files; genes differ without ``genes: intersect``; a matrix differs in
        width or genes; no cell has the control label; or a line has no control cell.
    """
    first = headers[0]
    for other in headers[1:]:
        if settings.genes == "same":
            _same_genes(first, other, "var_names", sorted(first.genes), sorted(other.genes))
        if first.hvg is not None and other.hvg is not None:
            _same_genes(
                first, other, f"genes of obsm[{settings.expression_key!r}]", first.hvg, other.hvg
            )
        for key, width in first.widths.items():
            if other.widths[key] != width:
                raise DataError(
                    f"obsm[{key!r}] has {other.widths[key]} columns, but {width} in {first.path}",
                    where=other.path,
                    fix="use files made in the same way",
                )
    if not set(first.genes).intersection(*(found.genes for found in headers[1:])):
        raise DataError(
            "no gene is in all files" if len(headers) > 1 else "the file contains no genes",
            where=", ".join(str(found.path) for found in headers[:3]),
            fix="use the same kind of gene names in all files (symbols or Ensembl ids)",
        )
    declared = labels.controls(settings.control_pert)
    known = sorted({name for h in headers for name in h.perturbation.names})
    if not set(declared) & set(known):
        shown = " or ".join(repr(name) for name in declared)
        raise DataError(
            f"no cell has the control label {shown}",
            where=f"{first.path}{' and others' if len(headers) > 1 else ''}, "
            f"obs[{settings.pert_col!r}]",
            fix=f"{did_you_mean(declared[0], known)} Set `control_pert` of the data set",
        )
    cells: dict[str, int] = {}
    for found in headers:
        for name, n in found.controls.items():
            cells[name] = cells.get(name, 0) + n
    without = sorted(name for name, n in cells.items() if n == 0)
    if without:
        where = [str(h.path) for h in headers if without[0] in h.line.names]
        raise DataError(
            f"{len(without)} of {len(cells)} cell lines have no control cell: "
            f"{', '.join(repr(name) for name in without[:5])}",
            where=", ".join(where[:3]),
            fix="add their control cells, remove these lines, or list the spelling of their control "
            "label as an alias in `control_pert`",
        )


def _same_genes(first: Header, other: Header, what: str, a: list[str], b: list[str]) -> None:
    """Check that two files have equal lists of genes, `a` and `b`; `what` names the lists."""
    if a == b:
        return
    missing, extra = [n for n in a if n not in set(b)], [n for n in b if n not in set(a)]
    if missing or extra:
        parts = [
            f"{len(names)} {how} ({', '.join(repr(n) for n in names[:5])})"
            for names, how in ((missing, "missing"), (extra, "more"))
            if names
        ]
        raise DataError(
            f"{what} differ from those of {first.path}: {', '.join(parts)}",
            where=other.path,
            fix=common_names(other.path, b, first.path, a)
            or "select the same genes in all files: adata[:, genes]; or set `genes: intersect` of the "
            "data set to keep the genes that all files have"
            if what == "var_names"
            else "use the same genes in the same order in all files",
        )
    at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    raise DataError(
        f"{what} are ordered differently than in {first.path}: number {at} is {b[at]!r} instead "
        f"of {a[at]!r}",
        where=other.path,
        fix="use the same order of genes in all files: adata[:, genes]",
    )


def refuse_repeat(path: Path, seen: dict[Path, Path]) -> None:
    """Check that a file is not in `seen`, under this or another name, and add it.

    Parameters
    ----------
    path
        The file.
    seen
        Given path of each file so far, by its real path; changed in place.

    Raises
    ------
    DataError
        The file is listed twice.
    """
    place = Path(os.path.realpath(path))  # `resolve` raises an error for circular links
    if place in seen:
        raise DataError(
            "the same file is listed twice, which would double its cells",
            where=f"{seen[place]} and {path}",
            fix="list every file once in `files`",
        )
    seen[place] = path
