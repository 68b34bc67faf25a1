"""Highly variable genes of the cells that it is given, in two passes over CSR parts.

Nothing here is as long as the number of cells: a part is added to sums per gene and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit

from statetx.core.errors import ConfigError, DataError

Array = np.ndarray[Any, Any]
Part = tuple[Array, Array, Array]
"""Some cells as CSR: indptr int64 [n + 1], which may start anywhere, and the column indices and
values [nnz] of these cells alone, no column twice in a cell."""

SPAN, DEGREE = 0.3, 2
"""Of the loess: share of the genes in a neighbourhood, and degree of its polynomial."""
BINS = 20
"""Bins of the mean that dispersions are normalised in."""
DECIMALS = 9
"""Scores nearer than this are ties. The order of the parts moves the sums of decimals by 1e-14 of
themselves, and ties are common: the two genes of a bin of two always score +-0.70710678."""
LEAST_CV2 = 1e-8
"""A gene varies when variance / mean^2 is above this. Rounding leaves up to 4e-9 of a gene that is
constant over 10^8 cells."""


def choose(
    parts: Callable[[], Iterable[Part]],
    n_genes: int,
    n_hvg: int,
    kind: Literal["counts", "log1p"],
) -> Array:
    """Choose the most variable genes.

    Neither how the cells are cut into parts nor the order of the parts changes the choice. Genes
    with equal scores: the lower column comes first. A gene that does not vary is never chosen.

    Parameters
    ----------
    parts
        Returns the cells to choose on; called once per pass, with the same cells each time.
    n_genes
        Columns, G.
    n_hvg
        How many to choose.
    kind
        ``counts``: variance of the counts standardised by a loess of variance on mean and clipped,
        "seurat_v3" (Stuart et al. 2019, doi:10.1016/j.cell.2019.05.031), two passes. ``log1p``:
        values are ln(1 + x); dispersion of x normalised within bins of the mean, "seurat"
        (Satija et al. 2015, doi:10.1038/nbt.3192), one pass.

    Returns
    -------
    Column numbers of the chosen genes, sorted, int64 [n_hvg].

    Raises
    ------
    ConfigError
        `n_hvg` is not between 1 and the number of genes that vary.
    DataError
        Fewer than two cells; negative or non-finite values; columns outside [0, G); other cells in
        the second pass; or, for counts, too few genes for the loess.
    """
    moments = _moments(parts(), n_genes, undo_log=kind == "log1p")
    varies = moments.variance > LEAST_CV2 * moments.mean**2
    n_varying = int(varies.sum())
    if not 1 <= n_hvg <= n_varying:
        raise ConfigError(
            f"n_hvg = {n_hvg}, but {n_varying} of the {n_genes} genes vary in the"
            f" {moments.n_cells} training cells",
            where="genes.n_hvg",
            fix=f"set n_hvg between 1 and {n_varying}"
            if n_varying
            else "check X of the source files: no gene differs between two training cells",
        )
    if kind == "counts":
        score = _standardised_variance(parts(), moments, varies)
    else:
        score = _normalised_dispersion(moments, varies)
    score[~varies] = -np.inf
    best_first = np.argsort(-np.round(score, DECIMALS), kind="stable")
    return np.sort(best_first[:n_hvg]).astype(np.int64)


@dataclass(frozen=True)
class _Moments:
    """Number of cells, and float64 [G] over them: mean and variance (n - 1) of each gene."""

    n_cells: int
    mean: Array
    variance: Array


def _moments(parts: Iterable[Part], n_genes: int, undo_log: bool) -> _Moments:
    """Return the moments of the values x, or of x = exp(value) - 1."""
    n, sums, squares = 0, np.zeros(n_genes), np.zeros(n_genes)
    for n_part, indices, values in _checked(parts, n_genes):
        n += n_part
        _add(indices, values, undo_log, sums, squares)
    if n < 2:
        raise DataError(
            f"{n} training cells to choose genes on: a variance needs two",
            fix="give the split training conditions that have cells",
        )
    # In this form whole counts lose nothing before the subtraction (sums below 2^53 are exact):
    # a constant gene gives 0 and not a residue.
    return _Moments(n, sums / n, (n * squares - sums**2) / (n * (n - 1.0)))


def _standardised_variance(parts: Iterable[Part], moments: _Moments, varies: Array) -> Array:
    """Return the variance of (x - mean) / s [G], x clipped at mean + s sqrt(n).

    s is the standard deviation that the loess expects at the gene's mean; where `varies` is false,
    the result means nothing.
    """
    n, mean = moments.n_cells, moments.mean
    deviation = np.ones_like(mean)
    deviation[varies] = np.sqrt(_trend(mean[varies], moments.variance[varies]))
    limit = mean + deviation * np.sqrt(n)
    sums, squares = np.zeros_like(mean), np.zeros_like(mean)
    above = np.zeros(len(mean), dtype=np.int64)
    n_again = 0
    for n_part, indices, values in _checked(parts, len(mean)):
        n_again += n_part
        _add_below(indices, values, limit, sums, squares, above)
    if n_again != n:
        raise DataError(
            f"the second pass over the training cells met {n_again} cells, the first {n}",
            fix="the store changed while genes were chosen: run this again",
        )
    # Clipped values are counted, not summed: sums of whole counts stay exact in any order.
    sums += above * limit
    squares += above * limit**2
    return (n * mean**2 + squares - 2 * mean * sums) / ((n - 1) * deviation**2)


def _trend(mean: Array, variance: Array) -> Array:
    """Return the variance expected at each mean: loess of log10 variance on log10 mean.

    Raises
    ------
    DataError
        The local parabolas are not determined.
    """
    from skmisc.loess import loess

    reason = f"only {int(SPAN * len(mean))} genes in a neighbourhood"
    fitted = np.full(len(mean), np.nan)
    # With fewer than 4 genes skmisc ends the process (SIGSEGV) instead of raising.
    if int(SPAN * len(mean)) > DEGREE:
        try:
            model = loess(np.log10(mean), np.log10(variance), span=SPAN, degree=DEGREE)
            model.fit()
            fitted, reason = model.outputs.fitted_values, "the fit is not finite"
        except ValueError as error:
            reason = str(error.args[0].decode() if isinstance(error.args[0], bytes) else error)
    if not np.isfinite(fitted).all():
        raise DataError(
            f"the loess of variance on mean fails for the {len(mean)} genes that vary: {reason}",
            where="choice of n_hvg genes on the training cells",
            fix="it needs some dozens of genes with different means: keep more genes in the files,"
            " train on more cells, drop genes that are seen in a handful of cells; or use a matrix"
            " of genes chosen elsewhere",
        )
    return np.asarray(10.0**fitted)


def _normalised_dispersion(moments: _Moments, varies: Array) -> Array:
    """Return (d - mean of d in the bin) / (its standard deviation) [G], d = ln(variance / mean).

    The bins cut the range of ln(1 + mean) over all genes evenly, right edges inside; only varying
    genes count for a bin's d. A gene that is alone in its bin scores 1, genes of a bin without
    spread 0. Where `varies` is false, the result means nothing.
    """
    location = np.log1p(moments.mean)
    edges = np.linspace(location.min(), location.max(), BINS + 1)
    bins = np.maximum(np.searchsorted(edges, location) - 1, 0)[varies]
    dispersion = np.log(moments.variance[varies] / moments.mean[varies])

    size = np.bincount(bins, minlength=BINS)
    centred = dispersion - (np.bincount(bins, dispersion, BINS) / np.maximum(size, 1))[bins]
    deviation = np.sqrt(np.bincount(bins, centred**2, BINS) / np.maximum(size - 1, 1))[bins]
    # Noise between equal dispersions is no spread: divided by itself it would score +-0.7.
    flat = deviation < 10.0**-DECIMALS
    score = np.zeros(len(varies))
    score[varies] = np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))
    score[varies] = np.where(size[bins] == 1, 1.0, score[varies])
    return score


def _checked(parts: Iterable[Part], n_genes: int) -> Iterator[tuple[int, Array, Array]]:
    """Yield (number of cells, indices, values) of the parts that the kernels may be given.

    The kernels do not check bounds, and a NaN or a negative value would pass for a gene that does
    not vary.
    """
    for number, (indptr, indices, values) in enumerate(parts):
        nnz = int(indptr[-1]) - int(indptr[0])
        what = None
        if not nnz == len(indices) == len(values):
            what = f"says {nnz} values, holds {len(indices)} columns and {len(values)} values"
        elif nnz and not (indices.min() >= 0 and indices.max() < n_genes):
            what = f"has column {indices.min()} or {indices.max()}, outside the {n_genes} genes"
        elif nnz and not (values.min() >= 0 and values.max() < np.inf):
            what = "holds values that are negative or not finite"
        if what is not None:
            raise DataError(
                f"part {number} of the training cells {what}",
                where="choice of n_hvg genes",
                fix="the packed cells are damaged: pack the data set again",
            )
        yield len(indptr) - 1, indices, values


@njit(nogil=True, cache=True)
def _add(indices: Array, values: Array, undo_log: bool, sums: Array, squares: Array) -> None:
    """Add x and x^2 of the values x, or of x = exp(value) - 1, to their genes' sums."""
    for i in range(len(indices)):
        x = np.float64(values[i])
        if undo_log:
            x = np.expm1(x)
        sums[indices[i]] += x
        squares[indices[i]] += x * x


@njit(nogil=True, cache=True)
def _add_below(
    indices: Array, values: Array, limit: Array, sums: Array, squares: Array, above: Array
) -> None:
    """Add x and x^2 of the values up to their gene's limit, and count those above it."""
    for i in range(len(indices)):
        gene = indices[i]
        x = np.float64(values[i])
        if x > limit[gene]:
            above[gene] += 1
        else:
            sums[gene] += x
            squares[gene] += x * x
