"""Distances between a predicted and a real set of cells, differentiable in the prediction."""

from __future__ import annotations

from collections.abc import Callable

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


def sinkhorn(pred: Tensor, target: Tensor, blur: float = 0.05) -> Tensor:
    r"""Debiased Sinkhorn divergence of two sets with uniform weights, one value per pair of sets.

    S = OT(x, y) - 1/2 OT(x, x) - 1/2 OT(y, y), OT the entropic transport cost for |x - y|^2 / 2 at
    temperature blur^2, by annealing from the diameter of all points of the batch (so that the value of
    a set depends slightly on its batch). Feydy et al. 2019, AISTATS; computed by geomloss
    ``SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.5)``. Computed in float32 outside autocast.

    Parameters
    ----------
    pred, target
        [B, S, D]
    blur
        Length below which points are not told apart.

    Returns
    -------
    torch.Tensor
        [B]
    """
    from geomloss import SamplesLoss  # seconds to import; one loss of several needs it

    with torch.autocast(pred.device.type, enabled=False):
        loss: Tensor = SamplesLoss("sinkhorn", p=2, blur=blur)(_wide(pred), _wide(target))
    return loss


def combined(pred: Tensor, target: Tensor, sinkhorn_weight: float = 0.01) -> Tensor:
    """Energy + sinkhorn_weight * Sinkhorn, one value [B] per pair of sets (State's loss ``se``)."""
    return energy(pred, target) + sinkhorn_weight * sinkhorn(pred, target)


def mse(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of cell i and cell i, over cells and features, one value [B] per set.

    Cells of a set have no order that means anything: this compares an arbitrary pairing.
    """
    per_cell = (_wide(pred) - _wide(target)).square().mean(-1)  # [B, S]
    if mask is None:
        return per_cell.mean(-1)
    return (per_cell * mask).sum(-1) / mask.sum(-1)


def to_control(pred: Tensor, control: Tensor) -> Tensor:
    """Mean absolute difference of predicted and basal cells, one value [B] per set (a regulariser)."""
    return (_wide(pred) - _wide(control)).abs().mean(dim=(1, 2))


Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {"energy": energy, "sinkhorn": sinkhorn, "se": combined, "mse": mse}
"""Losses by name: (pred, target), each [B, S, D], to [B]."""


def chunked(
    loss: Loss, pred: Tensor, target: Tensor, n_chunks: int, order: Tensor | None = None
) -> Tensor:
    """Mean of a loss over `n_chunks` stretches of the features, one value [B] per set.

    A distance in many dimensions sees all features at once; in chunks, each stretch has its say.

    Parameters
    ----------
    loss
        One of `LOSSES`.
    pred, target
        [B, S, D]
    n_chunks
        Number of stretches; widths differ by at most one.
    order
        Permutation of the features, int64 [D]; None: as they stand.
    """
    if order is not None:
        pred, target = pred[..., order], target[..., order]
    parts = zip(pred.tensor_split(n_chunks, -1), target.tensor_split(n_chunks, -1), strict=True)
    return torch.stack([loss(one, other) for one, other in parts]).mean(0)


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
