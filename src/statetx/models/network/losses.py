"""Distances between a predicted and a real set of cells, differentiable in the prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def energy(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Return the energy distance of two sets with uniform weights, a value per pair of sets.

    E = mean_ij |x_i - y_j| - 1/2 mean_ij |x_i - x_j| - 1/2 mean_ij |y_i - y_j|, over all pairs with
    the diagonal. This is half the classic (V-statistic) squared energy distance, without square or
    root, as in geomloss ``SamplesLoss("energy")``. Szekely & Rizzo 2013, J. Stat. Plan. Inference.

    Distances come from Gram matrices. Sets are first centred, which does not change distances,
    because |x|^2 + |y|^2 - 2xy loses digits far from the origin. Among the cells of a set, the
    norms are the diagonal of the products, so that norms and products have the same precision. TF32
    then errs by 1e-4, not 1e-2. At distance zero the gradient is zero, and the diagonal is exactly
    zero instead of geomloss's 1e-4. The loss is computed in float32 (float64 for float64 input),
    outside autocast. It is differentiable once.

    Parameters
    ----------
    pred
        Predicted sets, [B, S, D].
    target
        Real sets, [B, S', D]; no gradient flows into their self-distances.
    mask
        Which rows of both sets are cells, bool [B, S]; None: all.

    Returns
    -------
    torch.Tensor
        Distance of each pair of sets, [B].
    """
    with torch.autocast(pred.device.type, enabled=False):
        value: Tensor = _Energy.apply(_wide(pred), _wide(target), mask)  # type: ignore[no-untyped-call]
        return value


