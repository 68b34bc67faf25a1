"""The GPU of this process, for the parts of evaluation that know what to do with one.

`gpu_ranks` and `gpu_pairs` take a device. `ranks` and `pairs` give them calls above a least size,
which a call has or not, whatever ran before it: starting torch and a GPU takes some 3 s, more than
a small comparison.
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
"""One of these exists where a CUDA driver is (the second: in Windows' Linux)."""

T = TypeVar("T")


@cache
def gpu() -> torch.device | None:
    """The GPU of this process, None if there is none; asked once.

    ``CUDA_VISIBLE_DEVICES=`` (empty) hides all of them.
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
    except RuntimeError as error:  # another process has it for itself, or fills it
        log.warning("the GPU is not used: %s", str(error).split("\n", 1)[0])
        return None
    return device


def gpu_if_started() -> torch.device | None:
    """The GPU if this process has started it already."""
    return gpu() if gpu.cache_info().currsize else None


def fits_on(n_bytes: int, device: torch.device) -> bool:
    """Whether so much may stay on a device: a quarter of what is free, a training may want the rest."""
    import torch

    return device.type != "cuda" or 4 * n_bytes <= torch.cuda.mem_get_info(device)[0]


def on_gpu_or_none(what: Callable[[], T]) -> T | None:
    """Do something on the GPU; None if that fails, for want of memory above all.

    The caller then does it on the CPU, to the same numbers: a GPU may be shared with a training.
    """
    import torch

    try:
        return what()
    except RuntimeError as error:
        log.warning("left to the CPU: %s", str(error).split("\n", 1)[0])
    torch.cuda.empty_cache()  # after the error is gone, which holds the tensors of its frames
    return None


def send(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device."""
    import torch

    # A copy: torch refuses to share memory that must not be written to, such as mapped files.
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(device)
