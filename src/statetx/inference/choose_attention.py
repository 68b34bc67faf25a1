"""Choose the attention mode of an imported checkpoint by its predictions of control cells."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from anndata.io import read_elem
from scipy import sparse

from statetx.core.errors import ModelError, did_you_mean
from statetx.data.h5ad.header import opened
from statetx.models.imported import arc
from statetx.models.network.backbone import ATTENTION, Shape
from statetx.models.network.losses import energy
from statetx.shared import labels

log = logging.getLogger("statetx.inference")

SETS, CELLS = 16, 64
"""Number of sets of control cells that are predicted from other control cells, and their size."""
CLOSE = 1.1
"""Modes with at most this many times the smallest loss cannot be distinguished from the best."""


def choose_attention(
    checkpoint: Path, adata: Path, embed_key: str | None, pert_col: str | None, control: str
) -> str:
    """Return the mode whose predictions are nearest to real control cells.

    A State model is trained to return control cells for the control perturbation, and does so worse
    in a mode that differs from training. The perturbation is the mean of all ids.

    Parameters
    ----------
    checkpoint
        Lightning checkpoint.
    adata
        h5ad file with control cells, in the matrix of the model.
    embed_key
        obsm matrix of the model; None: X, log1p.
    pert_col, control
        obs column of perturbations (None: any column that holds the control) and the control label.

    Raises
    ------
    ModelError
        There are fewer than two cells per set, no such column or matrix, or the matrix has another
        number of columns than the model takes.
    """
    cells = _controls(adata, embed_key, pert_col, control)
    generator = np.random.default_rng(0)
    half = len(cells) // 2
    order = generator.permutation(len(cells))
    size = min(CELLS, half)
    if size < 2:
        raise ModelError(f"{len(cells)} control cells are too few", where=adata)
    draw = [generator.choice(part, (SETS, size)) for part in (order[:half], order[half:])]
    basal, real = (torch.from_numpy(cells[rows]) for rows in draw)
    losses: dict[str, float] = {}
    odd = False
    for mode in ATTENTION:
        if mode == "alone" or (odd and ATTENTION[mode].rotary):
            continue
        model = arc.load(checkpoint, attention=mode)
        backbone = model.architecture.backbone
        odd = isinstance(backbone, Shape) and backbone.head_dim % 2 == 1
        if basal.shape[-1] != model.architecture.input_dim:
            raise ModelError(
                f"the cells have {basal.shape[-1]} columns, the model takes "
                f"{model.architecture.input_dim}",
                where=adata,
            )
        width = model.architecture.pert_dim
        with torch.inference_mode():
            perturbation = torch.full((SETS, width), 1.0 / width)
            batch = None
            if model.architecture.batch_encoder:
                batch = torch.zeros(SETS, dtype=torch.long)
            losses[mode] = float(energy(model(basal, perturbation, batch).cells, real).mean())
        log.info("attention %s: energy loss on control cells %.5g", mode, losses[mode])
    best, *others = sorted(losses, key=lambda mode: losses[mode])
    log.warning("attention mode %r was chosen by control cells; the run does not state it", best)
    if others and losses[others[0]] <= CLOSE * losses[best]:
        log.warning(
            "attention mode %r is hardly worse: energy loss %.5g, against %.5g of %r; control "
            "cells do not decide between them. Compare both on perturbed cells, and choose with "
            "--attention %s or --attention %s",
            *(others[0], losses[others[0]], losses[best], best, best, others[0]),
        )
    return best


def _controls(adata: Path, key: str | None, pert_col: str | None, control: str) -> np.ndarray:
    """Return up to 4,096 control cells, float32 [n, D]."""
    with opened(adata) as file:
        obs = read_elem(file["obs"])
        columns = (
            [pert_col]
            if pert_col
            else [str(name) for name in obs.columns if (obs[name].astype(str) == control).any()]
        )
        if not columns or columns[0] not in obs.columns:
            raise ModelError(
                f"no obs column holds the control {control!r}",
                where=adata,
                fix=did_you_mean(str(pert_col), list(map(str, obs.columns))),
            )
        column = obs[columns[0]].astype(str)
        controls = {control, *labels.control_spellings(column.unique(), [control])}
        rows = np.flatnonzero(column.isin(controls).to_numpy())[:4096]
        if key is not None and ("obsm" not in file or key not in file["obsm"]):
            raise ModelError(f"obsm has no matrix {key!r}", where=adata)
        matrix = read_elem(file["X"] if key is None else file["obsm"][key])[rows]
    dense = matrix.toarray() if sparse.issparse(matrix) else matrix
    return np.asarray(dense, dtype=np.float32)
