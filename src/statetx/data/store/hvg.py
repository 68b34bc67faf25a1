"""Choice of highly variable genes in one or two passes over CSR parts.

Memory does not grow with the number of cells: a part is added to sums per gene.
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
"""Some cells as CSR: row pointers int64 [n + 1], columns [nnz] and values [nnz].

The row pointers may start at any number. Columns and values are those of these cells only. A column
occurs at most once per cell.
"""

SPAN, DEGREE = 0.3, 2
"""Parameters of the loess: share of the genes in a neighbourhood, and degree of the polynomial."""
BINS = 20
"""Number of bins of the mean, within which dispersions are normalised."""
DECIMALS = 9
"""Scores are rounded to this number of decimals, so that ties do not depend on the order of parts.

The order of parts changes sums of decimals by a relative 1e-14. Ties are common: the genes of a bin
of two always score +-0.70710678.
"""
LEAST_CV2 = 1e-8
"""Smallest variance / mean^2 of a gene that varies.

Rounding gives up to 4e-9 for a gene that is constant over 10^8 cells.
"""


def choose(
    parts: Callable[[], Iterable[Part]],
    n_genes: int,
    n_hvg: int,
    kind: Literal["counts", "log1p"],
) -> Array:
    """Choose the most variable genes.

    The choice does not depend on how the cells are divided into parts, or on the order of the
    parts. Of genes with equal scores, the lower column is chosen first. A gene that does not vary
    is never chosen.

    Parameters
    ----------
    parts
        Function that returns the cells. It is called once per pass and must give the same cells.
    n_genes
        Number of columns, G.
    n_hvg
        Number of genes to choose.
    kind
        ``counts``: variance of the counts, standardised by a loess of variance on mean and clipped;
        "seurat_v3" (Stuart et al. 2019, doi:10.1016/j.cell.2019.05.031), two passes. ``log1p``: the
        values are ln(1 + x), and the dispersion of x is normalised within bins of the mean;
        "seurat" (Satija et al. 2015, doi:10.1038/nbt.3192), one pass.

    Returns
    -------
    numpy.ndarray
        Sorted column numbers of the chosen genes, int64 [n_hvg].

    Raises
    ------
    ConfigError
        `n_hvg` is not between 1 and the number of genes that vary.
    DataError
        There are fewer than two cells, values are negative or not finite, columns are outside [0,
        G), the second pass gives other cells, or there are too few genes for the loess of counts.
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
    """Moments of the genes over n_cells cells: mean and variance (divisor n - 1), float64 [G]."""

    n_cells: int
    mean: Array
    variance: Array


def _moments(parts: Iterable[Part], n_genes: int, undo_log: bool) -> _Moments:
    """Return the moments of the values, or with `undo_log` of exp(value) - 1."""
    n, sums, squares = 0, np.zeros(n_genes), np.zeros(n_genes)
    for n_part, indices, values in _checked(parts, n_genes):
        n += n_part
        _add(indices, values, undo_log, sums, squares)
    if n < 2:
        raise DataError(
            f"genes cannot be chosen on {n} training cells: a variance needs two",
            fix="change the split so that its training conditions have cells",
        )
    # Sums of whole counts below 2^53 are exact, so this form gives exactly 0 for a constant gene.
    return _Moments(n, sums / n, (n * squares - sums**2) / (n * (n - 1.0)))


