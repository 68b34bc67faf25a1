"""Weights on their way to disk."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file


def write_weights(
    arrays: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write arrays as safetensors.

    Raises
    ------
    OSError
        The file cannot be written: with ``ENOSPC`` for a full disk, which safetensors says in words.
    """
    kept = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    try:
        save_file(kept, path, metadata=metadata)
    except SafetensorError as error:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if f"os error {number})" in str(error):
                raise OSError(number, str(error), str(path)) from error
        raise
