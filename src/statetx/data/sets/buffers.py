"""Reusable memory for batches: it is free again as soon as no reference to the batch exists.

New memory costs a page fault per 4 KB; filling new arrays was measured to take twice as long as
filling used ones. Page-locked memory, which allows background copies to a GPU, costs even more.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import numpy as np


class _Loan:
    """Owner of an array that returns its memory when the last view of the array is deleted."""

    def __init__(self, block: np.ndarray, shelf: deque[np.ndarray]) -> None:
        self.__array_interface__ = block.__array_interface__
        self._block, self._shelf = block, shelf

    def __del__(self) -> None:
        self._shelf.append(self._block)


class Buffers:
    """Pool of arrays by shape and type.

    Parameters
    ----------
    pinned
        Use page-locked memory, which needs a GPU.
    """

    def __init__(self, pinned: bool = False) -> None:
        self._pinned = pinned
        self._shelves: dict[Any, deque[np.ndarray]] = defaultdict(deque)

    def empty(self, shape: tuple[int, ...], kind: Any = np.float32) -> np.ndarray:
        """Return an uninitialised array; its memory is reused once the array and views are gone.

        Parameters
        ----------
        shape, kind
            Shape and type of the array.
        """
        key = (shape, np.dtype(kind).str)
        try:
            block = self._shelves[key].popleft()
        except IndexError:
            block = self._make(shape, np.dtype(kind))
        return np.asarray(_Loan(block, self._shelves[key]))

    def _make(self, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
        """Allocate an array."""
        if not self._pinned:
            return np.empty(shape, dtype=kind)
        import torch

        n_bytes = max(1, int(np.prod(shape)) * kind.itemsize)
        raw = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy()
        return raw[: int(np.prod(shape)) * kind.itemsize].view(kind).reshape(shape)
