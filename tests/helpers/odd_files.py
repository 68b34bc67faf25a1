"""Odd h5ads: ways to write one, and what each command reads of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from small_cells import CONTROL, cells, settings

from statetx.core.errors import DataError
from statetx.data.h5ad.header import barcodes
from statetx.data.h5ad.matrix import Matrix
from statetx.data.h5ad.open_h5ad import opened
from statetx.data.inspection import inspect as h5ad
from statetx.data.inspection.design import Columns
from statetx.data.pack.survey import survey
from statetx.evaluation.standalone.cells_file import read_cells_file
from statetx.inference.own_cells import OwnCells
from statetx.splits.sources import from_h5ads

Change = Callable[[h5py.File], Any]
N, G = 60, 30
DECLARED = settings(total_counts_col=None)
TEXT = h5py.string_dtype()


def write_plain(directory: Path) -> Path:
    """Write the file that odd ones are made from."""
    path = directory / "plain.h5ad"
    made = cells(N, G)
    made.layers["counts"] = made.X.copy()
    made.obs["drug_dose"] = pd.Categorical(made.obs["drug_dose"])
    made.write_h5ad(path)
    return path


# ---------------------------------------------------------------------------------------------
# the commands, as far as they read


def by_inspect(path: Path) -> Any:
    report = h5ad.inspect([path], DECLARED, full=True)
    if report.problems:
        raise report.problems[0]
    assert report.design is not None
    (found,) = report.files
    seen = replace(found.seen, sums=None)  # of a CSC matrix they do not show
    return report.design.table.to_dict("list"), seen, found.genes, found.n_cells


def by_pack(path: Path) -> Any:
    found = survey([path], DECLARED, "d")
    with opened(path) as file:
        names = barcodes(file, path).tolist()
        x = Matrix(file, "X", path).rows(0, N)
    return found.genes, found.cells, names, x.toarray().tolist()


def by_evaluate(path: Path) -> Any:
    read = read_cells_file(path, "drug_dose", CONTROL, "cell_line", None, "counts")
    x = read.cells.rows(np.arange(len(read.labels)))
    dense = x if isinstance(x, np.ndarray) else x.toarray()
    return read.genes, read.labels.tolist(), read.lines.tolist(), dense.tolist()


def by_infer(path: Path) -> Any:
    with opened(path) as file:
        own = OwnCells(file, path, "drug_dose", "cell_line", "batch", [CONTROL])
        return own.conditions(), [own.controls(name).rows.tolist() for name in own.line.names]


def by_lint(path: Path) -> Any:
    columns = Columns("drug_dose", "cell_line", "batch", (CONTROL,))
    return from_h5ads(str(path), path, columns).conditions.to_dict("list")


READERS = {
    "inspect": by_inspect,
    "pack": by_pack,
    "evaluate": by_evaluate,
    "infer": by_infer,
    "lint": by_lint,
}


def error_of(read: Callable[[Path], Any], path: Path) -> DataError | None:
    """Return the error that a command ends with, or None."""
    try:
        read(path)
    except DataError as error:
        return error
    return None


# ---------------------------------------------------------------------------------------------
# changes


def replaced(name: str, change: Callable[[np.ndarray], Any], **options: Any) -> Change:
    """Write an array anew, with its attributes."""

    def apply(file: h5py.File) -> None:
        old, held = file[name][()], dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, data=change(old), **options).attrs.update(held)

    return apply


def encoded(name: str, kind: str, **parts: Any) -> Change:
    """Write a group of arrays in place of an element."""

    def apply(file: h5py.File) -> None:
        if name in file:
            del file[name]
        group = file.create_group(name)
        group.attrs["encoding-type"] = kind
        for part, values in parts.items():
            array = np.asarray(values)
            text = array.dtype.kind in "UO"
            group.create_dataset(part, data=array.astype(object) if text else array,
                                 dtype=TEXT if text else None)  # fmt: skip

    return apply


def labels_of(file: h5py.File, name: str) -> np.ndarray:
    item = file[name]
    if isinstance(item, h5py.Group):
        return item["categories"].asstr()[()][item["codes"][()]]
    return item.asstr()[()]


def in_place(name: str, write: Callable[[h5py.File, np.ndarray], Any]) -> Change:
    """Write a text element in another way."""

    def apply(file: h5py.File) -> None:
        values = labels_of(file, name)
        del file[name]
        write(file, values)

    return apply


def as_categories(name: str, codes: str = "i1") -> Change:
    def write(file: h5py.File, values: np.ndarray) -> None:
        listed, numbers = np.unique(values.astype(str), return_inverse=True)
        encoded(name, "categorical", codes=numbers.astype(codes), categories=listed)(file)

    return in_place(name, write)


def as_nullable(name: str) -> Change:
    return in_place(
        name,
        lambda file, values: encoded(
            name, "nullable-string-array", values=values, mask=np.zeros(len(values), dtype=bool)
        )(file),
    )


def as_old_categories(name: str) -> Change:
    def write(file: h5py.File, values: np.ndarray) -> None:
        listed, numbers = np.unique(values.astype(str), return_inverse=True)
        short = name.split("/")[1]
        made = file.create_dataset(
            f"obs/__categories/{short}", data=listed.astype(object), dtype=TEXT
        )
        file[name] = numbers.astype(np.int8)
        file[name].attrs["categories"] = made.ref

    return in_place(name, write)


def as_fixed(name: str, kind: str = "S16") -> Change:
    return in_place(
        name, lambda file, values: file.create_dataset(name, data=values.astype(str).astype(kind))
    )


def as_enum(file: h5py.File) -> None:
    values = labels_of(file, "obs/drug_dose")
    del file["obs/drug_dose"]
    kind = h5py.enum_dtype({CONTROL: 0, "A_1": 1, "B_0.5": 2}, basetype="i1")
    numbers = np.array([{CONTROL: 0, "A_1": 1, "B_0.5": 2}[name] for name in values], dtype="i1")
    file.create_dataset("obs/drug_dose", data=numbers, dtype=kind)


def without(name: str, *attributes: str) -> Change:
    def apply(file: h5py.File) -> None:
        for attribute in attributes:
            del file[name].attrs[attribute]

    return apply


def deleted(name: str) -> Change:
    return lambda file: file.__delitem__(name)


def big_endian(file: h5py.File) -> None:
    for name, kind in (("data", ">f4"), ("indices", ">i4"), ("indptr", ">i4")):
        replaced(f"X/{name}", lambda old, kind=kind: old.astype(kind))(file)
    replaced("obs/drug_dose/codes", lambda old: old.astype(">i2"))(file)


def dense(kind: str) -> Change:
    def apply(file: h5py.File) -> None:
        x = anndata.io.read_elem(file["X"]).toarray()
        del file["X"]
        file["X"] = x.astype(kind)

    return apply


def as_h5sparse(file: h5py.File) -> None:
    shape = file["X"].attrs["shape"]
    for name in list(file["X"].attrs):
        del file["X"].attrs[name]
    file["X"].attrs["h5sparse_format"] = b"csr"
    file["X"].attrs["h5sparse_shape"] = shape


def as_csc(file: h5py.File) -> None:
    x = anndata.io.read_elem(file["X"]).tocsc()
    del file["X"]
    anndata.io.write_elem(file, "X", x)


def soft_link(file: h5py.File) -> None:
    del file["X"]
    file["X"] = h5py.SoftLink("/layers/counts")


# ---------------------------------------------------------------------------------------------
# refused


def latin(name: str) -> Change:
    def write(file: h5py.File, values: np.ndarray) -> None:
        raw = [text.encode() for text in values]
        raw[7] = b"Caf\xe9"
        file.create_dataset(name, data=np.array(raw, dtype=object), dtype=TEXT)

    return in_place(name, write)


def latin_category(file: h5py.File) -> None:
    raw = file["obs/drug_dose/categories"][()]
    raw[1] = b"\xb5M"
    file["obs/drug_dose/categories"][...] = raw


def external(name: str) -> Change:
    def apply(file: h5py.File) -> None:
        with h5py.File(Path(file.filename).parent / "other.h5", "w") as other:
            file.copy(file[name], other, "there")
        del file[name]
        file[name] = h5py.ExternalLink("other.h5", "/there")

    return apply


def linked(name: str, target: str) -> Change:
    def apply(file: h5py.File) -> None:
        del file[name]
        file[name] = h5py.SoftLink(target)

    return apply


def circle(file: h5py.File) -> None:
    del file["X"]
    file["X"], file["Y"] = h5py.SoftLink("/Y"), h5py.SoftLink("/X")


def elsewhere(file: h5py.File) -> None:
    """X as a virtual dataset over another file: where that is missing, HDF5 reads zeros."""
    source = h5py.VirtualSource("gone.h5", "x", shape=(N, G))
    made = h5py.VirtualLayout((N, G), "f4")
    made[:] = source
    del file["X"]
    file.create_virtual_dataset("X", made)


def unknown_filter(name: str) -> Change:
    def apply(file: h5py.File) -> None:
        old, held = file[name], dict(file[name].attrs)
        shape, kind = old.shape, old.dtype
        del file[name]
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk(shape)
        settings.set_filter(32099, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple(shape)
        made = h5py.h5d.create(
            file.id, name.encode(), h5py.h5t.py_create(kind, True), space, settings
        )
        made.write_direct_chunk((0,) * len(shape), b"not what it says", 0)
        file[name].attrs.update(held)

    return apply


def damaged(name: str) -> Change:
    """Deflated values whose bytes are not deflated ones."""

    def apply(file: h5py.File) -> None:
        old, held = file[name][()], dict(file[name].attrs)
        del file[name]
        made = file.create_dataset(name, data=old, chunks=old.shape, compression="gzip")
        made.attrs.update(held)
        made.id.write_direct_chunk((0,) * old.ndim, b"\x78\x9c" + b"\xff" * 40)

    return apply


def swollen(name: str, shape: tuple[int, ...], kind: str) -> Change:
    """An array of gigabytes, of which nothing is stored."""

    def apply(file: h5py.File) -> None:
        del file[name]
        chunks = tuple(min(n, 1 << 20 // len(shape)) for n in shape)
        file.create_dataset(name, shape, kind, chunks=chunks, compression="gzip")

    return apply


def hollow(file: h5py.File) -> None:
    """A billion cells in a few bytes, all of which fit together."""
    n = 1_000_000_000
    for name in ("obs/drug_dose/codes", "obs/cell_line", "obs/batch", "obs/_index"):
        del file[name]
        file.create_dataset(name, (n,), "i1", chunks=(1 << 20,), compression="gzip")
    del file["X/indptr"]
    file.create_dataset("X/indptr", (n + 1,), "i8", chunks=(1 << 20,), compression="gzip")
    for name in ("data", "indices"):
        del file[f"X/{name}"]
        file[f"X/{name}"] = np.empty(0, "i4")
    file["X"].attrs["shape"] = (n, G)


def long_texts(file: h5py.File) -> None:
    del file["obs/drug_dose"]
    file.create_dataset("obs/drug_dose", data=["x" * 100_000] * N, dtype=TEXT)


def deep(file: h5py.File) -> None:
    group = file["uns"]
    for _ in range(300):
        group = group.create_group("g")


def scalar_x(file: h5py.File) -> None:
    del file["X"]
    file["X"] = np.float32(3)


def null_x(file: h5py.File) -> None:
    del file["X"]
    file["X"] = h5py.Empty("f4")


def only_raw(file: h5py.File) -> None:
    del file["X"], file["layers/counts"]
    file["raw/X"] = np.ones((N, G), "f4")


def x_of(kind: str) -> Change:
    def apply(file: h5py.File) -> None:
        del file["X"]
        file["X"] = np.ones((N, G), kind)

    return apply


def pointers(*values: int) -> Change:
    """Other first row pointers."""

    def change(old: np.ndarray) -> np.ndarray:
        old[: len(values)] = values
        return old

    return replaced("X/indptr", change)


def both(*changes: Change) -> Change:
    return lambda file: [change(file) for change in changes]
