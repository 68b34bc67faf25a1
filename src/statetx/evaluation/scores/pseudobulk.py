"""Means of groups of cells and how sure they are: what every pseudobulk score is made of.

`Group` is a sufficient statistic: it updates cell block by cell block, merges, and gives cells
back (`without`), so groups of any size stream through bounded memory.
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
    """Cells of one kind, summed up.

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
        """Sum up cells [n, G], n >= 1, dense or sparse, in float64."""
        n = cells.shape[0]
        if n == 0:
            raise DataError("a group without cells has no mean")
        if sparse.issparse(cells):
            rows = cells.tocsr()
            data = rows.data.astype(np.float64)
            mean = np.bincount(rows.indices, weights=data, minlength=cells.shape[1]) / n
            # einsum, not @: BLAS would wake its threads, which then spin for 20 ms at others' cost.
            squares, of_mean = (np.einsum("i,i->", values, values) for values in (data, mean))
            return cls(n, mean, max(0.0, float(squares - n * of_mean)))
        mean = cells.mean(axis=0, dtype=np.float64)
        off = cells - mean
        return cls(n, mean, float(np.einsum("ij,ij->", off, off)))

    @classmethod
    def merged(cls, groups: Iterable[Group]) -> Group:
        """One group of all the cells (Chan, Golub & LeVeque 1983)."""
        return reduce(cls._plus, groups)

    def _plus(self, other: Group) -> Group:
        n = self.n + other.n
        gap = other.mean - self.mean
        squares = self.squares + other.squares + float(gap @ gap) * self.n * other.n / n
        return Group(n, self.mean + gap * (other.n / n), squares)

    def without(self, other: Group) -> Group:
        """The group minus some of its own cells; at least one must remain."""
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
    """A mean profile and its squared error: a `Group`'s, or a weighted mean of groups'.

    Attributes
    ----------
    mean
        float64 [G].
    noise
        Expected squared error of `mean`, summed over genes; NaN when it cannot be known.
    """

    mean: np.ndarray
    noise: float


LEAST_BATCH_CONTROLS = 10
"""A batch with fewer controls has no mean of its own: it would be mostly noise."""

LEAST_EXCESS = 1.1
"""Batches count as different when their control means lie this much further apart (squared) than
sampling cells explains. Eight batches of a dozen controls without any shift (0.9 there) otherwise
cost real signal: the directions between them are noise along the most variable genes, and the
split-half ceiling of `pearson_delta` fell from 0.57 to 0.32. Simulated plates have 1.2 to 1.4."""

MOST_DIRECTIONS = 0.1
"""At most this share of the genes' dimensions is given up for differences between batches."""


@dataclass(frozen=True)
class Controls:
    """A line's control cells, per batch.

    Attributes
    ----------
    batches
        One group per batch that has controls.
    chosen
        Batches whose mean is taken seriously; None: those with `LEAST_BATCH_CONTROLS` controls,
        if they differ by more than sampling (`LEAST_EXCESS`). Half of a line's controls takes the batches of the whole: chosen anew, batches of 10 to 19
        controls would drop out of both halves and leave their shift in both deltas.
    """

    batches: Mapping[str, Group]
    chosen: frozenset[str] | None = None

    @classmethod
    def from_blocks(
        cls,
        blocks: Iterable[tuple[np.ndarray, np.ndarray]],
        chosen: frozenset[str] | None = None,
    ) -> Controls:
        """Sum up blocks of (cells [n, G], batch labels [n]), streamed."""
        found: dict[str, Group] = {}
        for cells, labels in blocks:
            for batch in sorted(set(labels)):
                group = Group.from_cells(cells[labels == batch])
                found[batch] = Group.merged([found[batch], group]) if batch in found else group
        if not found:
            raise DataError("there are no control cells")
        return cls(found, chosen)

    @cached_property
    def all_controls(self) -> Group:
        """All controls as one group."""
        return Group.merged(self.batches[batch] for batch in sorted(self.batches))

    @cached_property
    def known(self) -> frozenset[str]:
        """Batches with a control mean of their own."""
        if self.chosen is not None:
            return self.chosen & self.batches.keys()
        large = {b: g for b, g in self.batches.items() if g.n >= LEAST_BATCH_CONTROLS}
        total = self.all_controls
        off = [group.mean - total.mean for group in large.values()]
        found = sum(float(shift @ shift) for shift in off)
        expected = sum(group.noise * (1 - group.n / total.n) for group in large.values())
        return frozenset(large) if found > LEAST_EXCESS * expected else frozenset()

    @cached_property
    def directions(self) -> np.ndarray:
        """Orthonormal directions in which batches of controls leave their common mean: [G, k]."""
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
        """Profile minus the line's control profile, without the directions between batches.

        A condition often lies on one plate, and so do the control cells a prediction starts from:
        with plain deltas control cells predict the plate's shift perfectly. On simulated cells (6
        plates, 1 per condition) doing nothing then scores 0.07 in pearson_delta and 0.79 in
        pds_cosine (chance: 0 and 0.5). Subtracting the plate's own controls mends that but gives
        both deltas the noise of the same few control cells: the line's mean control as prediction
        for everything then scores 0.42 and 0.92. Leaving the plate directions out of both deltas
        gives 0.00 and 0.49 for doing nothing, 0.5 for any constant. With one batch this is the
        plain delta.

        Parameters
        ----------
        mean
            float64 [G], mean profile of a condition, real or predicted.
        """
        return self.between(mean, self.all_controls.mean)

    def between(self, mean: np.ndarray, control: np.ndarray) -> np.ndarray:
        """The same as `delta` for another control profile [G]."""
        return self.project(mean - control)

    def project(self, difference: np.ndarray) -> np.ndarray:
        """A difference of profiles [G] without the directions between batches."""
        kept: np.ndarray = difference - self.directions @ (self.directions.T @ difference)
        return kept

    def matched(self, batches: Sequence[str] | np.ndarray) -> Profile:
        """The control profile for cells that lie in these batches, one entry per cell.

        Batch means weighted by how many of the cells lie in each batch; a batch with few controls
        takes the mean of all. What control cells of these batches would predict: the yardstick of
        squared errors, where the noise is subtracted. Not for correlations, see `delta`.

        Parameters
        ----------
        batches
            Batch label of every cell of the condition.
        """
        whole = self.all_controls
        labels, counts = np.unique(np.asarray(batches, dtype=str), return_counts=True)
        mean, noise = np.zeros_like(whole.mean), 0.0
        pooled = 0.0
        for batch, count in zip(labels, counts, strict=True):
            share = count / counts.sum()
            if batch not in self.known:
                pooled += share
                continue
            group = self.batches[batch]
            mean += share * group.mean
            noise += share**2 * group.noise
        if pooled:
            mean += pooled * whole.mean
            noise += pooled**2 * whole.noise
        return Profile(mean, noise)
