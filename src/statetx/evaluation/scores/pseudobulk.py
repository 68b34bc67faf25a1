"""Means of groups of cells and their sampling noise, from which pseudobulk scores are computed.

`Group` is a sufficient statistic. Groups of blocks of cells can be merged, and a part can be
subtracted again (`without`), so groups of any size need bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from scipy import sparse

from statetx.core.errors import DataError


@dataclass(frozen=True)
class Group:
    """Summary of a group of cells.

    Attributes
    ----------
    n
        Number of cells.
    mean
        float64 [G], mean over cells.
    squares
        Sum over cells and genes of the squared deviation from the mean.
    """

    n: int
    mean: np.ndarray
    squares: float

    @classmethod
    def from_cells(cls, cells: Any) -> Group:
        """Summarise cells in float64.

        Parameters
        ----------
        cells
            [n, G], n >= 1, dense or sparse.

        Raises
        ------
        DataError
            There are no cells.
        """
        n = cells.shape[0]
        if n == 0:
            raise DataError("a group without cells has no mean")
        if sparse.issparse(cells):
            rows = cells.tocsr()
            data = rows.data.astype(np.float64)
            mean = np.bincount(rows.indices, weights=data, minlength=cells.shape[1]) / n
            # einsum instead of @: threads of BLAS spin for 20 ms after a call and take cores from
            # the compiled loops.
            squares, of_mean = (np.einsum("i,i->", values, values) for values in (data, mean))
            return cls(n, mean, max(0.0, float(squares - n * of_mean)))
        mean = cells.mean(axis=0, dtype=np.float64)
        off = cells - mean
        return cls(n, mean, float(np.einsum("ij,ij->", off, off)))

    @classmethod
    def merged(cls, groups: Iterable[Group]) -> Group:
        """Merge groups into one of all their cells (Chan, Golub & LeVeque 1983).

        Parameters
        ----------
        groups
            Disjoint groups, at least one.
        """
        return reduce(cls._plus, groups)

    def _plus(self, other: Group) -> Group:
        n = self.n + other.n
        gap = other.mean - self.mean
        squares = self.squares + other.squares + float(gap @ gap) * self.n * other.n / n
        return Group(n, self.mean + gap * (other.n / n), squares)

    def without(self, other: Group) -> Group:
        """Return the group minus some of its cells.

        Parameters
        ----------
        other
            Cells of this group.

        Raises
        ------
        DataError
            No cell remains.
        """
        n = self.n - other.n
        if n < 1:
            raise DataError("no cells remain")
        mean = self.mean + (self.mean - other.mean) * (other.n / n)
        gap = other.mean - mean
        squares = self.squares - other.squares - float(gap @ gap) * n * other.n / self.n
        return Group(n, mean, max(squares, 0.0))

    @property
    def spread(self) -> float:
        """Trace of the sample covariance; NaN for one cell."""
        return self.squares / (self.n - 1) if self.n > 1 else float("nan")

    @property
    def noise(self) -> float:
        """Expected squared error of the mean, summed over genes: trace of the covariance / n."""
        return self.spread / self.n


@dataclass(frozen=True)
class Profile:
    """A mean profile and its squared error, of a `Group` or of a weighted mean of groups.

    Attributes
    ----------
    mean
        float64 [G].
    noise
        Expected squared error of `mean`, summed over genes; NaN if it is unknown.
    """

    mean: np.ndarray
    noise: float


LEAST_BATCH_CONTROLS = 10
"""The mean of a batch with fewer controls is not used: it would be mostly noise."""

LEAST_EXCESS = 1.1
"""Batches count as different if the squared distances of their control means from the common mean
are this many times what sampling of cells explains. Simulated plates have 1.2 to 1.4; eight
batches of a dozen controls without any shift have 0.9. Without this threshold such batches cost
real signal, because the directions between them are noise along the most variable genes. The
split-half ceiling of `pearson_delta` then fell from 0.57 to 0.32."""

MOST_DIRECTIONS = 0.1
"""At most this share of the G dimensions is removed as directions between batches."""


@dataclass(frozen=True)
class Controls:
    """Control cells of a cell line, summarised per batch.

    Attributes
    ----------
    batches
        Batch -> group of its controls, for each batch that has controls.
    chosen
        Batches whose own mean is used. None: those with at least `LEAST_BATCH_CONTROLS` controls,
        if they differ by more than sampling explains (`LEAST_EXCESS`). Halves of a line's controls
        take the batches of the whole. Otherwise batches of 10 to 19 controls would drop out of both
        halves and leave their shift in both deltas.
    """

    batches: Mapping[str, Group]
    chosen: frozenset[str] | None = None

    @classmethod
    def from_blocks(
        cls,
        blocks: Iterable[tuple[np.ndarray, np.ndarray]],
        chosen: frozenset[str] | None = None,
    ) -> Controls:
        """Summarise blocks of control cells, one block in memory at a time.

        Parameters
        ----------
        blocks
            (cells [n, G], batch labels [n]).
        chosen
            As the attribute.

        Raises
        ------
        DataError
            There are no control cells.
        """
        groups: dict[str, Group] = {}
        for cells, labels in blocks:
            for batch in sorted(set(labels)):
                group = Group.from_cells(cells[labels == batch])
                groups[batch] = Group.merged([groups[batch], group]) if batch in groups else group
        if not groups:
            raise DataError("there are no control cells")
        return cls(groups, chosen)

    @cached_property
    def all_controls(self) -> Group:
        """All controls as one group."""
        return Group.merged(self.batches[batch] for batch in sorted(self.batches))

    @cached_property
    def known(self) -> frozenset[str]:
        """Batches whose own control mean is used."""
        if self.chosen is not None:
            return self.chosen & self.batches.keys()
        large = {b: g for b, g in self.batches.items() if g.n >= LEAST_BATCH_CONTROLS}
        total = self.all_controls
        shifts = [group.mean - total.mean for group in large.values()]
        observed = sum(float(shift @ shift) for shift in shifts)
        expected = sum(group.noise * (1 - group.n / total.n) for group in large.values())
        return frozenset(large) if observed > LEAST_EXCESS * expected else frozenset()

    @cached_property
    def directions(self) -> np.ndarray:
        """Orthonormal directions in which control means of batches differ from the common mean.

        float64 [G, k].
        """
        if len(self.known) < 2:
            return np.zeros((len(self.all_controls.mean), 0))
        shifts = np.array(
            [self.batches[b].mean - self.all_controls.mean for b in sorted(self.known)]
        )
        _, sizes, axes = np.linalg.svd(shifts, full_matrices=False)
        real = sizes > 1e-6 * np.linalg.norm(self.all_controls.mean)
        kept = min(int(real.sum()), int(MOST_DIRECTIONS * shifts.shape[1]))
        return axes[:kept].T

    def delta(self, mean: np.ndarray) -> np.ndarray:
        """Return a profile minus the line's control profile, without directions between batches.

        A condition often lies on one plate, and so do the control cells that a prediction starts
        from. With plain deltas, control cells therefore predict the shift of the plate perfectly.
        Simulated cells (6 plates, each condition on one) gave these scores:

        - Plain deltas: unchanged control cells score 0.07 in pearson_delta and 0.79 in pds_cosine
          (chance: 0 and 0.5).
        - Minus the controls of the plate: both deltas contain the noise of the same few control
          cells. The mean control of the line, predicted for all conditions, scores 0.42 and 0.92.
        - Without the directions between plates in both deltas: unchanged control cells score 0.00
          and 0.49, a constant prediction 0.5 in pds_cosine.

        With one batch this is the plain delta.

        Parameters
        ----------
        mean
            float64 [G], mean profile of a condition, real or predicted.
        """
        return self.between(mean, self.all_controls.mean)

    def between(self, mean: np.ndarray, control: np.ndarray) -> np.ndarray:
        """Return what `delta` returns, but for another control profile.

        Parameters
        ----------
        mean
            float64 [G], mean profile of a condition.
        control
            float64 [G], the control profile to subtract.
        """
        return self.project(mean - control)

    def project(self, difference: np.ndarray) -> np.ndarray:
        """Remove the directions between batches from a difference of profiles.

        Parameters
        ----------
        difference
            float64 [G].
        """
        kept: np.ndarray = difference - self.directions @ (self.directions.T @ difference)
        return kept

    def matched(self, batches: Sequence[str] | np.ndarray) -> Profile:
        """Return the control profile for cells of these batches.

        It is the mean of batch means, weighted by the number of cells in each batch. A batch that
        is not in `known` contributes the mean of all controls. Control cells of these batches would
        predict this profile. It is meant for squared errors, from which its noise is subtracted,
        and not for correlations (see `delta`).

        Parameters
        ----------
        batches
            [n], batch label of each cell of the condition.
        """
        whole = self.all_controls
        labels, counts = np.unique(np.asarray(batches, dtype=str), return_counts=True)
        mean, noise = np.zeros_like(whole.mean), 0.0
        unknown_share = 0.0
        for batch, count in zip(labels, counts, strict=True):
            share = count / counts.sum()
            if batch not in self.known:
                unknown_share += share
                continue
            group = self.batches[batch]
            mean += share * group.mean
            noise += share**2 * group.noise
        if unknown_share:
            mean += unknown_share * whole.mean
            noise += unknown_share**2 * whole.noise
        return Profile(mean, noise)
