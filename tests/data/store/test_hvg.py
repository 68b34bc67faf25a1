"""Highly variable genes: the published formulas, scanpy, planted genes, any cut into parts."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from skmisc.loess import loess

from statetx.core.errors import ConfigError, DataError
from statetx.data.store import hvg
from statetx.data.store.hvg import Part, choose

N_CELLS, N_GENES = 1200, 400
PLANTED = np.arange(7, N_GENES, 20)
"""Columns whose counts are far more dispersed than their mean lets expect."""
SILENT = np.array([3, 150, N_GENES - 1])
"""Columns without a count."""
KINDS = ["counts", "log1p"]


def draw(seed: int = 0) -> np.ndarray:
    """Draw counts [cells, genes]: negative binomial around means of 0.05 to 20."""
    rng = np.random.default_rng(seed)
    mean = 10 ** rng.uniform(-1.3, 1.3, N_GENES)
    mean[PLANTED] = 10 ** rng.uniform(-0.3, 1.0, len(PLANTED))
    mean[SILENT] = 0.0
    overdispersion = np.full(N_GENES, 0.1)
    overdispersion[PLANTED] = 5.0
    depth = rng.lognormal(0.0, 0.2, (N_CELLS, 1))
    noise = rng.gamma(1 / overdispersion, overdispersion, (N_CELLS, N_GENES))
    return rng.poisson(mean * depth * noise)


def log1p(counts: np.ndarray) -> np.ndarray:
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def cells() -> dict[str, np.ndarray]:
    counts = draw()
    return {"counts": counts.astype(np.uint16), "log1p": log1p(counts)}


def cut(dense: np.ndarray, *at: int, reverse: bool = False) -> Callable[[], Iterator[Part]]:
    """Return the `parts` of a matrix, cut at the rows `at`; each indptr starts where it is cut."""
    whole = sparse.csr_matrix(dense)
    edges = [0, *at, dense.shape[0]]
    runs = list(itertools.pairwise(edges))

    def parts() -> Iterator[Part]:
        for start, stop in reversed(runs) if reverse else runs:
            indptr = whole.indptr[start : stop + 1].astype(np.int64)
            run = slice(indptr[0], indptr[-1])
            yield indptr, whole.indices[run].astype(np.uint16), whole.data[run]

    return parts


def standardised_variance(counts: np.ndarray) -> np.ndarray:
    """Return seurat_v3's score from the dense matrix; -inf for a gene that does not vary."""
    x = counts.astype(np.float64)
    mean, variance = x.mean(axis=0), x.var(axis=0, ddof=1)
    varies = variance > 0
    model = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=0.3, degree=2)
    model.fit()
    expected = np.ones(len(mean))
    expected[varies] = np.sqrt(10**model.outputs.fitted_values)
    clipped = np.minimum(x, mean + expected * np.sqrt(len(x)))
    score = (((clipped - mean) / expected) ** 2).sum(axis=0) / (len(x) - 1)
    return np.where(varies, score, -np.inf)


def normalised_dispersion(logged: np.ndarray) -> np.ndarray:
    """Return seurat's score from the dense matrix; -inf for a gene that does not vary."""
    x = np.expm1(logged.astype(np.float64))
    mean, variance = x.mean(axis=0), x.var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        dispersion = np.where(variance > 0, np.log(variance / mean), np.nan)
    table = pd.DataFrame({"d": dispersion, "bin": pd.cut(np.log1p(mean), 20)})
    bins = table.groupby("bin", observed=False)["d"]
    score = (table["d"] - bins.transform("mean")) / bins.transform("std")
    alone = (bins.transform("count") == 1) & table["d"].notna()
    return score.mask(alone, 1.0).fillna(-np.inf).to_numpy()


REFERENCE = {"counts": standardised_variance, "log1p": normalised_dispersion}


def best(score: np.ndarray, n: int) -> np.ndarray:
    return np.sort(np.lexsort((np.arange(len(score)), -np.round(score, 9)))[:n])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_whole_ranking_is_that_of_the_dense_formula(kind: str, seed: int) -> None:
    counts = draw(seed)
    dense = counts if kind == "counts" else log1p(counts)
    score = REFERENCE[kind](dense)
    parts = cut(dense, 100, 101, 900)
    for n in (1, 2, 5, 20, 21, 50, 100, 200, 300, 390, N_GENES - len(SILENT)):
        np.testing.assert_array_equal(choose(parts, N_GENES, n, kind), best(score, n))


