"""Golden cells: some input and output cells of a trained model, replayed whenever it is loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from statetx.core.documents import check_zip
from statetx.core.errors import ModelError
from statetx.models.predictor import Predicted

TOLERANCE = 1e-4
"""Largest difference of a replay, relative to the largest golden value.

Reordered float32 sums on another CPU differ by about 1e-6. A wrong tensor of a trained model
differs by more than 1e-2.
"""


def replay(
    directory: Path, checkpoint: str, n_genes: int, predict: Callable[..., Predicted]
) -> None:
    """Predict the golden cells of a model again and compare them with those of training.

    Parameters
    ----------
    directory
        The model directory.
    checkpoint
        Name of the checkpoint that predicts.
    n_genes
        Number of genes of the model.
    predict
        Function of basal cells, line, label and batches that predicts.

    Raises
    ------
    ModelError
        The golden cells cannot be read, or the prediction differs from them.
    """
    path = directory / "golden.npz"
    try:
        check_zip(path)
        with np.load(path, allow_pickle=False) as file:
            golden = {key: file[key] for key in file.files}
        expected = golden[f"cells_{checkpoint}"]
        asked = (golden["control"], str(golden["line"]), str(golden["perturbation"]))
        batches = golden.get("batches")
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ModelError(f"cannot read the golden cells: {error}", where=path) from error
    got = predict(*asked, batches).cells
    if got.shape != (len(golden["control"]), n_genes):
        raise ModelError(
            f"the model predicts cells of shape {got.shape}, but genes.txt has {n_genes} genes",
            where=directory,
            fix="copy the model again: weights, model.json and genes.txt are of different models",
        )
    scale = max(float(np.abs(expected).max()), 1e-6)
    error_size = float(np.abs(got - expected).max()) / scale
    if not error_size <= TOLERANCE:
        raise ModelError(
            f"the model does not reproduce its golden cells: relative difference {error_size:.1e}, "
            f"allowed {TOLERANCE:.0e}",
            where=directory,
            fix="train again: weights or library versions changed the results of the model",
        )
