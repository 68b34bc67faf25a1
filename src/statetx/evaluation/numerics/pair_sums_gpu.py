"""Sums of distances and kernels over pairs of cells on a device: what `pair_sums` does, in torch.

Squared distances are |x|^2 + |y|^2 - 2 x.y around a common centre, block by block. Products have
the precision of the cells, and never TF32, whose 10 bits leave an error of 1e-3 of a distance. All
sums are float64. Distances between nearly equal cells are computed again from differences.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from statetx.evaluation.numerics.gpu import send
from statetx.evaluation.numerics.pair_kernels import CLOSE

if TYPE_CHECKING:
    import torch

LEAST_PRODUCTS = 2_000_000_000
"""Multiply-adds in `pair_sums` from which a GPU is used: 1,000 x 1,000 cells, 2,000 genes."""

ROWS = 4096
"""Most rows in a block of cells: 4096 x 4096 products of float32 are 64 MiB."""

ROOM = 1 << 25
"""Most values in a block of cells or of differences: 256 MiB in float64."""

RESIDENT = 1 << 30
"""Dense cells up to this number of bytes stay on the device; larger ones are sent for each pass."""

_SETTING = threading.Lock()
"""Held while TF32 is switched off: torch has one such setting for all threads."""


class Points:
    """Cells minus a centre, on a device, in blocks of rows.

    Parameters
    ----------
    cells
        [n, D], sparse or dense.
    centre
        [D], the same for all cells that are compared.
    kind
        float32 or float64, the precision of the products.
    device
        The device.
    """

    def __init__(
        self, cells: Any, centre: np.ndarray, kind: np.dtype, device: torch.device
    ) -> None:
        if sparse.issparse(cells):
            cells = cells.tocsr()
            if not cells.has_canonical_format:
                cells = cells.copy()
                cells.sum_duplicates()
        self._cells, self.kind, self.device = cells, kind, device
        self._centre = send(np.asarray(centre, dtype=np.float64), device)
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __len__(self) -> int:
        """Return the number of cells."""
        return int(self._cells.shape[0])

    def blocks(self, first: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield blocks of centred cells [rows, D] with their squared lengths, float64 [rows].

        Parameters
        ----------
        first
            Number of the block to begin with.
        """
        width = max(1, self._cells.shape[1])
        rows = max(1, min(ROWS, ROOM // width))
        keep = len(self) * width * self.kind.itemsize <= RESIDENT
        for start in range(first * rows, len(self), rows):
            block = self._kept.get(start)
            if block is None:
                block = self._block(self._cells[start : start + rows])
                if keep:
                    self._kept[start] = block
            yield block

    def _block(self, cells: Any) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        kind = torch.float64 if self.kind == np.float64 else torch.float32
        moved = (self._dense(cells).double() - self._centre).to(kind)
        return moved, moved.square().sum(dim=1, dtype=torch.float64)

    def _dense(self, cells: Any) -> torch.Tensor:
        """Return cells as a dense array on the device.

        Sparse cells become dense there only: at 15 % non-zero values a third of the bytes are sent.
        """
        import torch

        values = cells.data if sparse.issparse(cells) else cells
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        sent = send(values, self.device)
        if not sparse.issparse(cells):
            return sent
        rows = torch.arange(cells.shape[0], device=self.device)
        row = rows.repeat_interleave(
            send(np.diff(cells.indptr), self.device), output_size=len(sent)
        )
        dense = sent.new_zeros(cells.shape)
        dense[row, send(cells.indices, self.device).long()] = sent
        return dense


def pair_sums(x: Points, y: Points | None, gammas: Sequence[float]) -> np.ndarray:
    """Sum distances and kernels over all pairs of cells on a device.

    Parameters
    ----------
    x, y
        Cells with the same centre. If `y` is None, all ordered pairs within `x`.
    gammas
        Kernel widths.

    Returns
    -------
    numpy.ndarray
        float64 [1 + number of gammas], the sum of distances, then those of the kernels.
    """
    import torch

    out = torch.zeros(1 + len(gammas), dtype=torch.float64, device=x.device)
    # The outer loop reads its cells once, the inner loop several times. The larger set is outside,
    # because it may not stay on the device.
    outer, inner = (x, x) if y is None else sorted((x, y), key=len, reverse=True)
    double = np.float64 in (outer.kind, inner.kind)
    kind = torch.float64 if double else torch.float32
    with _exact_products():
        for i, (rows, row_lengths) in enumerate(outer.blocks()):
            first = i if y is None else 0
            for j, (columns, column_lengths) in enumerate(inner.blocks(first), first):
                diagonal = y is None and i == j
                both = (row_lengths[:, None] + column_lengths[None]).to(kind)
                square = _square_distances(rows.to(kind), columns.to(kind), both, diagonal)
                weight = 2.0 if y is None and not diagonal else 1.0
                out[0] += weight * square.sqrt().sum(dtype=torch.float64)
                for k, gamma in enumerate(gammas):
                    out[1 + k] += weight * (square * -gamma).exp_().sum(dtype=torch.float64)
    sums: np.ndarray = out.cpu().numpy()
    return sums


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Switch TF32 off inside the block, and restore the setting of this process afterwards."""
    import torch

    with _SETTING:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _square_distances(
    x: torch.Tensor, y: torch.Tensor, both: torch.Tensor, diagonal: bool
) -> torch.Tensor:
    """Return squared distances [n, m]; those of nearly equal cells are sums of squared differences.

    `both` [n, m] is the sum of both squared lengths.
    """
    square = both - 2 * (x @ y.T)
    near = square <= CLOSE * both
    if diagonal:
        square.fill_diagonal_(0)
        near.fill_diagonal_(False)
    i, j = near.nonzero(as_tuple=True)
    step = max(1, ROOM // max(1, x.shape[1]))
    for start in range(0, len(i), step):
        a, b = i[start : start + step], j[start : start + step]
        square[a, b] = (x[a] - y[b]).square_().sum(dim=1)
    return square
