"""Estimates: against bytes that packing really writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from statetx.config import Dataset
from statetx.data.inspection.disk_and_memory import (
    pack_bytes,
    pack_memory_bytes,
    training_bytes,
    value_bytes,
)
from statetx.data.inspection.inspect import inspect
from statetx.data.pack import check_disk_space as disk_space
from statetx.data.pack import pack as packing


def test_value_bytes() -> None:
    assert [value_bytes(n) for n in (0, 255, 256, 65_535, 65_536, None)] == [1, 1, 2, 2, 4, 4]


def test_pack_bytes_by_hand() -> None:
    need = pack_bytes(10, 100, 2000, 1, {"X_hvg": 40}, name_bytes=20)
    assert need.store == 100 * 3 + 10 * (40 + 28 + 20)
    assert need.parts == 100 * 3 + 10 * (40 + 36 + 20)
    wide = pack_bytes(10, 100, 70_000, 4, {})
    assert wide.store == 100 * 8 + 10 * (28 + 24)


def test_pack_bytes_are_those_that_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, n_genes = 20_000, 300
    rng = np.random.default_rng(0)
    x = sparse.random(n, n_genes, 0.1, "csr", dtype=np.float32, rng=rng)
    x.data = rng.integers(1, 300, x.nnz).astype(np.float32)
    adata = anndata.AnnData(x, obs=pd.DataFrame(
        {"drug_dose": rng.choice(["DMSO", "A", "B"], n), "cell_line": "L", "batch": "1"},
        index=[f"{i:024d}" for i in range(n)],
    ))  # fmt: skip
    adata.obsm["X_emb"] = rng.random((n, 16), dtype=np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    settings = Dataset(files=[], control_pert="DMSO", scale="counts", embed_keys=["X_emb"])
    parts = []
    finish = packing.finish

    def weighed(*arguments: object, **named: object) -> None:
        parts.append(_bytes(tmp_path / "out.parts"))
        finish(*arguments, **named)

    monkeypatch.setattr(packing, "finish", weighed)
    packing.pack([tmp_path / "a.h5ad"], settings, "x", tmp_path / "out")
    need = pack_bytes(n, x.nnz, n_genes, 2, {"X_emb": 64})
    # One line of few genes: what does not depend on the number of cells is below 2 %.
    assert need.parts == pytest.approx(parts[0], rel=0.02)
    assert need.store == pytest.approx(_bytes(tmp_path / "out"), rel=0.02)


def _bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("stored", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_inspect_and_pack_ask_for_the_same_space(stored: Any, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(0.3, (300, 50)).astype(np.float32)
    obs = pd.DataFrame({"drug_dose": ["DMSO", "A", "B"] * 100, "cell_line": "L", "batch": "p"})
    obs.index = [f"c{i}" for i in range(300)]
    path = tmp_path / "cells.h5ad"
    anndata.AnnData(stored(counts), obs=obs).write_h5ad(path)
    settings = Dataset(files=[str(path)], control_pert="DMSO", scale="counts")
    report = inspect([path], settings)
    assert report.problems == []
    assert report.needs is not None
    asked = disk_space.need([path], settings)
    assert asked == report.needs.pack
    copy = 12 * np.count_nonzero(counts) if stored is sparse.csc_matrix else 0
    plain = disk_space.pack_need(
        [replace(disk_space._size_of(path, settings), csc_value_bytes=None)], settings
    )
    assert asked.parts == plain.parts + copy


def test_training_bytes_by_hand() -> None:
    need = training_bytes(10**9, 2000, n_sets=64, cell_set_len=256, n_batches=4)
    batch = np.zeros((64, 256, 2000), dtype=np.float32).nbytes
    assert (need.mapped, need.ring, need.on_gpu) == (10**9, 4 * 2 * batch, True)
    assert not training_bytes(41 * 10**9, 10, gpu_bytes=80e9).on_gpu
    assert training_bytes(39 * 10**9, 10, gpu_bytes=80e9).on_gpu


def test_pack_memory_grows_with_the_largest_file_or_line() -> None:
    assert pack_memory_bytes(10_000_000) - pack_memory_bytes(0) == 400_000_000
