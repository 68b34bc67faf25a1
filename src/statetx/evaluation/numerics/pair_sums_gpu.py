"""Sums of distances and kernels over pairs of cells on a device: what `pairs` does, in torch.

Squared distances |x|^2 + |y|^2 - 2 x.y around a common centre, block by block, products in the
precision of the cells and never in TF32 (which keeps 10 bits: 1e-3 of a distance), everything
summed in float64. Pairs that nearly agree are taken again from differences.
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
"""Multiply-adds of a call of `pair_sums` from which a GPU does it: 1,000 x 1,000 cells, 2,000 genes."""

ROWS = 4096
"""Most rows in a block of cells: 4096 x 4096 products of float32 are 64 MiB."""

ROOM = 1 << 25
"""Most values in a block of cells, or of differences: 256 MiB in float64."""

RESIDENT = 1 << 30
"""Bytes up to which dense cells stay on the device; larger ones are sent anew for each pass."""

_SETTING = threading.Lock()
"""Held while products are exact: torch's setting is one for all threads."""


class Points:
    """Cells around a centre, on a device, in blocks of rows.

    Parameters
    ----------
    cells
        [n, D], sparse or dense.
    centre
        float64 [D], common to the cells that are compared.
    kind
        float32 or float64, the precision of the products.
    device
        Where.
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
        return int(self._cells.shape[0])

    def blocks(self, first: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Rows [rows, D] of every block from a first one on, with their float64 squared lengths."""
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
        """Values as they are, made dense on the device: a third of the bytes travel at 15 %."""
        import torch

        values = cells.data if sparse.issparse(cells) else cells
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        there = send(values, self.device)
        if not sparse.issparse(cells):
            return there
        rows = torch.arange(cells.shape[0], device=self.device)
        row = rows.repeat_interleave(
            send(np.diff(cells.indptr), self.device), output_size=len(there)
        )
        dense = there.new_zeros(cells.shape)
        dense[row, send(cells.indices, self.device).long()] = there
        return dense


def pair_sums(x: Points, y: Points | None, gammas: Sequence[float]) -> np.ndarray:
    """What `pairs.pair_sums` returns, for cells on a device."""
    import torch

    out = torch.zeros(1 + len(gammas), dtype=torch.float64, device=x.device)
    # The larger one is read once, whether it stays on the device or not.
    one, two = (x, x) if y is None else sorted((x, y), key=len, reverse=True)
    double = np.float64 in (one.kind, two.kind)
    kind = torch.float64 if double else torch.float32
    with _exact_products():
        for i, (rows, row_lengths) in enumerate(one.blocks()):
            first = i if y is None else 0
            for j, (columns, column_lengths) in enumerate(two.blocks(first), first):
                diagonal = y is None and i == j
                both = (row_lengths[:, None] + column_lengths[None]).to(kind)
                square = _square_distances(rows.to(kind), columns.to(kind), both, diagonal)
                weight = 2.0 if y is None and not diagonal else 1.0
                out[0] += weight * square.sqrt().sum(dtype=torch.float64)
                for k, gamma in enumerate(gammas):
                    out[1 + k] += weight * (square * -gamma).exp_().sum(dtype=torch.float64)
    found: np.ndarray = out.cpu().numpy()
    return found


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Products of float32 in float32, whatever a training in this process has set."""
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
    """Return [n, m], from both squared lengths added up; those that nearly agree from differences."""
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