@pytest.mark.parity
@pytest.mark.parametrize(("kind", "flavor"), [("counts", "seurat_v3"), ("log1p", "seurat")])
def test_same_genes_as_scanpy(cells: dict[str, np.ndarray], kind: str, flavor: str) -> None:
    scanpy = pytest.importorskip("scanpy")
    from anndata import AnnData

    # float64 of the same values: scanpy takes exp(x) - 1 in the type of X.
    adata = AnnData(sparse.csr_matrix(cells[kind].astype(np.float64)))
    parts = cut(cells[kind], 500)
    column = "variances_norm" if kind == "counts" else "dispersions_norm"
    compared = 0
    for n in range(1, N_GENES - len(SILENT)):
        table = scanpy.pp.highly_variable_genes(adata, n_top_genes=n, flavor=flavor, inplace=False)
        ranked = np.sort(table[column].fillna(-np.inf).to_numpy())[::-1]
        if np.isclose(ranked[n - 1], ranked[n], atol=1e-6):
            continue  # a tie: scanpy takes both genes of it, or either
        expected = np.flatnonzero(table["highly_variable"].to_numpy())
        np.testing.assert_array_equal(choose(parts, N_GENES, n, kind), expected)
        compared += 1
    assert compared > 300


@pytest.mark.parametrize("kind", KINDS)
def test_planted_genes_are_chosen_and_silent_ones_never(
    cells: dict[str, np.ndarray], kind: str
) -> None:
    parts = cut(cells[kind])
    found = np.intersect1d(choose(parts, N_GENES, len(PLANTED), kind), PLANTED)
    # The dispersions of three planted genes in one bin of 18 widen the spread that they are
    # divided by: log1p ranks all three below chance outliers of other bins.
    assert len(found) >= {"counts": len(PLANTED), "log1p": len(PLANTED) - 3}[kind]
    every = choose(parts, N_GENES, N_GENES - len(SILENT), kind)
    np.testing.assert_array_equal(every, np.setdiff1d(np.arange(N_GENES), SILENT))


