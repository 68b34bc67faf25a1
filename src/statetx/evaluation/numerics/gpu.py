"""Find and use the GPU of this process.

`rank_sum` and `pair_sums` use the GPU (`rank_sum_gpu`, `pair_sums_gpu`) only for calls above a
minimum size. Starting torch and a GPU takes about 3 s, which is more than a small comparison takes.
The size of such a call alone decides; calls that ran before do not matter. The exception is sorting
(`gene_sort_gpu`), which uses a started GPU for fewer values.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
"""One of these files exists where a CUDA driver is installed (the second one under WSL)."""

T = TypeVar("T")


@cache
def gpu() -> torch.device | None:
    """Return the GPU of this process, or None if there is none; look for it only once.

    ``CUDA_VISIBLE_DEVICES=`` (empty) hides all GPUs.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not any(Path(driver).exists() for driver in _DRIVERS):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda")
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:  # another process holds the GPU exclusively, or has filled it
        log.warning("the GPU is not used: %s", str(error).split("\n", 1)[0])
        return None
    return device


def gpu_if_started() -> torch.device | None:
    """Return the GPU if this process has already looked for it and found one, else None."""
    return gpu() if gpu.cache_info().currsize else None


def fits_on(n_bytes: int, device: torch.device) -> bool:
    """Return whether data may stay on a device: at most a quarter of its free memory.

    The rest is left to a training that may share the device.

    Parameters
    ----------
    n_bytes
        Size of the data.
    device
        The device; other kinds than CUDA have no limit.
    """
    import torch

    return device.type != "cuda" or 4 * n_bytes <= torch.cuda.mem_get_info(device)[0]


def on_gpu_or_none(what: Callable[[], T]) -> T | None:
    """Run a computation on the GPU; return None if it fails, usually because memory ran out.

    The caller then computes on the CPU. A training may share the GPU, so its memory may run out.

    Parameters
    ----------
    what
        The computation.
    """
    import torch

    try:
        return what()
    except RuntimeError as error:
        log.warning("left to the CPU: %s", str(error).split("\n", 1)[0])
    torch.cuda.empty_cache()  # outside the handler: the error keeps the tensors of its frames alive
    return None


def send(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device.

    Parameters
    ----------
    values
        Array of any shape.
    device
        The device.
    """
    import torch

    # Writable memory is required: torch warns about memory that is read-only, such as mapped files.
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(device)