class _Energy(torch.autograd.Function):
    """Value and gradient of the energy distance in three products of sets.

    Autograd would need six products and would copy the sets ten times.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        with _exact(x.device):
            return _Energy._value(ctx, x, y, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        with _exact(slope.device):
            return _Energy._slopes(ctx, slope)

    @staticmethod
    def _value(ctx: Any, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        sets, cells, _ = x.shape
        if mask is None:
            weight, other = (x.new_full(t.shape[:2], 1 / t.shape[1]) for t in (x, y))
        else:
            weight = other = mask.to(x.dtype) / mask.sum(dim=1, keepdim=True)
            # A value in a row that is not a cell would move the centre, and so change the rounding.
            x, y = (t.masked_fill(~mask[:, :, None], 0.0) for t in (x, y))
        centre = _centre(y, other)
        # x and y are stacked, so that one product gives cross products and those of y.
        both = x.new_empty(sets, cells + y.shape[1], x.shape[2])
        torch.sub(x, centre, out=both[:, :cells])
        torch.sub(y, centre, out=both[:, cells:])
        products = both @ both[:, cells:].mT
        norms = torch.linalg.vector_norm(both, dim=-1).square_()
        cross, pull = _distances(products[:, :cells], norms[:, :cells], norms[:, cells:])
        within, push = _self_distances(x - _centre(x, weight))
        of_y = products[:, cells:]
        diagonal = of_y.diagonal(dim1=1, dim2=2)
        rest, _ = _distances(of_y, diagonal, diagonal, True)
        pull = pull * weight[:, :, None] * other[:, None, :]
        push = push * weight[:, :, None] * weight[:, None, :]
        ctx.save_for_backward(both, pull, push)
        return (
            _mean(cross, weight, other)
            - 0.5 * _mean(within, weight, weight)
            - 0.5 * _mean(rest, other, other)
        )

    @staticmethod
    def _slopes(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        both, pull, push = ctx.saved_tensors
        cells = pull.shape[1]
        to_x = to_y = None
        if ctx.needs_input_grad[0]:
            # sum_j pull_ij (x_i - y_j) - sum_j push_ij (x_i - x_j), with the weights of x_i on the
            # diagonal.
            weights = torch.cat([push, -pull], dim=2)
            weights.diagonal(dim1=1, dim2=2).add_(pull.sum(2) - push.sum(2))
            to_x = (weights * slope[:, None, None]) @ both
        if ctx.needs_input_grad[1]:
            to_y = both[:, cells:] * pull.sum(1)[:, :, None] - pull.mT @ both[:, :cells]
            to_y = to_y * slope[:, None, None]
        return to_x, to_y, None


@contextlib.contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Keep products on a CPU in float32, even if products of the network are rounded to bfloat16.

    A distance is a difference of products. With factors of 3 digits, the distances of near cells
    would be noise. On a GPU, TF32 stays on, see `energy`.
    """
    before = torch.get_float32_matmul_precision()
    if device.type != "cpu" or before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _centre(x: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean [B, 1, D] of the rows of [B, S, D]."""
    return weight[:, None, :] @ x


def _self_distances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `_distances` among the rows of [B, S, D], with norms from their products."""
    products = x @ x.mT
    norms = products.diagonal(dim1=1, dim2=2)
    return _distances(products, norms, norms, True)


def _distances(
    products: Tensor, norms_x: Tensor, norms_y: Tensor, same: bool = False
) -> tuple[Tensor, Tensor]:
    """Return distances [B, S, S'] and their inverses, both zero for pairs without a distance."""
    norms = norms_x[:, :, None] + norms_y[:, None, :]
    squared = norms - 2 * products
    # A distance below the rounding of the sum of norms is noise. Its root would have gradients of
    # arbitrary direction.
    near = squared <= torch.finfo(squared.dtype).eps * norms
    if same:
        near |= torch.eye(squared.shape[1], dtype=torch.bool, device=squared.device)
    inverse = squared.masked_fill_(near, torch.inf).rsqrt()
    return (squared * inverse).masked_fill_(near, 0.0), inverse


def _mean(distances: Tensor, weight_x: Tensor, weight_y: Tensor) -> Tensor:
    """Return the weighted mean [B] over pairs."""
    return torch.einsum("bij,bi,bj->b", distances, weight_x, weight_y)


def sinkhorn(pred: Tensor, target: Tensor, blur: float = 0.05) -> Tensor:
    r"""Return the debiased Sinkhorn divergence of two sets with uniform weights, a value per pair.

    S = OT(x, y) - 1/2 OT(x, x) - 1/2 OT(y, y), with OT the entropic transport cost for |x - y|^2 /
    2 at temperature blur^2. See Feydy et al. 2019, AISTATS. It anneals from the diameter of all
    points of the batch, so that the value of a set depends slightly on its batch. geomloss computes
    it, as ``SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.5)``, in float32 outside autocast.

    Parameters
    ----------
    pred, target
        Predicted and real sets, [B, S, D].
    blur
        Length below which points are not distinguished.

    Returns
    -------
    torch.Tensor
        Divergence of each pair of sets, [B].
    """
    from geomloss import SamplesLoss  # takes seconds to import, and other losses do not need it

    # geomloss leaves gradients switched on.
    grad = torch.set_grad_enabled(torch.is_grad_enabled())
    with torch.autocast(pred.device.type, enabled=False), grad:
        loss: Tensor = SamplesLoss("sinkhorn", p=2, blur=blur)(_wide(pred), _wide(target))
    return loss


def combined(pred: Tensor, target: Tensor, sinkhorn_weight: float = 0.01) -> Tensor:
    """Return energy + sinkhorn_weight * Sinkhorn, a value [B] per pair of sets (State's ``se``).

    Parameters
    ----------
    pred, target
        Predicted and real sets, [B, S, D].
    sinkhorn_weight
        Weight of the Sinkhorn divergence.
    """
    return energy(pred, target) + sinkhorn_weight * sinkhorn(pred, target)


def mse(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of cells with the same index, a value [B] per set.

    The order of the cells of a set has no meaning, so this loss compares arbitrary pairs.

    Parameters
    ----------
    pred, target
        Predicted and real sets, [B, S, D].
    mask
        Which rows are cells, bool [B, S]; None: all.
    """
    per_cell = (_wide(pred) - _wide(target)).square().mean(-1)  # [B, S]
    if mask is None:
        return per_cell.mean(-1)
    return (per_cell * mask).sum(-1) / mask.sum(-1)


def to_control(pred: Tensor, control: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean absolute difference of predicted and basal cells, [B] (a regulariser).

    Parameters
    ----------
    pred, control
        Predicted and basal cells, [B, S, D].
    mask
        Which rows are cells, bool [B, S]; None: all.
    """
    per_cell = (_wide(pred) - _wide(control)).abs().mean(-1)  # [B, S]
    return per_cell.mean(-1) if mask is None else (per_cell * mask).sum(-1) / mask.sum(-1)


Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {"energy": energy, "sinkhorn": sinkhorn, "se": combined, "mse": mse}
"""Losses by name: (pred, target), each [B, S, D], to [B]."""


def chunked(
    loss: Loss, pred: Tensor, target: Tensor, n_chunks: int, order: Tensor | None = None
) -> Tensor:
    """Return the mean of a loss over `n_chunks` chunks of the features, a value [B] per set.

    A distance in many dimensions mixes all features. In chunks, each chunk has the same weight.

    Parameters
    ----------
    loss
        A loss of `LOSSES`.
    pred, target
        Predicted and real sets, [B, S, D].
    n_chunks
        Number of chunks; widths differ by at most 1.
    order
        Permutation of the features, int64 [D]; None: the given order.
    """
    if order is not None:
        pred, target = pred[..., order], target[..., order]
    n_chunks = min(n_chunks, pred.shape[-1])
    parts = zip(pred.tensor_split(n_chunks, -1), target.tensor_split(n_chunks, -1), strict=True)
    return torch.stack([loss(part, real) for part, real in parts]).mean(0)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
