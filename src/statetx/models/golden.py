"""Golden cells: some cells in and out of a trained model, replayed whenever it is loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from statetx.core.documents import check_zip
from statetx.core.errors import ModelError
from statetx.models.predictor import Predicted

TOLERANCE = 1e-4
"""Largest difference of a replay, relative to the largest golden value. Reordered float32 sums on
another CPU differ by about 1e-6; one wrong tensor of a trained model by more than 1e-2."""


def replay(
    directory: Path, checkpoint: str, n_genes: int, predict: Callable[..., Predicted]
) -> None:
    """Predict the golden cells of a model again.

    Parameters
    ----------
    directory
        The model directory.
    checkpoint
        Which of its checkpoints predicts.
    n_genes
        How many genes the model has.
    predict
        Given basal cells, a line, a label and batches, predicts.

    Raises
    ------
    ModelError
        They cannot be read, or the prediction differs from what training wrote.
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
            f"the model predicts cells of shape {got.shape}, genes.txt has {n_genes} genes",
            where=directory,
            fix="weights, model.json and genes.txt belong to different models",
        )
    scale = max(float(np.abs(expected).max()), 1e-6)
    error_size = float(np.abs(got - expected).max()) / scale
    if not error_size <= TOLERANCE:
        raise ModelError(
            f"the model does not reproduce its golden cells: relative difference {error_size:.1e}, "
            f"allowed {TOLERANCE:.0e}",
            where=directory,
            fix="weights or library versions changed what it computes: train again",
        )
