"""Cells in a temporary file come back as they were, in any order of rows and genes."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse

from statetx.core.errors import ResultsError
from statetx.data.h5ad.matrix import Matrix
from statetx.evaluation.standalone import cells_on_disk as stored
from statetx.evaluation.standalone.cells_on_disk import StoredCells

N, G = 50, 7


@pytest.fixture(params=["dense", "csr", "csc"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    rng = np.random.default_rng(0)
    x = (rng.random((N, G)) * (rng.random((N, G)) < 0.4)).astype(np.float32)
    x[[0, 20, 21, N - 1]] = 0  # cells without a value
    kind = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[request.param]
    ad.AnnData(kind(x)).write_h5ad(tmp_path / "x.h5ad")
    return tmp_path / "x.h5ad", x


def _read(path: Path, seen: list[np.ndarray] | None = None) -> StoredCells:
    look = (lambda _: None) if seen is None else seen.append
    with h5py.File(path, "r") as file:
        return StoredCells.read(Matrix(file, "X", path), look, False)


def _dense(cells: Any) -> np.ndarray:
    return cells.toarray() if sparse.issparse(cells) else cells


@pytest.mark.parametrize("chunk", [3, 2048])
def test_any_rows_in_any_order(
    source: tuple[Path, np.ndarray], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, x = source
    monkeypatch.setattr(stored, "CHUNK_ROWS", chunk)
    seen: list[np.ndarray] = []
    cells = _read(path, seen)
    assert sum(values.sum(dtype=float) for values in seen) == pytest.approx(x.sum(dtype=float))
    np.testing.assert_allclose(cells.totals, x.sum(axis=1, dtype=float))
    rng = np.random.default_rng(1)
    for rows in (np.arange(N), rng.permutation(N), np.array([20, 0, 21, 5, 6, 7]), np.array([0])):
        got = _dense(cells.rows(rows))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, x[rows])
    order = rng.permutation(G)
    moved = cells.reordered(order)
    np.testing.assert_array_equal(_dense(moved.rows(np.arange(N)[::-1])), x[::-1][:, order])


def test_no_room_names_the_place(
    source: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, _: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None: ...

    monkeypatch.setattr(stored, "scratch_file", Full)
    with pytest.raises(ResultsError, match="not enough disk space for a copy") as caught:
        _read(source[0])
    assert "TMPDIR" in (caught.value.fix or "")
