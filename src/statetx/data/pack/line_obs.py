"""Writer of ``obs`` of a packed line; names of fixed width need no Python object per cell."""

from __future__ import annotations

from typing import Any

import anndata
import h5py
import numpy as np

from statetx.data.pack import kernels
from statetx.data.pack.segments import Cells, per_file, used


def array(group: h5py.Group, name: str, shape: Any, kind: Any, encoding: str = "array") -> Any:
    """Create an array of an h5ad, contiguous and uncompressed.

    Parameters
    ----------
    group, name
        Group of the file, and name of the array in it.
    shape, kind
        Shape and type.
    encoding
        Its ``encoding-type``.
    """
    made = group.create_dataset(name, shape, kind)
    made.attrs.update({"encoding-type": encoding, "encoding-version": "0.2.0"})
    return made


def write_frame(file: h5py.File, cells: Cells, line: str) -> h5py.Group:
    """Create ``obs`` and write its label columns; the columns of numbers are filled later.

    Parameters
    ----------
    file
        The packed file.
    cells
        Cells of the line.
    line
        Name of the line.
    """
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
    """Write a column of categories.

    Parameters
    ----------
    obs, name
        Group ``obs``, and name of the column.
    codes
        Code of each cell in the order of the store, [n].
    names
        Labels of the codes.
    """
    group = obs.create_group(name)
    group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0"})
    group.attrs["ordered"] = False
    anndata.io.write_elem(group, "categories", np.asarray(names, dtype=object))
    kind = np.min_scalar_type(-len(names))
    array(group, "codes", (len(codes),), kind)[:] = codes.astype(kind)


def write_names(obs: h5py.Group, cells: Cells, aliases: list[str]) -> None:
    """Write the cell names, and ``raw_label`` if a control alias was replaced.

    A cell name that repeats inside the line becomes ``barcode#<file>.<row>``.

    Parameters
    ----------
    obs
        Group ``obs``.
    cells
        Cells of the line.
    aliases
        Control labels; the first is the canonical one.
    """
    names = _names(cells)
    again = _repeated(names)
    n, width = len(names), names.dtype.itemsize
    if again.any():
        width += len(f"#{cells.segments[-1].file}.{2**62}")
    kind = h5py.string_dtype("utf-8", width)
    index = array(obs, "_index", (n,), kind, "string-array")
    for start in range(0, n, 1 << 18):
        chosen = cells.order[start : start + (1 << 18)]
        block = names[chosen].astype(f"S{width}")
        repeated = np.flatnonzero(again[chosen])
        block[repeated] = _told_apart(block[repeated], cells, chosen[repeated])
        index[start : start + len(block)] = block.astype(kind)
    if len(aliases) > 1:
        _write_raw_labels(obs, cells, set(aliases[1:]))


def _names(cells: Cells) -> np.ndarray:
    """Return the names of all cells in the order of the segments, bytes [n]."""
    width = max(segment.records["name"].dtype.itemsize for segment in cells.segments)
    names = np.empty(len(cells.order), dtype=f"S{width}")
    for segment, at in zip(cells.segments, cells.first[:-1], strict=True):
        names[at : at + len(segment.records)] = segment.records["name"]
    return names


def _repeated(names: np.ndarray) -> np.ndarray:
    """Return which names occur more than once, bool [n]; takes 16 bytes per name.

    Names are compared by 64-bit hashes. Two different names with equal hashes both count as
    repeated, and only get a longer name.
    """
    hashes = kernels.hash_rows(names.view(np.uint8).reshape(len(names), names.dtype.itemsize))
    ordered = np.sort(hashes)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.isin(hashes, again) if again.size else np.zeros(len(names), dtype=bool)


def _told_apart(names: np.ndarray, cells: Cells, chosen: np.ndarray) -> np.ndarray:
    """Append ``#<file>.<row>`` to the names of the chosen cells."""
    inside = np.searchsorted(cells.first, chosen, side="right") - 1
    rows = np.empty(len(chosen), dtype=np.int64)
    for k in np.unique(inside):
        members = np.flatnonzero(inside == k)
        rows[members] = cells.segments[k].records["row"][chosen[members] - cells.first[k]]
    files = np.asarray([segment.file for segment in cells.segments])[inside]
    parts = (names, np.bytes_(b"#"), files.astype("S"), np.bytes_(b"."), rows.astype("S"))
    out = parts[0]
    for part in parts[1:]:
        out = np.char.add(out, part)
    return out


def _write_raw_labels(obs: h5py.Group, cells: Cells, aliases: set[str]) -> None:
    """Write the labels of the source files as ``raw_label`` if one of them is an alias."""
    if not any(aliases & set(s.perturbations.tolist()) for s in per_file(cells.segments)):
        return
    names = sorted({str(x) for s in per_file(cells.segments) for x in s.perturbations})
    codes = np.empty(len(cells.order), dtype=np.int32)
    for segment, at in zip(cells.segments, cells.first[:-1], strict=True):
        place = np.searchsorted(names, segment.perturbations)
        codes[at : at + len(segment.records)] = place[segment.records["perturbation"]]
    codes, names = used(codes, names)
    if not aliases & set(names):
        return
    categorical(obs, "raw_label", codes[cells.order], names)
    order = [*obs.attrs["column-order"], "raw_label"]
    obs.attrs["column-order"] = np.asarray(order, dtype=object)
