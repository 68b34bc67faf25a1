"""Recognition of files that are not h5ads, by their first bytes, with instructions for each."""

from __future__ import annotations

import stat
from pathlib import Path

import h5py

from statetx.core.errors import DataError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip {path}"),
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2 {path}"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it first: unxz {path}"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: unzstd {path}"),
    (b"PK\x03\x04", "a zip archive", "unpack it first: unzip {path}"),
    (b"PAR1", "a parquet table", "write the cells as h5ad with anndata"),
    (b"\x80\x04", "a Python pickle", "write the cells as h5ad: adata.write_h5ad"),
    (b"\x80\x05", "a Python pickle", "write the cells as h5ad: adata.write_h5ad"),
    (b"version https://git-lfs", "a pointer of git-lfs, not the data", "fetch it: git lfs pull"),
    (b"<", "a web page or XML", "the download failed: fetch the file again"),
    (b"%%MatrixMarket", "a matrix in MatrixMarket format", "read its directory: scanpy.read_10x_mtx(directory).write_h5ad(new)"),
)  # fmt: skip
"""First bytes of a file, what the file is, and how to fix it."""

_READERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("matrix", "row_attrs", "col_attrs"), "a loom file", "anndata.io.read_loom(path).write_h5ad(new)"),
    (("mod",), "an h5mu file of several modalities", "mudata.read_h5mu(path)['rna'].write_h5ad(new), with the name of your modality"),
    (("matrix/barcodes",), "a 10x matrix", "scanpy.read_10x_h5(path).write_h5ad(new), and add the labels of the cells to obs"),
    (("assays", "cell.names"), "an h5Seurat file", "in R: SeuratDisk::Convert(path, dest = 'h5ad')"),
)  # fmt: skip
"""Names in an HDF5 file, what the file is, and the call that converts it to h5ad."""


def refuse_foreign(path: Path) -> None:
    """Check that a path is a regular HDF5 file.

    Pipes, sockets and devices are refused without opening them, because opening one may block.

    Raises
    ------
    DataError
        The file does not exist, cannot be read, is empty, or is of another kind. The message names
        the kind.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _absent(path, error) from error
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise _directory(path)
    if kind != stat.S_IFREG:
        raise DataError(
            f"this is {_KINDS.get(kind, 'a special file')}, not a file",
            where=path,
            fix="HDF5 reads regular files only: copy the data into one",
        )
    if status.st_size == 0:
        raise DataError("the file is empty: 0 bytes", where=path, fix="copy or write it again")
    try:
        with path.open("rb") as file:
            begins = file.read(64)
    except OSError as error:
        raise DataError(
            f"cannot read this file: {error.strerror}", where=path, fix="allow reading: chmod u+r"
        ) from error
    if h5py.is_hdf5(path):
        return
    for known, what, fix in _BEGINNINGS:
        if begins.startswith(known):
            raise DataError(
                f"cannot read this file: it is {what}", where=path, fix=fix.format(path=path)
            )
    text = not set(begins) - set(range(32, 127)) - set(b"\t\r\n")
    raise DataError(
        f"cannot read this file: it is not an h5ad (it begins with {begins[:16]!r})",
        where=path,
        fix="write the cells as h5ad with anndata"
        if text
        else "it is of another kind or damaged: copy or write it again",
    )


def _absent(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return DataError(
            f"the file does not exist: this is a link to {str(path.readlink())!r}",
            where=path,
            fix="correct the link, or give the path of the data",
        )
    known = isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError))
    reason = "" if known else f", or cannot be reached: {getattr(error, 'strerror', error)}"
    return DataError(f"the file does not exist{reason}", where=path, fix="correct the path")


def _directory(path: Path) -> DataError:
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError:
        names = []
    if {".zgroup", ".zattrs", "zarr.json"} & set(names):
        return DataError(
            "this is a zarr store",
            where=path,
            fix="write it as h5ad: anndata.read_zarr(path).write_h5ad(new)",
        )
    if any(name in ("matrix.mtx", "matrix.mtx.gz") for name in names):
        return DataError(
            "this is a directory with a 10x matrix",
            where=path,
            fix="write it as h5ad: scanpy.read_10x_mtx(path).write_h5ad(new)",
        )
    inside = [name for name in names if name.endswith(".h5ad")]
    return DataError(
        "this is a directory, not a file",
        where=path,
        fix=f"give the files in it: {path / '*.h5ad'} ({len(inside)} found)"
        if inside
        else "give the path of an h5ad; this directory contains none",
    )


def refuse_other_hdf5(file: h5py.File, path: Path) -> None:
    """Check that an HDF5 file has obs and var.

    Raises
    ------
    DataError
        The file is not an h5ad. The message names its kind, or lists what it contains.
    """
    missing = [name for name in ("obs", "var") if not file.id.links.exists(name.encode())]
    if not missing:
        return
    for names, what, call in _READERS:
        if all(name in file for name in names):
            raise DataError(
                f"this is {what}, not an h5ad", where=path, fix=f"convert it to h5ad: {call}"
            )
    held = ", ".join(repr(name) for name in list(file)[:8]) or "nothing"
    if any(isinstance(file.get(name), h5py.Group) and "barcodes" in file[name] for name in file):
        call = "scanpy.read_10x_h5(path).write_h5ad(new)"
        raise DataError(
            "this is a 10x matrix, not an h5ad", where=path, fix=f"convert it to h5ad: {call}"
        )
    raise DataError(
        f"this HDF5 file is not an h5ad: it has no {' and no '.join(missing)}; it contains {held}",
        where=path,
        fix="write the cells as h5ad with anndata",
    )