def _standardised_variance(parts: Iterable[Part], moments: _Moments, varies: Array) -> Array:
    """Return the variance of (x - mean) / s [G], x clipped at mean + s sqrt(n).

    s is the standard deviation that the loess predicts at the mean of the gene. The result is not
    valid where `varies` is false.
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
            f"the second pass over the training cells read {n_again} cells, the first {n}",
            fix="the store changed while genes were chosen: run the genes stage again",
        )
    # Clipped values are counted, not summed, so sums of whole counts are exact in any order.
    sums += above * limit
    squares += above * limit**2
    return (n * mean**2 + squares - 2 * mean * sums) / ((n - 1) * deviation**2)


def _trend(mean: Array, variance: Array) -> Array:
    """Return the variance that a loess of log10 variance on log10 mean predicts at each mean.

    Raises
    ------
    DataError
        The loess cannot be fitted, or gives values that are not finite.
    """
    from skmisc.loess import loess

    reason = f"only {int(SPAN * len(mean))} genes in a neighbourhood"
    fitted = np.full(len(mean), np.nan)
    # With fewer than 4 genes skmisc crashes (SIGSEGV) instead of raising an error.
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
            fix="the loess needs dozens of genes with different means: keep more genes in the files,"
            " train on more cells, remove genes that occur in only a few cells; or use a matrix"
            " of genes chosen elsewhere",
        )
    return np.asarray(10.0**fitted)


def _normalised_dispersion(moments: _Moments, varies: Array) -> Array:
    """Return (d - mean of d in the bin) / (its standard deviation) [G], d = ln(variance / mean).

    The bins divide the range of ln(1 + mean) over all genes evenly and include their right edges.
    Mean and standard deviation of d are taken over the varying genes of a bin. A gene that is alone
    in its bin scores 1, and genes of a bin without spread score 0. The result is not valid where
    `varies` is false.
    """
    location = np.log1p(moments.mean)
    edges = np.linspace(location.min(), location.max(), BINS + 1)
    bins = np.maximum(np.searchsorted(edges, location) - 1, 0)[varies]
    dispersion = np.log(moments.variance[varies] / moments.mean[varies])

    size = np.bincount(bins, minlength=BINS)
    centred = dispersion - (np.bincount(bins, dispersion, BINS) / np.maximum(size, 1))[bins]
    deviation = np.sqrt(np.bincount(bins, centred**2, BINS) / np.maximum(size - 1, 1))[bins]
    # Rounding noise between equal dispersions is not spread: normalised, it would score +-0.7.
    flat = deviation < 10.0**-DECIMALS
    score = np.zeros(len(varies))
    score[varies] = np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))
    score[varies] = np.where(size[bins] == 1, 1.0, score[varies])
    return score


def _checked(parts: Iterable[Part], n_genes: int) -> Iterator[tuple[int, Array, Array]]:
    """Yield (number of cells, indices, values) of the parts after a check.

    The compiled loops do not check bounds. A NaN or a negative value would make a gene look
    constant.
    """
    for number, (indptr, indices, values) in enumerate(parts):
        nnz = int(indptr[-1]) - int(indptr[0])
        what = None
        if not nnz == len(indices) == len(values):
            what = f"declares {nnz} values, but has {len(indices)} columns and {len(values)} values"
        elif nnz and not (indices.min() >= 0 and indices.max() < n_genes):
            what = f"has column {indices.min()} or {indices.max()}, outside the {n_genes} genes"
        elif nnz and not (values.min() >= 0 and values.max() < np.inf):
            what = "has values that are negative or not finite"
        if what is not None:
            raise DataError(
                f"part {number} of the training cells {what}",
                where="choice of n_hvg genes",
                fix="the packed cells are damaged: pack the data set again",
            )
        yield len(indptr) - 1, indices, values


@njit(nogil=True, cache=True)
def _add(indices: Array, values: Array, undo_log: bool, sums: Array, squares: Array) -> None:
    """Add x and x^2 to the sums of each gene; x is the value, or with `undo_log` exp(value) - 1.

    `indices` and `values` are [nnz]; `sums` and `squares` are float64 [G].
    """
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
    """Add x and x^2 of the values up to the limit of their gene, and count the values above it.

    `indices` and `values` are [nnz]; `limit`, `sums` and `squares` are float64 [G], `above` int64
    [G].
    """
    for i in range(len(indices)):
        gene = indices[i]
        x = np.float64(values[i])
        if x > limit[gene]:
            above[gene] += 1
        else:
            sums[gene] += x
            squares[gene] += x * x
