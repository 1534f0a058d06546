"""AWQ: inputs that are large have their weights stored larger, so that rounding hurts them less, and are shrunk before.

Lin et al. 2023, "AWQ: Activation-aware weight quantization for LLM compression and acceleration", arXiv 2306.00978:
W x = (W s)(x / s) with s = (size of x)^alpha for each input; alpha is searched for the least error of the outputs. The
error is tr(D H D^T) with H = X^T X of the layer's inputs, exactly that of the calibration texts, without keeping them.
Pure functions of tensors: weights are [outputs, inputs], H is [inputs, inputs].
"""

import torch
from torch import Tensor

from tasks.generate import grids
from tasks.generate.grids import Grid

ALPHAS = tuple(step / 10 for step in range(10))
PARTS = (1.0, 0.9)  # of a group's range, tried while alpha is searched
Weights = list[tuple[Tensor, Grid]]


def scales(hessian: Tensor, alpha: float) -> Tensor:
    """Factors of the inputs [inputs] about 1; inputs that are always 0 keep 1."""
    size = hessian.diagonal().clamp(min=0).sqrt()
    found = torch.where(size > 0, size, size[size > 0].mean() if (size > 0).any() else 1.0).pow(alpha)
    return (found / (found.max() * found.min()).sqrt()).clamp(1e-4, 1e4)


def search(weights: Weights, hessian: Tensor) -> tuple[float, Tensor]:
    """The alpha, and its factors, with which weights that read the same input lose least together when rounded."""
    best, least, chosen = 0.0, torch.inf, torch.ones(hessian.shape[0])
    for alpha in ALPHAS:
        factor = scales(hessian, alpha) if alpha else torch.ones(hessian.shape[0])
        error = sum(lost(weight, factor, hessian, grid) for weight, grid in weights)
        if error < least:
            best, least, chosen = alpha, error, factor
    return best, chosen


def lost(weight: Tensor, factor: Tensor, hessian: Tensor, grid: Grid) -> float:
    """The outputs' error when a weight is rounded with its inputs multiplied by factors, over the outputs' squares."""
    importance = grids.importance(hessian) / factor.square()
    apart = weight - grids.nearest(weight * factor, grid, importance, PARTS).value() / factor
    return float(((apart @ hessian) * apart).sum() / ((weight @ hessian) * weight).sum().clamp(min=1e-30))
