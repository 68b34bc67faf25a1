"""Distances between a predicted and a real set of cells, differentiable in the prediction."""

from __future__ import annotations

import torch
from torch import Tensor


def energy(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Energy distance of two sets with uniform weights, one value per pair of sets.

    E = mean_ij |x_i - y_j| - 1/2 mean_ij |x_i - x_j| - 1/2 mean_ij |y_i - y_j|, over all pairs, the
    diagonal included: half the classic (V-statistic) squared energy distance, without square or
    root, as in geomloss ``SamplesLoss("energy")``. Szekely & Rizzo 2013, J. Stat. Plan. Inference.

    Distances come from Gram matrices. Both sets are moved by means first (distances do not
    change), because |x|^2 + |y|^2 - 2xy loses digits when the sets lie far from the origin; the
    norms of a pair come from the same precision as its products. At distance zero the gradient is
    zero, and the diagonal is exactly zero instead of geomloss's 1e-4. Computed in float32 (float64
    for float64 input) outside autocast: with bfloat16 products the value errs by 1e-2.

    Parameters
    ----------
    pred
        [B, S, D]
    target
        [B, S', D]; no gradient flows into its self-distances.
    mask
        Which rows of both sets are cells, bool [B, S]; None: all.

    Returns
    -------
    torch.Tensor
        [B]
    """
    with torch.autocast(pred.device.type, enabled=False):
        x, y = _wide(pred), _wide(target)
        centre = y.mean(dim=1, keepdim=True).detach()
        cross = _mean(_distances(x - centre, y - centre), mask)
        within_pred = _mean(_self_distances(x - x.mean(dim=1, keepdim=True).detach()), mask)
        with torch.no_grad():
            within_target = _mean(_self_distances(y - centre), mask)
        return cross - 0.5 * within_pred - 0.5 * within_target


def _mean(distances: Tensor, mask: Tensor | None) -> Tensor:
    """Mean [B] over the pairs [B, S, S'] whose rows are cells."""
    if mask is None:
        return distances.mean(dim=(1, 2))
    weight = mask.to(distances.dtype) / mask.sum(dim=1, keepdim=True)
    return torch.einsum("bij,bi,bj->b", distances, weight, weight)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances [B, S, S'] between [B, S, D] and [B, S', D]."""
    norms_x = x.square().sum(-1)
    norms_y = y.square().sum(-1)
    products = x @ y.mT
    return _root(norms_x[:, :, None] + norms_y[:, None, :], products)


def _self_distances(x: Tensor) -> Tensor:
    """Euclidean distances [B, S, S] among the rows of [B, S, D]; the diagonal is exactly zero."""
    products = x @ x.mT
    norms = products.diagonal(dim1=-2, dim2=-1)
    same = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return _root(norms[:, :, None] + norms[:, None, :], products, same)


def _root(norms: Tensor, products: Tensor, same: Tensor | None = None) -> Tensor:
    squared = norms - 2 * products
    # Below the rounding of the sum of norms there is no distance, only noise: its root would get
    # gradients of arbitrary direction, and sqrt'(0) is infinite.
    near = squared <= torch.finfo(squared.dtype).eps * norms
    if same is not None:
        near = near | same
    return squared.masked_fill(near, 1.0).sqrt().masked_fill(near, 0.0)
