"""What packing and training take, from counts alone: pure functions, nothing is read.

The layouts that these numbers describe are those of `statetx.data.pack.scatter` (parts) and
`statetx.data.pack.gather` (store).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PART_ROW_BYTES = 36
"""Record of a cell in a part: two codes, non-zeros, row, total, factor; its name comes on top."""
STORE_ROW_BYTES = 8 + 8 + 8 + 4
"""Of a cell in the store: row pointer, total, factor, label codes; its name comes on top."""
PACK_BASE_BYTES = 600_000_000
"""Memory of a packing process apart from its cells: libraries, one chunk, one block. 440 to 530 MB
were measured with 500,000 cells x 2,000 genes."""
PACK_CELL_BYTES = 40
"""Memory of packing per cell of the largest file or line: labels, order, names."""
RING = 4 + 2 + 1
"""Batches in memory at once: one for each of at most four threads, two waiting, one in use."""
GPU_SHARE = 0.5
"""Largest share of GPU memory for packed cells: the rest is for the model and its batches."""


@dataclass(frozen=True)
class PackNeed:
    """Bytes on disk.

    Attributes
    ----------
    parts
        Temporary parts, which lie beside the store until it is finished.
    store
        The finished store.
    """

    parts: int
    store: int


@dataclass(frozen=True)
class TrainingNeed:
    """Memory of training.

    Attributes
    ----------
    mapped
        Bytes of the store, mapped from disk: the operating system keeps as many in memory as fit.
    ring
        Bytes of the batches that are gathered, wait or are in use, pinned where there is a GPU.
    on_gpu
        Whether the cells fit into the memory of the GPU, beside the model.
    """

    mapped: int
    ring: int
    on_gpu: bool


def value_bytes(largest_count: float | None) -> int:
    """Return the bytes of a stored value.

    Parameters
    ----------
    largest_count
        Largest count; None: the values are not whole numbers.
    """
    if largest_count is None:
        return 4
    return 1 if largest_count < 1 << 8 else 2 if largest_count < 1 << 16 else 4


def pack_bytes(
    n_cells: int,
    nonzeros: int,
    n_genes: int,
    value_bytes: int,
    dense: Mapping[str, int],
    name_bytes: int = 24,
) -> PackNeed:
    """Return what packing takes on disk, to about 2 %.

    What a line takes however many cells it has, above all some 60 bytes per gene name, is left out.

    Parameters
    ----------
    n_cells, nonzeros, n_genes
        Cells, non-zero values and columns of X.
    value_bytes
        Of a stored value, see `value_bytes`.
    dense
        Bytes per cell of each packed obsm matrix.
    name_bytes
        Of the longest cell name.
    """
    place_bytes = 2 if n_genes < 1 << 16 else 4
    cells = nonzeros * (place_bytes + value_bytes) + n_cells * sum(dense.values())
    return PackNeed(
        parts=cells + n_cells * (PART_ROW_BYTES + name_bytes),
        store=cells + n_cells * (STORE_ROW_BYTES + name_bytes),
    )


def pack_memory_bytes(most_cells: int) -> int:
    """Return the memory of packing.

    Parameters
    ----------
    most_cells
        Cells of the largest file or line.
    """
    return PACK_BASE_BYTES + PACK_CELL_BYTES * most_cells


def training_bytes(
    store: int,
    width: int,
    *,
    n_sets: int = 64,
    cell_set_len: int = 256,
    n_batches: int = RING,
    gpu_bytes: float = 80e9,
) -> TrainingNeed:
    """Return the memory that training takes apart from the model.

    Parameters
    ----------
    store
        Bytes of the store.
    width
        Features of a cell, D.
    n_sets, cell_set_len
        Sets of a batch, B, and cells of a set, S.
    n_batches
        Batches in memory at once; each holds float32 [B, S, D] twice, basal and real cells.
    gpu_bytes
        Memory of the GPU.
    """
    batch = 2 * 4 * n_sets * cell_set_len * width
    return TrainingNeed(mapped=store, ring=n_batches * batch, on_gpu=store <= GPU_SHARE * gpu_bytes)
