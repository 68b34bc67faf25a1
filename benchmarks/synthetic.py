"""Write source h5ads with the true imbalance of Tahoe-100M, at any size.

    python benchmarks/synthetic.py --dir DIR --cells 1e6 [--genes 2000] [--lines 4] [--plates 1]
                                   [--obsm X_emb X_hvg] [--sorted]

One file per plate. Conditions and their sizes are those of Tahoe-100M (65,943 conditions of 50
lines, 380 drugs, 14 plates), scaled to the number of cells asked for; cells lie in random order, as
they come off an instrument. Counts are synthetic and say nothing about biology: every condition has
the same distribution. A cell's values are a function of (seed, plate, number), so that ``--sorted``
writes the same cells in another order. Memory: blocks of cells, plus the labels of one plate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import anndata
import h5py
import numba
import numpy as np
import pandas as pd
from common import ROOT
from scipy.optimize import brentq

from statetx.core.writes import whole

GRID = ROOT.parent / "shared" / "data" / "tahoe_design" / "obs_cell_grid.parquet"
CONTROL = "DMSO_TF_00"
DENSITY = 0.1
"""Mean share of genes that are not zero in a cell."""
ABUNDANCE_SD = 2.0
"""SD of log gene abundance. With `DENSITY`: 64 % of the values are 1, 87 % at most 3, 97 % below 10."""
DEPTHS = 16
"""Classes of sequencing depth, log-normal with SD 0.35."""
LARGEST_STEP = 0.9
"""Cap of the probability that a count grows by one more: counts stay below 256, as nearly all do in
the 2,000 variable genes of real data, so that a store can hold them in one byte."""
WIDTH = 512
"""Columns of X_emb."""
BLOCK = 4096
"""Cells made at a time: 6.5 MB of CSR, 33 MB of X_hvg."""
AHEAD = 4
"""Blocks made while one is written."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ODD = np.uint64(0xD1342543DE82EF95)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S16, _S27, _S30, _S31, _S32, _S60 = (np.uint64(n) for n in (16, 27, 30, 31, 32, 60))


