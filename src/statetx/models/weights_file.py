"""Write weights to safetensors files."""

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
    """Write arrays to a safetensors file.

    Parameters
    ----------
    arrays
        Arrays by name.
    path
        File to write.
    metadata
        Text by key, for the header of the file.

    Raises
    ------
    OSError
        The disk is full, a quota is used up, or the file is too large. safetensors raises its own
        error for these, with the number of the system's error in its text.
    safetensors.SafetensorError
        The file cannot be written for another reason.
    """
    kept = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    try:
        save_file(kept, path, metadata=metadata)
    except SafetensorError as error:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if f"os error {number})" in str(error):
                raise OSError(number, str(error), str(path)) from error
        raise
