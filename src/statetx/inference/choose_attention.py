"""Which attention mode a checkpoint was trained with, as control cells tell."""

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
"""Sets of control cells that are predicted from other controls."""
CLOSE = 1.1
"""A mode whose loss is less than so many times the least one is not told apart from it."""


def choose_attention(
    checkpoint: Path, adata: Path, embed_key: str | None, pert_col: str | None, control: str
) -> str:
    """Return the mode whose predictions of control cells from other control cells are nearest.

    A State model is trained to give back control cells for the control perturbation: in a mode other than
    its own, it gives them back worse. The other perturbations enter with the mean of all ids.

    Parameters
    ----------
    checkpoint
        Lightning checkpoint.
    adata
        h5ad with control cells, in the matrix of the model.
    embed_key
        obsm matrix of the model; None: X, log1p.
    pert_col, control
        obs column of perturbations and the control label.

    Raises
    ------
    ModelError
        Fewer than two cells per set, no such column or matrix, or matrices that do not fit.
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
    found: dict[str, float] = {}
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
            given = torch.full((SETS, width), 1.0 / width)
            batch = None
            if model.architecture.batch_encoder:
                batch = torch.zeros(SETS, dtype=torch.long)
            found[mode] = float(energy(model(basal, given, batch).cells, real).mean())
        log.info("attention %s: energy loss on control cells %.5g", mode, found[mode])
    best, *others = sorted(found, key=lambda mode: found[mode])
    log.warning("attention mode %r was chosen by control cells; it is not stated anywhere", best)
    if others and found[others[0]] <= CLOSE * found[best]:
        log.warning(
            "attention mode %r is hardly worse: energy loss %.5g, against %.5g of %r; control cells do not "
            "decide between them. Compare both on perturbed cells, and choose with --attention %s or "
            "--attention %s",
            *(others[0], found[others[0]], found[best], best, best, others[0]),
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
        said = obs[columns[0]].astype(str)
        known = {control, *labels.control_spellings(said.unique(), [control])}
        rows = np.flatnonzero(said.isin(known).to_numpy())[:4096]
        if key is not None and ("obsm" not in file or key not in file["obsm"]):
            raise ModelError(f"obsm has no matrix {key!r}", where=adata)
        matrix = read_elem(file["X"] if key is None else file["obsm"][key])[rows]
    dense = matrix.toarray() if sparse.issparse(matrix) else matrix
    return np.asarray(dense, dtype=np.float32)
