"""``obs`` of a packed line, written without a Python object per cell: names have a fixed width."""

from __future__ import annotations

from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from statetx.data import kernels
from statetx.data.segments import Cells, per_file, used


def array(group: h5py.Group, name: str, shape: Any, kind: Any, encoding: str = "array") -> Any:
    """Create an array of a valid h5ad, contiguous and uncompressed."""
    made = group.create_dataset(name, shape, kind)
    made.attrs.update({"encoding-type": encoding, "encoding-version": "0.2.0"})
    return made


def write_frame(file: h5py.File, cells: Cells, line: str) -> h5py.Group:
    """Create ``obs`` with its label columns; the columns of numbers are filled later."""
    obs = file.create_group("obs")
    obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0"})
    obs.attrs["_index"] = "_index"
    columns = ["perturbation", "cell_line", "batch", "total_counts", "scale"]
    obs.attrs["column-order"] = np.asarray(columns, dtype=object)
    n = len(cells.order)
    categorical(obs, "perturbation", cells.perturbation[cells.order], cells.perturbations)
    categorical(obs, "batch", cells.batch[cells.order], cells.batches)
    categorical(obs, "cell_line", np.zeros(n, dtype=np.int8), [line])
    for name in ("total_counts", "scale"):
        array(obs, name, (n,), np.float64)
    return obs


def categorical(obs: h5py.Group, name: str, codes: np.ndarray, names: list[str]) -> None:
    group = obs.create_group(name)
    group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0"})
    group.attrs["ordered"] = False
    anndata.io.write_elem(group, "categories", np.asarray(names, dtype=object))
    kind = np.min_scalar_type(-len(names))
    array(group, "codes", (len(codes),), kind)[:] = codes.astype(kind)


def write_names(obs: h5py.Group, cells: Cells, aliases: list[str]) -> None:
    """Write the barcodes, and the labels as they were where a control alias was replaced.

    Where a barcode repeats inside the line, it becomes ``barcode#<file>.<row>``.
    """
    names = _names(cells)
    renamed = {}
    for cell in _repeated(names).tolist():
        k = int(np.searchsorted(cells.first, cell, side="right")) - 1
        segment = cells.segments[k]
        row = int(segment.records["row"][cell - cells.first[k]])
        renamed[cell] = names[cell] + f"#{segment.file}.{row}".encode()
    n, width = len(names), max([names.dtype.itemsize, *(len(name) for name in renamed.values())])
    names = names.astype(f"S{width}", copy=False)
    for cell, name in renamed.items():
        names[cell] = name
    kind = h5py.string_dtype("utf-8", width)
    index = array(obs, "_index", (n,), kind, "string-array")
    for start in range(0, n, 1 << 18):
        rows = slice(start, start + (1 << 18))
        index[rows] = names[cells.order[rows]].astype(kind)
    if len(aliases) > 1:
        _write_raw_labels(obs, cells, set(aliases[1:]))


def _names(cells: Cells) -> np.ndarray:
    width = max(segment.records["name"].dtype.itemsize for segment in cells.segments)
    names = np.empty(len(cells.order), dtype=f"S{width}")
    for segment, at in zip(cells.segments, cells.first[:-1], strict=True):
        names[at : at + len(segment.records)] = segment.records["name"]
    return names


def _repeated(names: np.ndarray) -> np.ndarray:
    """Return where names stand that occur more than once; 16 bytes per name while it looks."""
    hashes = kernels.hash_rows(names.view(np.uint8).reshape(len(names), names.dtype.itemsize))
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not again.size:
        return np.empty(0, dtype=np.int64)
    suspects = np.flatnonzero(np.isin(hashes, again))
    return suspects[pd.Series(names[suspects]).duplicated(keep=False).to_numpy()]


def _write_raw_labels(obs: h5py.Group, cells: Cells, aliases: set[str]) -> None:
    if not any(aliases & set(s.perturbations.tolist()) for s in per_file(cells.segments)):
        return
    names = sorted({str(x) for s in per_file(cells.segments) for x in s.perturbations})
    codes = np.empty(len(cells.order), dtype=np.int32)
    for segment, at in zip(cells.segments, cells.first[:-1], strict=True):
        place = np.searchsorted(names, segment.perturbations)
        here = slice(at, at + len(segment.records))
        codes[here] = place[segment.records["perturbation"]]
    codes, names = used(codes, names)
    if not aliases & set(names):
        return
    categorical(obs, "raw_label", codes[cells.order], names)
    order = [*obs.attrs["column-order"], "raw_label"]
    obs.attrs["column-order"] = np.asarray(order, dtype=object)
