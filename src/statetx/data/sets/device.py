"""Packed cells on their way into a GPU: few bytes travel, the device makes them dense.

Torch operations only, so that the same code runs, and is tested, on any device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statetx.data.sets.buffers import Buffers
from statetx.data.store import kernels
from statetx.data.store.store import LineStore

UPLOAD_ROWS = 1 << 16
"""Rows that a resident store takes to the device at once."""

_SIGNED = {np.dtype(np.uint16): np.dtype(np.int16)}
"""Torch computes with no uint16: the same bits travel as int16."""


@dataclass(frozen=True)
class Packed:
    """Rows of expression as CSR on a device.

    Attributes
    ----------
    indptr
        int64 [n + 1].
    columns, values
        Place and value of each stored number; 16-bit ones as int16 with the bits of uint16.
    scale
        float32 [n]: expression is ln(1 + scale * value), or value itself where it is NaN.
    """

    indptr: Tensor
    columns: Tensor
    values: Tensor
    scale: Tensor

    def rows(self, wanted: Tensor) -> Packed:
        """Return some rows, int64 [m], in that order."""
        start = self.indptr[wanted]
        lengths = self.indptr[wanted + 1] - start
        indptr = torch.zeros(len(wanted) + 1, dtype=torch.int64, device=wanted.device)
        torch.cumsum(lengths, 0, out=indptr[1:])
        place = torch.repeat_interleave(start - indptr[:-1], lengths)
        place += torch.arange(len(place), device=wanted.device)
        return Packed(indptr, self.columns[place], self.values[place], self.scale[wanted])

    def dense(self, width: int, dtype: torch.dtype) -> Tensor:
        """Return log1p expression [n, width]."""
        n = len(self.indptr) - 1
        device = self.indptr.device
        row = torch.repeat_interleave(torch.arange(n, device=device), self.indptr.diff())
        scale = self.scale[row]
        value = _unsigned(self.values).to(torch.float32)
        value = torch.where(scale.isnan(), value, torch.log1p(value * scale))
        out = torch.zeros(n * width, dtype=dtype, device=device)
        out[row * width + _unsigned(self.columns)] = value.to(dtype)
        return out.view(n, width)


def _unsigned(numbers: Tensor) -> Tensor:
    return numbers.to(torch.int32) & 0xFFFF if numbers.dtype == torch.int16 else numbers


def pack_rows(
    parts: Iterable[tuple[LineStore, np.ndarray]], buffers: Buffers, device: torch.device
) -> Packed:
    """Gather rows of lines, of the chosen genes, and send them to a device.

    Parameters
    ----------
    parts
        Lines and rows of them; the result holds the rows in this order.
    buffers
        Where they are gathered; page-locked for a GPU.
    device
        Where to.
    """
    parts = [(line, np.ascontiguousarray(rows, dtype=np.int64)) for line, rows in parts]
    n = sum(len(rows) for _, rows in parts)
    most = sum(int((line.csr[0][rows + 1] - line.csr[0][rows]).sum()) for line, rows in parts)
    # A capacity in steps, or no two batches would share a buffer.
    capacity = -(-max(1, most) // (1 << 20)) << 20
    columns = buffers.empty((capacity,), parts[0][0].csr[1].dtype)
    kind = np.result_type(*(line.csr[2].dtype for line, _ in parts))
    values = buffers.empty((capacity,), np.float32 if kind.kind == "f" else kind)
    indptr, scale = buffers.empty((n + 1,), np.int64), buffers.empty((n,), np.float32)
    indptr[0] = done = 0
    for line, rows in parts:
        here = slice(done, done + len(rows))
        kernels.pack_rows(
            *line.csr,
            rows,
            line.columns,
            int(indptr[done]),
            columns,
            values,
            indptr[here.start + 1 : here.stop + 1],
        )
        scale[here] = line.scale[rows] if line.meaning == kernels.COUNTS else np.nan
        done = here.stop
    total = int(indptr[n])
    packed = Packed(
        *(send(part, device) for part in (indptr, columns[:total], values[:total], scale))
    )
    settle(device)
    return packed


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device, in the background where its memory is page-locked."""
    kind = _SIGNED.get(array.dtype)
    tensor = torch.from_numpy(array if kind is None else array.view(kind))
    return tensor.to(device, non_blocking=True)


def settle(device: torch.device) -> None:
    """Wait until copies to the device are through.

    To be called while the arrays that were sent are still held: their memory is lent again, and
    filled by another thread, as soon as they are not.
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


class Resident:
    """All packed cells of some lines, in the memory of a device.

    Parameters
    ----------
    lines
        Packed lines.
    device
        Where.
    embed_key
        An obsm matrix that goes along; None: none.
    expression
        Whether X goes along.
    """

    def __init__(
        self,
        lines: list[LineStore],
        device: torch.device,
        embed_key: str | None = None,
        expression: bool = True,
    ) -> None:
        sizes = [line.n_cells for line in lines]
        starts = np.cumsum([0, *sizes])
        self.first = {line.name: int(at) for line, at in zip(lines, starts[:-1], strict=True)}
        self.packed = self._upload(lines, device) if expression else None
        self.key = embed_key
        self.dense = torch.empty(0, device=device)
        if embed_key is not None:
            matrices = [send(np.array(line.obsm[embed_key]), device) for line in lines]
            self.dense = torch.cat(matrices)

    def _upload(self, lines: list[LineStore], device: torch.device) -> Packed:
        pieces, buffers = [], Buffers()
        for line in lines:
            for start in range(0, line.n_cells, UPLOAD_ROWS):
                rows = np.arange(start, min(line.n_cells, start + UPLOAD_ROWS))
                pieces.append(pack_rows([(line, rows)], buffers, device))
        wide = max((piece.values for piece in pieces), key=lambda values: _order(values.dtype))
        ends = np.cumsum([0, *(len(piece.values) for piece in pieces)])
        return Packed(
            torch.cat(
                [torch.zeros(1, dtype=torch.int64, device=device)]
                + [p.indptr[1:] + int(at) for p, at in zip(pieces, ends[:-1], strict=True)]
            ),
            torch.cat([piece.columns for piece in pieces]),
            torch.cat([_widened(piece.values, wide.dtype) for piece in pieces]),
            torch.cat([piece.scale for piece in pieces]),
        )

    def rows(self, parts: Iterable[tuple[LineStore, np.ndarray]], device: torch.device) -> Tensor:
        """Return the numbers of rows inside this store, int64, on the device."""
        return send(np.concatenate([rows + self.first[line.name] for line, rows in parts]), device)


def _order(dtype: torch.dtype) -> int:
    return [torch.uint8, torch.int16, torch.int32, torch.float32].index(dtype)


def _widened(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype == dtype else _unsigned(values).to(dtype)


def bytes_needed(lines: list[LineStore], embed_key: str | None, expression: bool) -> int:
    """Return how much device memory `Resident` takes, in bytes."""
    total = 0
    for line in lines:
        if expression:
            indptr, columns, values = line.csr
            total += columns.nbytes + values.nbytes + indptr.nbytes + 4 * line.n_cells
        if embed_key is not None:
            total += line.obsm[embed_key].nbytes
    return total


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU, in bytes."""
    free: Any = torch.cuda.mem_get_info(device)[0]
    return int(free)