@pytest.mark.parametrize("kind", KINDS)
def test_neither_cut_nor_order_of_the_cells_matters(
    cells: dict[str, np.ndarray], kind: str
) -> None:
    dense = cells[kind]
    shuffled = dense[np.random.default_rng(0).permutation(N_CELLS)]
    one_by_one = cut(dense, *range(1, N_CELLS))
    for n in range(1, N_GENES - len(SILENT), 30):
        expected = choose(cut(dense), N_GENES, n, kind)
        assert expected.dtype == np.int64
        for parts in (
            cut(dense, 0, 400, 400, 1000),  # two of them empty
            cut(dense, 400, 1000, reverse=True),
            cut(shuffled, 77),
        ):
            np.testing.assert_array_equal(choose(parts, N_GENES, n, kind), expected)
    np.testing.assert_array_equal(choose(one_by_one, N_GENES, n, kind), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_types_of_values_and_indices_do_not_matter(
    cells: dict[str, np.ndarray], dtype: type
) -> None:
    counts = np.minimum(cells["counts"], 255)
    parts = cut(counts.astype(dtype), 600)

    def wide() -> Iterator[Part]:
        for indptr, indices, values in parts():
            yield indptr, indices.astype(np.int32), values

    for n in (20, 150, 350):
        expected = choose(cut(counts), N_GENES, n, "counts")
        np.testing.assert_array_equal(choose(parts, N_GENES, n, "counts"), expected)
        np.testing.assert_array_equal(choose(wide, N_GENES, n, "counts"), expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_scores_are_exact_to_float64(cells: dict[str, np.ndarray], dtype: type) -> None:
    counts = cells["counts"].astype(np.int64)
    counts[::3, 40] = 65_001  # squared, beyond uint32 and the digits of float32
    parts = cut(counts.astype(dtype), 500)
    moments = hvg._moments(parts(), N_GENES, undo_log=False)
    assert moments.n_cells == N_CELLS
    np.testing.assert_allclose(moments.mean, counts.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance, counts.var(axis=0, ddof=1), rtol=1e-12)
    varies = moments.variance > 0
    score = hvg._standardised_variance(parts(), moments, varies)
    np.testing.assert_allclose(score[varies], standardised_variance(counts)[varies], rtol=1e-9)


def test_one_huge_value_is_clipped(cells: dict[str, np.ndarray]) -> None:
    counts = cells["counts"].astype(np.int32)
    gene = int(np.flatnonzero(counts.mean(axis=0) > 5)[-1])
    assert gene not in PLANTED
    counts[0, gene] = 100_000
    unclipped = counts.var(axis=0) / np.maximum(counts.mean(axis=0), 1e-12)
    assert unclipped.argmax() == gene
    assert gene not in choose(cut(counts), N_GENES, len(PLANTED), "counts")


@pytest.mark.parametrize("kind", KINDS)
def test_equal_genes_rank_by_column(cells: dict[str, np.ndarray], kind: str) -> None:
    first, second = int(PLANTED[4]), int(PLANTED[9])
    dense = cells[kind].copy()
    dense[:, second] = dense[::-1, first]  # the same values in other cells
    alone = 0
    for n in range(1, len(PLANTED) + 1):
        chosen = choose(cut(dense, 300), N_GENES, n, kind)
        assert first in chosen or second not in chosen
        alone += first in chosen and second not in chosen
    assert alone == 1


def test_bins_of_one_of_two_and_of_equal_genes() -> None:
    """Seven genes by hand: a bin of equal dispersions, one of two genes, one of one gene."""
    x = np.zeros((4, 7))
    x[:, 0] = x[::-1, 1] = 0, 1, 0, 1
    x[:, 2] = 30, 34, 30, 34
    x[:, 3] = 30, 33, 30, 33
    x[:, 4] = 500, 510, 500, 510
    x[:, 5] = 0.3  # does not vary
    logged = np.log1p(x)
    # Scores: 4 is alone (1); 2 and 3 share a bin (+-0.707); 0 and 1 are equal (0).
    for n, expected in enumerate([[4], [2, 4], [0, 2, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4]], start=1):
        for parts in (cut(logged), cut(logged, 1, 2, 3, reverse=True)):
            assert choose(parts, 7, n, "log1p").tolist() == expected
    with pytest.raises(ConfigError, match="5 of the 7 genes vary"):
        choose(cut(logged), 7, 6, "log1p")


@pytest.mark.parametrize("equal", [True, False])
def test_noise_of_the_summation_decides_nothing(equal: bool) -> None:
    """Pairs of genes, each pair in a bin of its own, so that every gene ties with many others."""
    rng = np.random.default_rng(0)
    n_pairs, n_cells = 12, 300
    x = np.zeros((n_cells, 2 * n_pairs))
    for pair in range(n_pairs):
        values = np.exp(0.8 * (pair + 1)) * rng.uniform(0.9, 1.1, n_cells)
        x[:, 2 * pair] = values
        # The same values in other cells (a bin without spread), or 5 % further from their mean.
        stretched = values if equal else values.mean() + 1.05 * (values - values.mean())
        x[:, 2 * pair + 1] = rng.permutation(stretched)
    order = range(2 * n_pairs) if equal else [*range(1, 2 * n_pairs, 2), *range(0, 2 * n_pairs, 2)]
    logged = np.log1p(x)
    for parts in (cut(logged), cut(logged, *range(10, n_cells, 10), reverse=True)):
        for n in range(1, 2 * n_pairs + 1):
            expected = sorted(list(order)[:n])
            assert choose(parts, 2 * n_pairs, n, "log1p").tolist() == expected


@pytest.mark.parametrize("value", [0.1, 2.3])
def test_a_constant_gene_of_many_cells_does_not_vary(value: float) -> None:
    n_part, n_parts = 20_000, 50
    values = np.full(n_part, value, dtype=np.float32)

    def parts() -> Iterator[Part]:
        for _ in range(n_parts):
            yield np.arange(n_part + 1), np.zeros(n_part, dtype=np.uint16), values

    with pytest.raises(ConfigError, match="0 of the 1 genes vary in the 1000000 training cells"):
        choose(parts, 1, 1, "log1p")


def test_trend_is_a_local_parabola(cells: dict[str, np.ndarray]) -> None:
    """Against tricube-weighted least squares at every gene; skmisc interpolates between few."""
    x = cells["counts"].astype(np.float64)
    varies = x.var(axis=0) > 0
    mean, variance = x.mean(axis=0)[varies], x.var(axis=0, ddof=1)[varies]
    log_mean, log_variance = np.log10(mean), np.log10(variance)
    expected = []
    for here in log_mean:
        distance = np.abs(log_mean - here)
        width = np.sort(distance)[int(0.3 * len(mean)) - 1]
        weight = np.clip(1 - (distance / width) ** 3, 0, None) ** 1.5  # root of the tricube
        design = np.vander(log_mean - here, 3)
        solution = np.linalg.lstsq(design * weight[:, None], log_variance * weight, rcond=None)
        expected.append(solution[0][-1])
    off = np.abs(np.log10(hvg._trend(mean, variance)) - expected)
    # Measured 0.0008 and 0.010; a span of 0.35 gives 0.0031, 0.25 0.0066, a local line 0.0098.
    assert off.mean() < 0.002
    assert off.max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_cells(cells: dict[str, np.ndarray], kind: str) -> None:
    (part,) = cut(cells[kind])()

    def peak(repeats: int) -> int:
        tracemalloc.start()
        choose(lambda: (part for _ in range(repeats)), N_GENES, 20, kind)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)  # compiles
    few, many = peak(2), peak(200)
    assert many - few < 16_384, "less than a tenth of a byte for each of 237,600 more cells"


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_stay_as_they_are(cells: dict[str, np.ndarray], kind: str) -> None:
    (part,) = cut(cells[kind])()
    for array in part:
        array.flags.writeable = False  # as the mapped store's
    before = [array.copy() for array in part]
    choose(lambda: [part], N_GENES, 20, kind)
    for array, copy in zip(part, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, -1, N_GENES - len(SILENT) + 1])
