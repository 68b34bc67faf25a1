"""Layout of a matrix of an h5ad (dense, CSR or CSC), in current and older encodings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from statetx.core.errors import DataError
from statetx.data.h5ad.numbers import native
from statetx.data.h5ad.obs_columns import n_rows
from statetx.data.h5ad.open_h5ad import attribute, child, has, in_memory, members

_DAMAGED = "copy or write the file again"


def layout_of(file: h5py.File, name: str, path: Path) -> tuple[Any, str, tuple[int, int], np.dtype]:
    """Return a matrix, its layout (``csr``, ``csc`` or ``dense``), shape and type of values.

    The type is in the byte order of the machine, for a file of either byte order.

    Parameters
    ----------
    file, path
        The open file and its path.
    name
        Name of the matrix in the file.

    Raises
    ------
    DataError
        The matrix is missing, does not hold numbers, or has arrays that do not fit together.
    """
    if not has(file, name):
        raise _absent(file, name, path)
    item = child(file, name, path)
    if isinstance(item, h5py.Dataset):
        if item.shape is None:
            raise _absent(file, name, path)
        if item.ndim != 2:
            raise DataError(
                f"{name!r} has {item.ndim} dimensions instead of 2",
                where=path,
                fix="store one row per cell, one column per feature",
            )
        layout, shape, values = "dense", item.shape, item
    else:
        layout, shape = _compressed(file, item, name, path)
        _refuse_damaged(item, layout, shape, name, path)
        values = item["data"]
    kind = values.dtype
    if kind.kind not in "biuf" or h5py.check_enum_dtype(kind) is not None:
        what = "complex numbers" if kind.kind == "c" else f"values of type {kind}"
        raise DataError(f"{name!r} holds {what}", where=path, fix="store real numbers")
    return item, layout, (int(shape[0]), int(shape[1])), kind.newbyteorder("=")


def _absent(file: h5py.File, name: str, path: Path) -> DataError:
    """Return the error for a missing matrix, with other places that hold expression."""
    layers = members(file, "layers", path)
    if name != "X" or not (layers or has(file, "raw/X")):
        return DataError(
            f"there is no {name!r}" if name != "X" else "X is empty: the file holds no expression",
            where=path,
            fix="write the file with the expression of the cells: adata.X",
        )
    held = [f"layers {', '.join(map(repr, layers))}"] if layers else []
    held += ["raw"] if has(file, "raw/X") else []
    source = f"adata.layers[{layers[0]!r}]" if layers else "adata.raw.X"
    if "counts" in layers:
        source = "adata.layers['counts']"
    return DataError(
        f"X is empty; expression is in {' and '.join(held)}",
        where=path,
        fix=f"copy it to X, which is read: adata.X = {source}.copy(); adata.write_h5ad(new)"
        if layers
        else "copy it to X, which is read: adata.raw.to_adata().write_h5ad(new)",
    )


def _compressed(
    file: h5py.File, item: h5py.Group, name: str, path: Path
) -> tuple[str, tuple[int, int]]:
    """Return layout and shape of a sparse matrix, as declared or as its pointers show."""
    kind = str(attribute(item, "encoding-type") or attribute(item, "h5sparse_format") or "")
    sparse = all(has(item, part) for part in ("data", "indices", "indptr"))
    known = {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}
    if kind not in known and (kind or not sparse):
        raise DataError(
            f"{name!r} is stored as {kind or 'an unknown kind of group'!r}",
            where=path,
            fix="store it as a CSR, CSC or dense matrix",
        )
    given = attribute(item, "shape")
    if given is None:
        given = attribute(item, "h5sparse_shape")
    if given is None and name == "X":
        given = [n_rows(file, "obs", path), n_rows(file, "var", path)]
    valid = isinstance(given, list) and all(isinstance(n, int) and n >= 0 for n in given)
    if not valid or len(given) != 2:
        raise DataError(
            f"{name!r} has the shape {given!r}"
            if given is not None
            else f"{name!r} does not say its shape",
            where=path,
            fix="write the file with a current anndata: a shape is two whole numbers",
        )
    shape = (int(given[0]), int(given[1]))
    if kind in known:
        return known[kind], shape
    entries = child(item, "indptr", path).shape
    fitting = [
        layout for layout, n in zip(("csr", "csc"), shape, strict=True) if entries == (n + 1,)
    ]
    if len(fitting) != 1:
        raise DataError(
            f"{name!r} does not say whether it is CSR or CSC",
            where=path,
            fix="write the file with a current anndata",
        )
    return fitting[0], shape


def _refuse_damaged(
    item: h5py.Group, layout: str, shape: tuple[int, int], name: str, path: Path
) -> None:
    """Check that the arrays of a sparse matrix fit together.

    Reading damaged arrays would fail later, without a clear message.
    """
    what = ""
    missing = [part for part in ("data", "indices", "indptr") if not has(item, part)]
    if missing:
        what = f"it has no {missing[0]!r}"
    else:
        parts = {part: child(item, part, path) for part in ("data", "indices", "indptr")}
        for part, array in parts.items():
            if not isinstance(array, h5py.Dataset) or array.shape is None or array.ndim != 1:
                what = what or f"{part!r} is not a list of numbers"
            elif part != "data" and array.dtype.kind not in "iu":
                what = what or f"{part!r} holds values of type {array.dtype}"
    if not what:
        values, places, pointers = (array.shape[0] for array in parts.values())
        wanted = shape[0 if layout == "csr" else 1] + 1
        if values != places:
            what = f"{values:,} values have {places:,} places"
        elif values > shape[0] * shape[1]:
            what = f"it has {values:,} values for {shape[0]:,} x {shape[1]:,} places"
        elif pointers != wanted:
            what = f"'indptr' has {pointers:,} entries instead of {wanted:,}"
        elif int(parts["indptr"][-1]) != values:
            what = f"'indptr' ends at {int(parts['indptr'][-1]):,} of {values:,} values"
    if what:
        raise DataError(f"{name!r} is damaged: {what}", where=path, fix=_DAMAGED)


def pointers(item: h5py.Group, name: str, path: Path) -> np.ndarray:
    """Return the row pointers of a CSR matrix, or the column pointers of a CSC one, int64 [n + 1].

    Parameters
    ----------
    item
        Group of the matrix.
    name, path
        Matrix and file, for the message.

    Raises
    ------
    DataError
        The pointers do not rise from 0.
    """
    found = native(in_memory(child(item, "indptr", path), path)[()]).astype(np.int64, copy=False)
    if found[0] != 0 or (found[1:] < found[:-1]).any():
        raise DataError(
            f"{name!r} is damaged: its row pointers do not rise from 0", where=path, fix=_DAMAGED
        )
    return found
