"""Transfer of packed cells to a device: non-zero values are copied and made dense there.

The module uses torch operations only, so the same code runs and is tested on any device.
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
from statetx.data.store.line_store import LineStore

UPLOAD_ROWS = 1 << 16
"""Rows of a resident store that are copied to the device at once."""

_SIGNED = {np.dtype(np.uint16): np.dtype(np.int16)}
"""torch cannot compute with uint16, so its bits are sent as int16."""


@dataclass(frozen=True)
class Packed:
    """Rows of expression as CSR on a device.

    Attributes
    ----------
    indptr
        Row pointers, int64 [n + 1].
    columns, values
        Column and value of each stored number, [nnz]; uint16 is kept as int16 with the same bits.
    scale
        Factor of each row, float32 [n]: expression is ln(1 + scale * value), or the value itself
        where `scale` is NaN.
    """

    indptr: Tensor
    columns: Tensor
    values: Tensor
    scale: Tensor

    def rows(self, wanted: Tensor) -> Packed:
        """Return the rows `wanted`, int64 [m], in that order."""
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
    """Return int16 with the bits of uint16 as int32; other types unchanged."""
    return numbers.to(torch.int32) & 0xFFFF if numbers.dtype == torch.int16 else numbers


def pack_rows(
    parts: Iterable[tuple[LineStore, np.ndarray]], buffers: Buffers, device: torch.device
) -> Packed:
    """Gather rows of lines, with the chosen genes, and send them to a device.

    Parameters
    ----------
    parts
        Lines and their rows, [m] each. The result contains the rows in this order.
    buffers
        Memory in which the rows are gathered; page-locked for a GPU.
    device
        Device of the result.
    """
    parts = [(line, np.ascontiguousarray(rows, dtype=np.int64)) for line, rows in parts]
    n = sum(len(rows) for _, rows in parts)
    most = sum(int((line.csr[0][rows + 1] - line.csr[0][rows]).sum()) for line, rows in parts)
    # Capacities are rounded up to a step, or each batch would need a buffer of another size.
    capacity = -(-max(1, most) // (1 << 20)) << 20
    columns = buffers.empty((capacity,), parts[0][0].csr[1].dtype)
    kind = np.result_type(*(line.csr[2].dtype for line, _ in parts))
    values = buffers.empty((capacity,), np.float32 if kind.kind == "f" else kind)
    indptr, scale = buffers.empty((n + 1,), np.int64), buffers.empty((n,), np.float32)
    indptr[0] = done = 0
    for line, rows in parts:
        target = slice(done, done + len(rows))
        kernels.pack_rows(
            *line.csr,
            rows,
            line.columns,
            int(indptr[done]),
            columns,
            values,
            indptr[target.start + 1 : target.stop + 1],
        )
        scale[target] = line.scale[rows] if line.meaning == kernels.COUNTS else np.nan
        done = target.stop
    total = int(indptr[n])
    packed = Packed(
        *(send(part, device) for part in (indptr, columns[:total], values[:total], scale))
    )
    settle(device)
    return packed


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device, in the background if its memory is page-locked.

    uint16 is sent as int16 with the same bits.
    """
    kind = _SIGNED.get(array.dtype)
    tensor = torch.from_numpy(array if kind is None else array.view(kind))
    return tensor.to(device, non_blocking=True)


def settle(device: torch.device) -> None:
    """Wait until copies to the device are finished.

    Call this while the arrays that were sent are still referenced. Afterwards their memory is
    reused, and another thread may overwrite it.
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


class Resident:
    """All packed cells of some lines in the memory of a device.

    Parameters
    ----------
    lines
        Packed lines.
    device
        Device that holds the cells.
    embed_key
        Matrix of obsm to copy; None: none.
    expression
        Whether to copy X.
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
        """Copy X of all lines to the device in pieces, and join the pieces there."""
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
        """Return the numbers of rows of lines inside this store, int64, on the device."""
        return send(np.concatenate([rows + self.first[line.name] for line, rows in parts]), device)


def _order(dtype: torch.dtype) -> int:
    """Return the rank of a type of values, from the narrowest; int16 has the bits of uint16."""
    return [torch.uint8, torch.int16, torch.int32, torch.float32].index(dtype)


def _widened(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert values to a type of a higher rank."""
    return values if values.dtype == dtype else _unsigned(values).to(dtype)


def bytes_needed(lines: list[LineStore], embed_key: str | None, expression: bool) -> int:
    """Return the device memory that `Resident` takes, in bytes; the parameters are the same."""
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
