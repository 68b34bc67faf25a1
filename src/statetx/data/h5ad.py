"""Look into h5ad files without loading them: labels, genes, scale, and whatever is wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from statetx import labels
from statetx.config import Dataset
from statetx.data.header import Header, column, columns, genes, header, opened
from statetx.data.matrix import Matrix, check_scale, check_values, evidence
from statetx.errors import DataError, did_you_mean

_EDGE = 4096
"""Elements at either end of a large HDF5 dataset that count in `identity`."""


def identity(path: str | Path, columns: Iterable[str | None]) -> str:
    """Return what a file is, without reading its cells: size + digest, and no modification time.

    The digest covers the name, type and shape of every HDF5 object, its attributes, the whole of
    the given obs columns and of var_names, and both ends of every other dataset.

    Parameters
    ----------
    path
        The h5ad.
    columns
        obs columns that matter (None is passed over); one that does not exist counts as absent.

    Raises
    ------
    DataError
        The file is missing or unreadable.
    """
    wanted = sorted(f"obs/{name}" for name in columns if name is not None)
    seen = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        seen.update(name.encode())
        for key in sorted(item.attrs):
            seen.update(f"{key}={item.attrs[key]!r}".encode())
        if not isinstance(item, h5py.Dataset):
            return
        seen.update(f"{item.dtype}{item.shape}{item.id.get_storage_size()}".encode())
        whole = name.startswith("var/") or any(name.split("/")[:2] == w.split("/") for w in wanted)
        if item.shape == () or whole or item.shape[0] <= 2 * _EDGE // max(1, item.size // max(1, item.shape[0])):
            parts = [item[()]]
        else:
            rows = max(1, _EDGE // max(1, item.size // max(1, item.shape[0])))
            parts = [item[:rows], item[-rows:]]
        for part in parts:
            seen.update(repr(part.tolist()).encode() if item.dtype.kind == "O" and item.shape else np.asarray(part).tobytes() if item.dtype.kind != "O" else repr(part).encode())

    with opened(path) as file:
        seen.update(repr([w in file for w in wanted]).encode())
        file.visititems(add)
    return f"{Path(path).stat().st_size}-{seen.hexdigest()[:16]}"


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
            check_values(matrix.rows(0, min(256, matrix.shape[0])), path, name, 0, known)
            check_scale(matrix, scale)


def check_together(headers: Sequence[Header], settings: Dataset) -> None:
    """Check what must agree between files: genes, matrices, controls.

    Raises
    ------
    DataError
        Genes differ or are ordered differently, a matrix differs in width or genes, no cell has
        the control label, or a line has no control cell.
    """
    first = headers[0]
    for other in headers[1:]:
        _same_genes(first, other, "var_names", first.genes, other.genes)
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
        codes = [i for i, name in enumerate(found.perturbation.names) if name in declared]
        control = np.isin(found.perturbation.codes, codes)
        per_line = np.bincount(found.line.codes[control], minlength=len(found.line.names))
        for name, n in zip(found.line.names, per_line, strict=True):
            cells[name] = cells.get(name, 0) + int(n)
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
            fix="bring all files to the same genes in the same order: adata[:, genes]",
        )
    at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    raise DataError(
        f"{what} are ordered differently than in {first.path}: number {at} is {b[at]!r} instead "
        f"of {a[at]!r}",
        where=other.path,
        fix="bring all files to the same order: adata[:, genes]",
    )
