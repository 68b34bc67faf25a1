"""Checks of input files beyond their headers: values, scale, and what must agree between files."""

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
    """Compare a sample of X, and of the expression matrix, with the declared scale.

    Raises
    ------
    DataError
        The values contradict the declaration, or are no expression at all.
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
    """Check what must agree between files: genes, matrices, controls.

    Raises
    ------
    DataError
        No gene is in all files. Genes differ (unless the settings say ``genes: intersect``; another order of var_names is
        aligned by name), a matrix differs in width or genes, no cell has the control label, or a
        line has no control cell.
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
            "no gene is in all files" if len(headers) > 1 else "the file holds no genes",
            where=", ".join(str(found.path) for found in headers[:3]),
            fix="name genes in the same way in all files (symbols or Ensembl ids)",
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
            fix="add their control cells, drop these lines, or list the spelling of their control "
            "label as an alias in `control_pert`",
        )


def _same_genes(first: Header, other: Header, what: str, a: list[str], b: list[str]) -> None:
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
            or "bring all files to the same genes: adata[:, genes]; or set `genes: intersect` of the "
            "data set to keep those that all files have"
            if what == "var_names"
            else "bring all files to the same genes in the same order",
        )
    at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    raise DataError(
        f"{what} are ordered differently than in {first.path}: number {at} is {b[at]!r} instead "
        f"of {a[at]!r}",
        where=other.path,
        fix="bring all files to the same order: adata[:, genes]",
    )


def refuse_repeat(path: Path, seen: dict[Path, Path]) -> None:
    """Note a file in `seen`; refuse it when it is there already, under whatever name."""
    place = Path(os.path.realpath(path))  # which, unlike `resolve`, takes links in a circle
    if place in seen:
        raise DataError(
            "the same file is listed twice, which would double its cells",
            where=f"{seen[place]} and {path}",
            fix="list every file once in `files`",
        )
    seen[place] = path