def design(
    cells: float, lines: int | None = None, plates: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Return the conditions and their sizes: ``line, perturbation, plate, n_cells``.

    Parameters
    ----------
    cells
        Cells in all, met to within the rounding of conditions.
    lines, plates
        Keep only so many, drawn at random, so that the conditions stay large. None: all.
    seed
        Of the draw and of the rounding, which is up or down at random: small conditions may vanish,
        but controls keep at least one cell.
    """
    if not GRID.exists():
        raise SystemExit(f"the design of Tahoe-100M is not there: {GRID}")
    grid = pd.read_parquet(GRID).sort_values(["plate", "cell_name", "drug", "conc"])
    rng = np.random.default_rng([seed, 0])
    for column, kept in (("plate", plates), ("cell_name", lines)):
        if kept is not None:
            chosen = rng.permutation(np.sort(grid[column].unique()))[:kept]
            grid = grid[grid[column].isin(chosen)]
    control = (grid["conc"] == 0).to_numpy()
    sizes = grid["n_cells"].to_numpy() * (cells / grid["n_cells"].sum())
    n = np.floor(sizes + rng.random(len(sizes))).astype(np.int64)
    labels = grid["drug"] + "_" + grid["conc"].map("{:g}".format)
    out = pd.DataFrame(
        {
            "line": grid["cell_name"].to_numpy(),
            "perturbation": np.where(control, CONTROL, labels),
            "plate": grid["plate"].to_numpy(),
            "n_cells": np.where(control, np.maximum(n, 1), n),
        }
    )
    return out[out["n_cells"] > 0].reset_index(drop=True)


def write(
    conditions: pd.DataFrame,
    directory: Path,
    genes: int = 2000,
    obsm: Sequence[str] = (),
    in_order: bool = False,
    seed: int = 0,
) -> list[Path]:
    """Write ``<plate>.h5ad`` for every plate of `design` and return the paths.

    X: counts, CSR, float32 data and int32 indices in contiguous uncompressed datasets, which is how
    anndata writes. obs: ``drug_dose``, ``cell_line``, ``batch``, all categorical.

    Parameters
    ----------
    conditions
        From `design`.
    directory
        Made if need be.
    genes
        Columns of X.
    obsm
        ``X_emb`` (512 wide, noise) and ``X_hvg`` (ln(1 + 10^4 count / total) of all genes), float32.
    in_order
        Sort the cells of a file by (line, perturbation) instead of leaving them shuffled.
    seed
        Of the values and of the order.
    """
    steps = _steps(genes, seed)
    paths = []
    for number, (plate, part) in enumerate(conditions.groupby("plate", sort=True)):
        rng = np.random.default_rng([seed, 1, number])
        condition = rng.permutation(np.repeat(np.arange(len(part)), part["n_cells"]))
        ids = np.arange(len(condition))
        if in_order:
            order = np.lexsort((part["perturbation"], part["line"]))
            rank = np.empty(len(part), dtype=np.int64)
            rank[order] = np.arange(len(part))
            ids = np.argsort(rank[condition], kind="stable")
        base = np.random.SeedSequence([seed, 2, number]).generate_state(1, np.uint64)[0]
        with whole(directory / f"{plate}.h5ad") as path, h5py.File(path, "w") as file:
            _write_frames(file, part.iloc[condition[ids]], str(plate), ids, genes, "X_hvg" in obsm)
            _write_cells(file, ids, base, steps, genes, obsm)
        paths.append(directory / f"{plate}.h5ad")
    return paths


def _steps(genes: int, seed: int) -> np.ndarray:
    """Return P(count > k | count >= k) in units of 2^-16, [DEPTHS, genes padded to 4], uint16.

    It does not depend on k: counts are negative binomial with dispersion 1 (geometric), so a gene
    of mean m is seen with probability m / (1 + m), and that is also the probability of each further
    count.
    """
    rng = np.random.default_rng([seed, 3])
    abundance = rng.normal(0.0, ABUNDANCE_SD, genes)
    depth = rng.normal(0.0, 0.35, DEPTHS)

    def step(scale: float) -> np.ndarray:
        mean = np.exp(abundance + depth[:, None] + scale)
        return np.minimum(mean / (1 + mean), LARGEST_STEP)

    scale = brentq(lambda at: float(step(at).mean()) - DENSITY, -20.0, 20.0)
    padded = np.zeros((DEPTHS, -(-genes // 4) * 4), dtype=np.uint16)
    padded[:, :genes] = np.rint(step(scale) * 2**16)
    return padded


def _write_frames(
    file: h5py.File, cells: pd.DataFrame, plate: str, ids: np.ndarray, genes: int, hvg: bool
) -> None:
    obs = pd.DataFrame(
        {
            "drug_dose": pd.Categorical(cells["perturbation"]),
            "cell_line": pd.Categorical(cells["line"]),
            "batch": pd.Categorical(cells["plate"]),
        }
    ).set_index(pd.Index([f"{plate}-{i:08d}" for i in ids.tolist()]))
    names = pd.Index([f"Gene{i:05d}" for i in range(genes)])
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    write_elem = anndata.io.write_elem
    write_elem(file, "obs", obs)
    write_elem(file, "var", pd.DataFrame(index=names))
    write_elem(file, "uns", {"hvg_names": names.to_numpy(dtype=object)} if hvg else {})
    for empty in ("obsm", "layers", "obsp", "varm", "varp"):
        write_elem(file, empty, {})


class _Block(NamedTuple):
    """Cells [start, stop) of a file."""

    start: int
    stop: int
    indices: np.ndarray
    data: np.ndarray
    obsm: dict[str, np.ndarray]


def _write_cells(
    file: h5py.File,
    ids: np.ndarray,
    base: np.uint64,
    steps: np.ndarray,
    genes: int,
    obsm: Sequence[str],
) -> None:
    n = len(ids)
    starts = range(0, n, BLOCK)
    lengths = np.zeros(n, dtype=np.int64)

    def count(start: int) -> None:
        _lengths(ids[start : start + BLOCK], base, steps, lengths[start : start + BLOCK])

    with ThreadPoolExecutor(2) as pool:
        # The lengths first (a fifth of the work): a contiguous dataset has to know its size.
        list(pool.map(count, starts))
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.asarray([n, genes], dtype=np.int64)
        group.create_dataset("indptr", data=indptr)
        indices = group.create_dataset("indices", shape=(int(indptr[-1]),), dtype=np.int32)
        data = group.create_dataset("data", shape=(int(indptr[-1]),), dtype=np.float32)
        dense = {}
        for key in obsm:
            width = {"X_emb": WIDTH, "X_hvg": genes}[key]
            dense[key] = file["obsm"].create_dataset(key, shape=(n, width), dtype=np.float32)
            dense[key].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

        def make(start: int) -> _Block:
            stop = min(n, start + BLOCK)
            return _block(start, stop, ids[start:stop], base, steps, indptr, dense)

        for block in _ahead(pool, make, starts):
            part = slice(indptr[block.start], indptr[block.stop])
            indices[part], data[part] = block.indices, block.data
            for key, values in block.obsm.items():
                dense[key][block.start : block.stop] = values


def _ahead(
    pool: ThreadPoolExecutor, make: Callable[[int], _Block], starts: range
) -> Iterator[_Block]:
    """Yield the blocks in order, at most `AHEAD` of them made and not yet taken."""
    waiting: deque[Future[_Block]] = deque()
    for start in starts:
        waiting.append(pool.submit(make, start))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _block(
    start: int,
    stop: int,
    ids: np.ndarray,
    base: np.uint64,
    steps: np.ndarray,
    indptr: np.ndarray,
    dense: dict[str, h5py.Dataset],
) -> _Block:
    ends = indptr[start : stop + 1] - indptr[start]
    indices = np.empty(ends[-1] + 1, dtype=np.int32)  # one more: `_fill` writes before it looks
    data = np.empty(ends[-1], dtype=np.float32)
    _fill(ids, base, steps, ends, indices, data)
    obsm = {}
    for key, dataset in dense.items():
        obsm[key] = np.zeros((stop - start, dataset.shape[1]), dtype=np.float32)
        if key == "X_hvg":
            _log1p(ends, indices, data, obsm[key])
        else:
            _noise(ids, base, obsm[key])
    return _Block(start, stop, indices[:-1], data, obsm)


@numba.njit(nogil=True, cache=True, inline="always")
def _mixed(x):  # type: ignore[no-untyped-def]
    """Finaliser of splitmix64: turns a counter into 64 random bits."""
    x = (x ^ (x >> _S30)) * _M1
    x = (x ^ (x >> _S27)) * _M2
    return x ^ (x >> _S31)


@numba.njit(nogil=True, cache=True)
def _lengths(ids, base, steps, out):  # type: ignore[no-untyped-def]
    """Count the values of each cell that are not zero."""
    for row in range(ids.size):
        key = _mixed(base + np.uint64(ids[row]) * _ODD)
        own = steps[np.int64(key >> _S60)]
        n = 0
        for word in range(own.size // 4):
            draw = _mixed(key + np.uint64(word) * _GOLDEN)
            n += np.uint16(draw) < own[4 * word]
            n += np.uint16(draw >> _S16) < own[4 * word + 1]
            n += np.uint16(draw >> _S32) < own[4 * word + 2]
            n += np.uint16(draw >> (_S32 + _S16)) < own[4 * word + 3]
        out[row] = n


@numba.njit(nogil=True, cache=True)
def _fill(ids, base, steps, ends, indices, data):  # type: ignore[no-untyped-def]
    """Draw genes and counts of each cell; the same draws as in `_lengths` say which genes."""
    for row in range(ids.size):
        key = _mixed(base + np.uint64(ids[row]) * _ODD)
        own = steps[np.int64(key >> _S60)]
        at = ends[row]
        for word in range(own.size // 4):
            draw = _mixed(key + np.uint64(word) * _GOLDEN)
            for lane in range(4):
                gene = 4 * word + lane
                indices[at] = gene  # without a branch, which would be mispredicted 200 times a cell
                at += np.uint16(draw) < own[gene]
                draw >>= _S16
        draw = key ^ _M1
        for place in range(ends[row], ends[row + 1]):
            step = own[indices[place]]
            value = 1
            draw = _mixed(draw + _GOLDEN)
            while np.uint16(draw) < step:
                value += 1
                draw = _mixed(draw + _GOLDEN)
            data[place] = value


@numba.njit(nogil=True, cache=True)
def _log1p(ends, indices, data, out):  # type: ignore[no-untyped-def]
    """Write ln(1 + 10^4 count / total), the total being the sum of the row."""
    for row in range(out.shape[0]):
        total = max(1.0, data[ends[row] : ends[row + 1]].sum())
        for place in range(ends[row], ends[row + 1]):
            out[row, indices[place]] = np.log1p(1e4 * data[place] / total)


@numba.njit(nogil=True, cache=True)
def _noise(ids, base, out):  # type: ignore[no-untyped-def]
    """Write uniform noise in [-1, 1)."""
    for row in range(ids.size):
        key = _mixed(base ^ (np.uint64(ids[row]) * _ODD))
        for column in range(out.shape[1]):
            draw = _mixed(key + np.uint64(column) * _GOLDEN)
            out[row, column] = np.float32(draw >> _S32) / np.float32(2**31) - np.float32(1)


def main() -> None:
    """Write the files and say what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dir", type=Path, help="where to; a new temporary directory if missing")
    parser.add_argument("--cells", type=float, default=1e5)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--lines", type=int, help="keep only so many cell lines")
    parser.add_argument("--plates", type=int, help="keep only so many plates")
    parser.add_argument("--obsm", nargs="*", default=[], choices=["X_emb", "X_hvg"])
    parser.add_argument("--sorted", action="store_true", help="sort by (line, perturbation)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    directory = options.dir or Path(tempfile.mkdtemp(prefix="synthetic"))
    conditions = design(options.cells, options.lines, options.plates, options.seed)
    begin = time.perf_counter()
    paths = write(conditions, directory, options.genes, options.obsm, options.sorted, options.seed)
    seconds = time.perf_counter() - begin
    cells = int(conditions["n_cells"].sum())
    figures = {
        "directory": str(directory),
        "files": len(paths),
        "cells": cells,
        "conditions": len(conditions),
        "bytes": sum(path.stat().st_size for path in paths),
        "seconds": round(seconds, 1),
        "cells_per_s": round(cells / seconds),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
