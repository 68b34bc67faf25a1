"""Read a Lightning checkpoint of somebody else without running what it may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from statetx.errors import ModelError

ALLOWED: list[Any] = [nn.MSELoss]
"""Classes that a checkpoint may hold besides tensors and plain values."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint without running any code that it may hold.

    Raises
    ------
    ModelError
        The file is missing, truncated, no checkpoint, or holds objects that are not allowed.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises whatever the bytes lead to
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error)) if "Unsupported" in str(error) else None
        if unsafe or "WeightsUnpickler" in str(error) or "Weights only" in str(error):
            what = f": {unsafe[1]}" if unsafe else ""
            raise ModelError(
                f"the checkpoint holds an object that could run code{what}",
                where=path,
                fix="only tensors, plain values and MSELoss are read; save the state_dict and "
                "hyper_parameters alone in a trusted environment",
            ) from error
        raise ModelError(
            f"cannot read the checkpoint: {str(error).splitlines()[0] if str(error) else error!r}",
            where=path,
            fix="it is truncated, damaged, or no checkpoint: copy it again",
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ModelError(
            "this is no Lightning checkpoint: no state_dict",
            where=path,
            fix="give a .ckpt that State's training wrote, or its run directory",
        )
    return content
