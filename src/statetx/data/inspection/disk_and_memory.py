"""Estimates of disk and memory for packing and training: pure functions of numbers of cells.

The bytes per cell follow the layouts of `statetx.data.pack.scatter` (parts) and
`statetx.data.pack.gather` (store).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from statetx.config import Dataset
from statetx.data.inspection.design import Columns

PART_ROW_BYTES = 36
"""Bytes of a cell in a part without its name: two codes, non-zeros, row, total, factor."""
STORE_ROW_BYTES = 8 + 8 + 8 + 4
"""Bytes of a cell in the store without its name: row pointer, total, factor, label codes."""
PACK_BASE_BYTES = 600_000_000
"""Memory of a packing process that does not grow with the cells: libraries, one chunk, one block.

Measured: 440 to 530 MB with 500,000 cells x 2,000 genes.
"""
PACK_CELL_BYTES = 40
"""Memory of packing per cell of the largest file or line: labels, order, names."""
RING = 4 + 2 + 1
"""Batches in memory at once: one for each of at most four threads, two waiting, one in use."""
GPU_SHARE = 0.5
"""Largest share of GPU memory for packed cells; the rest is for the model and its batches."""


@dataclass(frozen=True)
class PackNeed:
    """Disk space of packing, in bytes.

    Attributes
    ----------
    parts
        Temporary parts, which exist until the store is finished.
    store
        The finished store.
    """

    parts: int
    store: int


@dataclass(frozen=True)
class TrainingNeed:
    """Memory of training, in bytes.

    Attributes
    ----------
    mapped
        Bytes of the store. It is mapped from disk, and the operating system keeps a part of it in
        memory.
    ring
        Bytes of the batches that are being gathered, waiting or in use; pinned with a GPU.
    on_gpu
        Whether the cells and the model fit together into the memory of the GPU.
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
    """Return the disk space that packing takes, to about 2 %.

    The fixed cost per line, mainly about 60 bytes per gene name, is left out.

    Parameters
    ----------
    n_cells
        Rows of X.
    nonzeros
        Non-zero values of X.
    n_genes
        Columns of X.
    value_bytes
        Bytes of a stored value, see `value_bytes`.
    dense
        Bytes per cell of each packed obsm matrix.
    name_bytes
        Bytes of the longest cell name.
    """
    place_bytes = 2 if n_genes < 1 << 16 else 4
    cells = nonzeros * (place_bytes + value_bytes) + n_cells * sum(dense.values())
    return PackNeed(
        parts=cells + n_cells * (PART_ROW_BYTES + name_bytes),
        store=cells + n_cells * (STORE_ROW_BYTES + name_bytes),
    )


@dataclass(frozen=True, kw_only=True)
class FileSize:
    """What decides the disk space that packing one file takes.

    Attributes
    ----------
    n_cells, nonzeros, n_genes
        Cells, non-zero values and columns of X.
    largest_count
        Largest count; None: the values are not whole numbers.
    widths
        Columns of each packed obsm matrix.
    csc_value_bytes
        Bytes of a stored value of X if X is stored by columns, else None.
    """

    n_cells: int
    nonzeros: int
    n_genes: int
    largest_count: float | None
    widths: Mapping[str, int]
    csc_value_bytes: int | None


def pack_need(files: Iterable[FileSize], settings: Dataset | Columns) -> PackNeed:
    """Return what packing some files takes on disk.

    A matrix that is stored by columns is copied by rows first, beside the part: two numbers of 4 bytes
    and a value per entry. One file is packed at a time, so the largest copy counts.
    """
    parts, store, copy = 0, 0, 0
    for file in files:
        dense = {key: width * bytes_each(key, settings) for key, width in file.widths.items()}
        kind = value_bytes(file.largest_count)
        need = pack_bytes(file.n_cells, file.nonzeros, file.n_genes, kind, dense)
        parts, store = parts + need.parts, store + need.store
        if file.csc_value_bytes is not None:
            copy = max(copy, (8 + file.csc_value_bytes) * file.nonzeros)
    return PackNeed(parts + copy, store)


def bytes_each(key: str, settings: Dataset | Columns) -> int:
    """Return the bytes of a stored number of an obsm matrix: only embeddings may be narrowed."""
    narrow = getattr(settings, "embed_dtype", "float32") == "float16"
    return 2 if narrow and key != getattr(settings, "expression_key", None) else 4


def pack_memory_bytes(most_cells: int) -> int:
    """Return the memory that packing takes, in bytes.

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
    """Return the memory that training takes, without that of the model.

    Parameters
    ----------
    store
        Bytes of the store.
    width
        Features of a cell, D.
    n_sets
        Sets of a batch, B.
    cell_set_len
        Cells of a set, S.
    n_batches
        Batches in memory at once. Each holds two float32 [B, S, D]: basal and real cells.
    gpu_bytes
        Bytes of memory of the GPU.
    """
    batch = 2 * 4 * n_sets * cell_set_len * width
    return TrainingNeed(mapped=store, ring=n_batches * batch, on_gpu=store <= GPU_SHARE * gpu_bytes)
