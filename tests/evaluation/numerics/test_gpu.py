"""Tests and sums over pairs by torch give the numbers of the compiled loops, on every device here."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.spatial.distance import cdist

from statetx.evaluation.numerics import gene_sort_gpu, gpu
from statetx.evaluation.numerics import pair_sums as pairs
from statetx.evaluation.numerics import pair_sums_gpu as gpu_pairs
from statetx.evaluation.numerics import rank_sum as ranks
from statetx.evaluation.numerics import rank_sum_gpu as gpu_ranks
from statetx.evaluation.numerics.sorted_cells import SortedCells

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
on_devices = pytest.mark.parametrize("device", DEVICES)


def expression(n: int, genes: int, density: float, seed: int, signed: bool = False) -> np.ndarray:
    """Values with ties, some of them in both sides; empty cells, silent, constant and untied genes."""
    generator = np.random.default_rng(seed)
    kept = generator.random((n, genes)) < density
    values = np.log1p(np.ceil(generator.gamma(1, 3, (n, genes)))) * kept
    values[:, 0] = generator.random(n)
    values[:, 1] = 0.0
    values[:, 2] = 1.5
    values[:, 3] = np.arange(n) < n // 3
    values[::7] = 0.0
    return values - np.log(3) * (values > 0) if signed else values


def ranked(control: ranks.SortedControl, device: str) -> gpu_ranks.GpuControl:
    return gpu_ranks.GpuControl(
        control.cells, control._ties, control._negatives, torch.device(device)
    )


@on_devices
@pytest.mark.parametrize("sizes", [(1, 7), (7, 1), (60, 500), (500, 60), (80, 5000)])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kinds", [("f4", "f4"), ("f8", "f8"), ("f4", "f8"), ("f8", "f4")])
def test_ranks_are_those_of_the_loops(
    device: str, sizes: tuple[int, int], signed: bool, kinds: tuple[str, str]
) -> None:
    control = ranks.SortedControl.from_cells(
        expression(sizes[1], 40, 0.3, 1, signed).astype(kinds[1])
    )
    there = ranked(control, device)
    for seed, density in ((2, 0.3), (3, 1.0), (4, 0.0)):
        cells = sparse.csr_matrix(expression(sizes[0], 40, density, seed, signed).astype(kinds[0]))
        target = SortedCells.from_cells(cells)
        expected = control.test(target)
        statistic, pvalue = there.test(target)
        np.testing.assert_array_equal(statistic, expected.statistic)
        np.testing.assert_array_equal(pvalue, expected.pvalue)


@on_devices
def test_far_tails_keep_their_digits(device: str) -> None:
    shift = np.linspace(0, 3, 30)
    x = np.abs(np.random.default_rng(0).normal(1 + shift, 1, (800, 30)))
    control = ranks.SortedControl.from_cells(
        np.abs(np.random.default_rng(1).normal(1, 1, (1500, 30)))
    )
    target = SortedCells.from_cells(x)
    expected = control.test(target)
    assert 0 < expected.pvalue.min() < 1e-200
    np.testing.assert_array_equal(ranked(control, device).test(target)[1], expected.pvalue)


@on_devices
@pytest.mark.parametrize("block", [1, 50, 777])
def test_blocks_of_genes_do_not_matter(
    device: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = ranks.SortedControl.from_cells(expression(300, 40, 0.3, 1))
    target = SortedCells.from_cells(expression(900, 40, 0.5, 2))
    expected = ranked(control, device).counts(target)
    monkeypatch.setattr(gene_sort_gpu, "VALUES", block)
    for found, whole in zip(ranked(control, device).counts(target), expected, strict=True):
        np.testing.assert_array_equal(found, whole)


@on_devices
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("block", [100, 1 << 24])
def test_sorted_within_genes(
    device: str, kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gene_sort_gpu, "VALUES", block)
    generator = np.random.default_rng(0)
    counts = np.append(generator.integers(0, 60, 50), 0)
    starts = np.append(0, np.cumsum(counts))
    values = generator.normal(size=starts[-1]).round(1).astype(kind)
    expected = np.concatenate([np.sort(part) for part in np.split(values, starts[1:-1])])
    assert gene_sort_gpu.sort_genes(starts, values, torch.device(device))
    np.testing.assert_array_equal(values, expected)


def points(cells: np.ndarray, centre: np.ndarray, device: str) -> gpu_pairs.Points:
    kind = np.dtype(np.float64 if cells.dtype == np.float64 else np.float32)
    return gpu_pairs.Points(cells, centre, kind, torch.device(device))


GAMMAS = [0.001, 0.002, 0.004, 0.05, 3.0]


@on_devices
@pytest.mark.parametrize("kinds", [("f4", "f4"), ("f8", "f8"), ("f4", "f8")])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_sums_over_pairs_are_those_of_the_loops(
    device: str, kinds: tuple[str, str], form: type, density: float
) -> None:
    x = form(expression(130, 300, density, 5).astype(kinds[0]))
    y = form(expression(300, 300, density, 6).astype(kinds[1]))
    centre = np.asarray(y.mean(axis=0)).ravel()
    one, two = pairs.Cloud(x, centre), pairs.Cloud(y, centre)
    here, there = points(x, centre, device), points(y, centre, device)
    left, right = (np.asarray(cells.todense() if sparse.issparse(cells) else cells, float) for cells in (x, y))  # fmt: skip
    for found, loops, distance in (
        (gpu_pairs.pair_sums(here, there, GAMMAS), pairs.pair_sums(one, two, GAMMAS), cdist(left, right)),
        (gpu_pairs.pair_sums(there, here, GAMMAS), pairs.pair_sums(two, one, GAMMAS), cdist(right, left)),
        (gpu_pairs.pair_sums(there, None, GAMMAS), pairs.pair_sums(two, None, GAMMAS), cdist(right, right)),
    ):  # fmt: skip
        expected = [distance.sum(), *(np.exp(-g * distance**2).sum() for g in GAMMAS)]
        # Centred cells keep the digits of their type: 6e-8 of a value of float32.
        tolerance = 1e-12 if kinds == ("f8", "f8") else 1e-6
        np.testing.assert_allclose(found, expected, rtol=tolerance)
        if kinds[0] == kinds[1]:
            np.testing.assert_allclose(found, loops, rtol=tolerance)


@on_devices
@pytest.mark.parametrize("rows", [7, 64, 4096])
@pytest.mark.parametrize("resident", [0, 1 << 30])
def test_blocks_of_cells_do_not_matter(
    device: str, rows: int, resident: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_pairs, "ROWS", rows)
    monkeypatch.setattr(gpu_pairs, "RESIDENT", resident)
    x, y = expression(50, 30, 0.5, 7), expression(130, 30, 0.5, 8)
    centre = y.mean(axis=0)
    here, there = points(x, centre, device), points(y, centre, device)
    for found, left, right in (
        (gpu_pairs.pair_sums(here, there, GAMMAS), x, y),
        (gpu_pairs.pair_sums(there, None, GAMMAS), y, y),
    ):
        distance = cdist(left, right)
        expected = [distance.sum(), *(np.exp(-g * distance**2).sum() for g in GAMMAS)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert bool(there._kept) == bool(resident)


@on_devices
def test_cells_that_nearly_agree_keep_their_distances(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_pairs, "ROOM", 20_000)  # several stretches of pairs
    generator = np.random.default_rng(9)
    one = expression(2, 200, 1.0, 3)[1]
    x = (one + 1e-3 * generator.random((70, 200))).astype(np.float32)
    y = (x + 1e-4 * generator.random(x.shape)).astype(np.float32)
    for centre in (one, 0 * one):
        for other in (y, None):
            right = None if other is None else points(other, centre, device)
            found = gpu_pairs.pair_sums(points(x, centre, device), right, [])
            expected = cdist(x.astype(float), (x if other is None else other).astype(float)).sum()
            assert found[0] == pytest.approx(expected, rel=1e-5)
    same = points(np.repeat(x[:1], 5, axis=0), one, device)
    np.testing.assert_array_equal(gpu_pairs.pair_sums(same, None, [0.5]), [0.0, 25.0])


@on_devices
def test_products_are_exact_whatever_a_training_has_set(device: str) -> None:
    x = expression(600, 200, 0.5, 1).astype(np.float32)
    before = torch.get_float32_matmul_precision()
    cloud = pairs.Cloud(x)
    try:
        torch.set_float32_matmul_precision("medium")
        found = gpu_pairs.pair_sums(points(x, cloud._centre, device), None, GAMMAS)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_allclose(found, pairs.pair_sums(cloud, None, GAMMAS), rtol=1e-6)


def give_all_to(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a device do everything, however small."""
    monkeypatch.setattr(gpu_pairs, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(gpu_ranks, "LEAST_VALUES", 0)
    monkeypatch.setattr(gene_sort_gpu, "LEAST_VALUES", 0)
    for module in (pairs, gpu_ranks, gene_sort_gpu):
        monkeypatch.setattr(module, "gpu", lambda: torch.device(device))


def both_ways() -> tuple[np.ndarray, ...]:
    """Test statistics, p and sums over pairs by the public functions."""
    x, y = (expression(n, 40, 0.5, n).astype(np.float32) for n in (60, 90))
    cloud = pairs.Cloud(y)
    return (
        *ranks.rank_sum(sparse.csr_matrix(x), y),
        pairs.pair_sums(cloud, pairs.Cloud(x, cloud._centre), GAMMAS),
        pairs.pair_sums(cloud, None, GAMMAS),
        pairs.pair_sums(pairs.Cloud(np.repeat(x[:1], 4, axis=0)), None, GAMMAS),
    )


@on_devices
def test_the_public_functions_use_a_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = both_ways()
    give_all_to(device, monkeypatch)
    called: list[str] = []

    def note(place: Any, name: str) -> None:
        real = getattr(place, name)

        def noted(*given: object) -> object:
            called.append(name)
            return real(*given)

        monkeypatch.setattr(place, name, noted)

    note(gene_sort_gpu, "sort_genes")
    note(gpu_ranks.GpuControl, "_test")
    note(gpu_pairs, "pair_sums")
    found = both_ways()
    assert called == ["sort_genes", "sort_genes", "_test", "pair_sums", "pair_sums"]
    for one, other in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found[2:], expected[2:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_full_gpu_leaves_the_work_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    give_all_to("cpu", monkeypatch)

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        for module in (gpu, gpu_ranks, gpu_pairs):
            patch.setattr(module, "send", full)
        found = both_ways()
    assert {record.getMessage() for record in caplog.records} == {
        "left to the CPU: CUDA out of memory. Tried to allocate 1 GiB"
    }
    for one, other in zip(found, both_ways(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_torch_is_not_imported_without_a_driver() -> None:
    code = (
        "import sys; from statetx.evaluation.numerics import gpu, pair_sums as pairs, rank_sum as ranks; gpu._DRIVERS = ()\n"
        "assert gpu.gpu_if_started() is None and gpu.gpu() is None and gpu.gpu_if_started() is None\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_hidden_or_taken_gpu_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable")

    monkeypatch.setattr(gpu, "_DRIVERS", ("/dev/null",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", taken)
    for hidden in ("", "-1", "0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert gpu.gpu.__wrapped__() is None
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    assert gpu.gpu.__wrapped__() == torch.device("cuda")
