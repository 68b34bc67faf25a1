"""Files that are not h5ads, or cannot be read: recognised, never waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from odd_files import READERS, by_pack, write_plain

from statetx.core.errors import DataError


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(tmp_path_factory.mktemp("plain"))


# ---------------------------------------------------------------------------------------------
# what is not an h5ad at all


def refusals(path: Path, lint: bool = True) -> list[str]:
    out = []
    for name, read in READERS.items():
        if name == "lint" and not lint:
            continue
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert caught.value.fix
        out.append(str(caught.value))
    return out


def write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_hdf5(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name in names:
                file.create_group(name)

    return write


def zarr_store(path: Path) -> None:
    path.mkdir()
    (path / ".zgroup").write_text("{}")


def mtx_directory(path: Path) -> None:
    path.mkdir()
    (path / "matrix.mtx.gz").write_bytes(b"")


def plates(path: Path) -> None:
    path.mkdir()
    (path / "a.h5ad").write_bytes(b"")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)  # names of sockets are short
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


FOREIGN: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "nothing": (lambda path: None, ("does not exist",)),
    "dangling link": (lambda path: path.symlink_to("gone"), ("does not exist", "link to 'gone'")),
    "link to itself": (lambda path: path.symlink_to(path.name), ("does not exist",)),
    "empty": (lambda path: path.touch(), ("empty: 0 bytes",)),
    "zarr": (zarr_store, ("zarr store", "anndata.read_zarr")),
    "mtx": (mtx_directory, ("10x matrix", "scanpy.read_10x_mtx")),
    "directory": (plates, ("directory", "*.h5ad (1 found)")),
    "empty directory": (lambda path: path.mkdir(), ("directory", "contains none")),
    "pipe": (os.mkfifo, ("a pipe",)),
    "socket": (bound_socket, ("a socket",)),
    "gzip": (lambda path: write_bytes(path, b"\x1f\x8b\x08" + bytes(90)), ("gzip", "gunzip")),
    "zip": (lambda path: write_bytes(path, b"PK\x03\x04" + bytes(90)), ("zip archive", "unzip")),
    "git-lfs": (lambda path: write_bytes(path, b"version https://git-lfs.github.com/spec/v1"), ("git lfs pull",)),
    "web page": (lambda path: write_bytes(path, b"<!DOCTYPE html><html>"), ("web page", "fetch")),
    "text": (lambda path: write_bytes(path, b"gene,count\n"), ("not an h5ad", "gene,count")),
    "10x": (write_hdf5("matrix/barcodes"), ("10x matrix", "scanpy.read_10x_h5")),
    "old 10x": (write_hdf5("GRCh38/barcodes"), ("10x matrix", "scanpy.read_10x_h5")),
    "loom": (write_hdf5("matrix", "row_attrs", "col_attrs"), ("loom", "anndata.io.read_loom")),
    "h5mu": (write_hdf5("mod/rna", "obs"), ("h5mu", "mudata.read_h5mu")),
    "no var": (write_hdf5("obs", "X"), ("no var", "'X', 'obs'")),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_other_files_are_recognised_and_never_waited_for(case: str, tmp_path: Path) -> None:
    make, said = FOREIGN[case]
    path = tmp_path / "cells.h5ad"
    make(path)
    # Where a split names a path, a directory stands for the h5ads in it.
    for text in refusals(path, lint=path.exists() and not path.is_dir()):
        assert "truncated" not in text
        for piece in said:
            assert piece in text


def test_a_cut_file_is_truncated(plain: Path, tmp_path: Path) -> None:
    whole = plain.read_bytes()
    for share in (0.1, 0.6, 0.99):
        path = tmp_path / "cut.h5ad"
        path.write_bytes(whole[: int(share * len(whole))])
        for text in refusals(path):
            assert "cannot read" in text
            assert "truncated or damaged" in text


def test_a_file_that_another_process_writes_to(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "held.h5ad"
    path.write_bytes(plain.read_bytes())
    script = f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        for text in refusals(path):
            assert "another process has it open for writing" in text
            assert "HDF5_USE_FILE_LOCKING=FALSE" in text
            assert "truncated" not in text
        writer.communicate("\n")
    assert by_pack(path) == by_pack(plain)


def test_no_right_to_read(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Path, *args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(DataError, match="Permission denied") as caught:
        by_pack(plain)
    assert "chmod" in str(caught.value.fix)
