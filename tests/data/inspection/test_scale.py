"""Evidence of scale: against matrices whose making is known."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

from statetx.data.h5ad.matrix import Matrix
from statetx.data.inspection.scale import Seen, look


def seen(values: np.ndarray, tmp_path: Path, layout: str = "csr") -> Seen:
    kinds = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}
    path = tmp_path / f"{layout}.h5ad"
    anndata.AnnData(kinds[layout](values)).write_h5ad(path)
    with h5py.File(path, "r") as file:
        return look(Matrix(file, "X", path))


@pytest.fixture
def counts() -> np.ndarray:
    found = np.random.default_rng(0).poisson(1.5, (600, 40)).astype(np.float32)
    found[:, 0] += 1  # no empty cell
    return found


def normalised(counts: np.ndarray, target: float) -> np.ndarray:
    return target * counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_counts(counts: np.ndarray, tmp_path: Path, layout: str) -> None:
    found = seen(counts, tmp_path, layout)
    assert (found.scale, found.integral, found.largest) == ("counts", True, counts.max())
    assert found.zeros == pytest.approx((counts == 0).mean(), abs=0.01)
    assert found.largest_count == counts.max()
    if layout == "csc":  # its rows lie all over the file
        assert (found.cells, found.sums) == (0, None)
    else:
        sums = counts.sum(axis=1)
        assert found.cells == len(counts), "four runs of 256 cover 600 rows, some of them twice"
        assert found.sums is not None
        assert (found.sums[0], found.sums[2]) == (sums.min(), sums.max())


@pytest.mark.parametrize("target", [1e4, 1832.5])
def test_log1p_shows_its_target_sum_and_the_counts_behind_it(
    counts: np.ndarray, tmp_path: Path, target: float
) -> None:
    found = seen(np.log1p(normalised(counts, target)).astype(np.float32), tmp_path)
    assert found.scale == "log1p"
    assert found.target_sum == pytest.approx(target, rel=1e-5)
    assert found.largest_count == counts.max()


def test_log1p_without_some_genes_has_no_target_sum(counts: np.ndarray, tmp_path: Path) -> None:
    found = seen(np.log1p(normalised(counts, 1e4))[:, :20].astype(np.float32), tmp_path)
    assert found.scale == "log1p"
    assert found.target_sum is None


def test_smoothed_log1p_has_no_counts_behind_it(counts: np.ndarray, tmp_path: Path) -> None:
    mean = (normalised(counts, 1e4) + normalised(counts[::-1], 1e4)) / 2
    found = seen(np.log1p(mean).astype(np.float32), tmp_path)
    assert found.target_sum == pytest.approx(1e4, rel=1e-5)
    assert found.largest_count is None


def test_normalised_without_a_logarithm(counts: np.ndarray, tmp_path: Path) -> None:
    found = seen(normalised(counts, 1e4).astype(np.float32), tmp_path)
    assert (found.scale, found.integral) == ("counts", False)
    assert found.target_sum == pytest.approx(1e4, rel=1e-5)


def test_scaled_values_and_empty_cells(counts: np.ndarray, tmp_path: Path) -> None:
    found = seen((counts - counts.mean(axis=0)).astype(np.float32), tmp_path)
    assert found.low == pytest.approx(float((counts - counts.mean(axis=0)).min()))
    assert found.sums is None
    counts[5] = 0
    assert seen(counts, tmp_path).empty == 1
    assert seen(np.zeros((3, 4), dtype=np.float32), tmp_path).values == 0


def test_values_that_are_not_finite_do_not_hide_the_others(
    counts: np.ndarray, tmp_path: Path
) -> None:
    counts[3, 0] = np.nan
    found = seen(counts, tmp_path)
    assert found.integral
    assert found.largest == np.nanmax(counts)


@pytest.mark.parametrize("key", ["X", "X_hvg"])
def test_log1p_values_above_the_bound_of_the_declared_target_sum_are_refused(
    tmp_path: Path, key: str
) -> None:
    from statetx.config import Dataset
    from statetx.core.errors import DataError
    from statetx.data.inspection.checks import check_scales

    counts = np.random.default_rng(0).poisson(1.0, (30, 8)).astype(np.float64)
    counts[:, 7] += 200
    million = np.log1p(1e6 * counts / counts.sum(1, keepdims=True)).astype(np.float32)
    cells = anndata.AnnData(million)
    cells.obsm["X_hvg"], cells.uns["hvg_names"] = million, cells.var_names.to_numpy()
    cells.write_h5ad(tmp_path / "a.h5ad")
    expression_key = None if key == "X" else key
    settings = {"files": ["a"], "control_pert": "c", "scale": "log1p"}
    declared = Dataset(**settings, target_sum=1e6, expression_key=expression_key)
    check_scales(tmp_path / "a.h5ad", declared)
    with pytest.raises(DataError, match=r"X.* 13\.\d+; .* 10,000 .* 9\.21"):
        check_scales(tmp_path / "a.h5ad", declared.model_copy(update={"target_sum": 1e4}))