def test_refuses_more_genes_than_vary(cells: dict[str, np.ndarray], kind: str, n: int) -> None:
    with pytest.raises(ConfigError, match=f"n_hvg = {n}, but 397 of the 400 genes") as caught:
        choose(cut(cells[kind]), N_GENES, n, kind)
    assert caught.value.fix == "set n_hvg between 1 and 397"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [0, 1])
def test_refuses_to_choose_without_cells(
    cells: dict[str, np.ndarray], kind: str, rows: int
) -> None:
    with pytest.raises(DataError, match=f"{rows} training cells"):
        choose(cut(cells[kind][:rows]), N_GENES, 20, kind)
    with pytest.raises(DataError, match="0 training cells"):
        choose(lambda: [], N_GENES, 20, kind)


@pytest.mark.parametrize("n_genes", [1, 2, 3, 4, 6, 9, 12])
def test_says_that_genes_are_too_few_for_the_loess(
    cells: dict[str, np.ndarray], n_genes: int
) -> None:
    dense = np.delete(cells["counts"], SILENT, axis=1)[:, :n_genes]
    with pytest.raises(DataError, match=f"fails for the {n_genes} genes") as caught:
        choose(cut(dense), n_genes, 1, "counts")
    assert "keep more genes" in caught.value.fix


def test_says_that_equal_means_are_too_few_for_the_loess() -> None:
    counts = np.zeros((50, 200), dtype=np.uint8)
    counts[np.arange(200) % 50, np.arange(200)] = 1  # every gene once
    with pytest.raises(DataError, match="fails for the 200 genes"):
        choose(cut(counts), 200, 10, "counts")


def test_refuses_another_set_of_cells_in_the_second_pass(cells: dict[str, np.ndarray]) -> None:
    once = cut(cells["counts"])()
    with pytest.raises(DataError, match="read 0 cells, the first 1200"):
        choose(lambda: once, N_GENES, 20, "counts")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (([0, 1], np.array([400], dtype=np.uint16), [1.0]), "column 400"),
        (([0, 1], np.array([-1], dtype=np.int32), [1.0]), "column -1"),
        (([5, 7], np.array([1], dtype=np.uint16), [1.0]), "declares 2 values, but has 1 columns"),
        (([0, 1], np.array([1], dtype=np.uint16), [-1.0]), "negative or not finite"),
        (([0, 1], np.array([1], dtype=np.uint16), [np.nan]), "negative or not finite"),
        (([0, 1], np.array([1], dtype=np.uint16), [np.inf]), "negative or not finite"),
    ],
)
def test_refuses_damaged_parts(
    cells: dict[str, np.ndarray], part: tuple[list[int], np.ndarray, list[float]], message: str
) -> None:
    damaged = np.array(part[0]), part[1], np.array(part[2], dtype=np.float32)
    (good,) = cut(cells["log1p"])()
    with pytest.raises(DataError, match=f"part 1 of the training cells.*{message}"):
        choose(lambda: [good, damaged], N_GENES, 20, "log1p")
