"""Means of groups of cells and how sure they are: what every pseudobulk score is made of.

`Group` is a sufficient statistic: it updates cell block by cell block, merges, and gives cells
back (`without`), so groups of any size stream through bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from statetx.errors import DataError


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
    def of(cls, cells: np.ndarray) -> Group:
        """Sum up cells [n, G], n >= 1, in float64."""
        if len(cells) == 0:
            raise DataError("a group without cells has no mean")
        mean = cells.mean(axis=0, dtype=np.float64)
        off = cells - mean
        return cls(len(cells), mean, float(np.einsum("ij,ij->", off, off)))

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
"""A batch with fewer controls is compared with the controls of the whole line: its own mean would
be mostly noise, and noise of a control that two deltas share looks like agreement between them."""


@dataclass(frozen=True)
class Controls:
    """A line's control cells, per batch.

    Attributes
    ----------
    batches
        One group per batch that has controls.
    """

    batches: Mapping[str, Group]

    @classmethod
    def of(cls, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Controls:
        """Sum up blocks of (cells [n, G], batch labels [n]), streamed."""
        found: dict[str, Group] = {}
        for cells, labels in blocks:
            for batch in sorted(set(labels)):
                group = Group.of(cells[labels == batch])
                found[batch] = Group.merged([found[batch], group]) if batch in found else group
        if not found:
            raise DataError("there are no control cells")
        return cls(found)

    @property
    def whole(self) -> Group:
        """All controls as one group."""
        return Group.merged(self.batches[batch] for batch in sorted(self.batches))

    def without(self, taken: Controls) -> Controls:
        """These controls minus some of them; emptied batches disappear."""
        rest = {}
        for batch, group in self.batches.items():
            gone = taken.batches.get(batch)
            if gone is None:
                rest[batch] = group
            elif gone.n < group.n:
                rest[batch] = group.without(gone)
        if not rest:
            raise DataError("no control cells remain")
        return Controls(rest)

    def matched(self, batches: Sequence[str] | np.ndarray) -> Profile:
        """The control profile for cells that lie in these batches, one entry per cell.

        Batch means weighted by how many of the cells lie in each batch. A delta against all of a
        line's controls would hold the plate's own shift, which control cells of that plate predict
        perfectly: a model that does nothing would seem to know the drug.

        Parameters
        ----------
        batches
            Batch label of every cell of the condition.
        """
        whole = self.whole
        labels, counts = np.unique(np.asarray(batches, dtype=str), return_counts=True)
        mean, noise = np.zeros_like(whole.mean), 0.0
        pooled = 0.0
        for batch, count in zip(labels, counts, strict=True):
            share = count / counts.sum()
            group = self.batches.get(batch)
            if group is None or group.n < LEAST_BATCH_CONTROLS:
                pooled += share
                continue
            mean += share * group.mean
            noise += share**2 * group.noise
        if pooled:
            mean += pooled * whole.mean
            noise += pooled**2 * whole.noise
        return Profile(mean, noise)
