"""A linear layer's weight seen through a mask by scores, whose gradient goes straight through it (prune/movement)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tasks.prune import masks


class Scored(nn.Module):
    """Weights where the mask is set, else 0; the gradient of a score is that of the masked weight times the weight.

    Bengio, Leonard and Courville 2013 ("Estimating or propagating gradients through stochastic neurons", the
    straight-through estimator). Scores and mask are buffers: they are no weights that a training loop would find.
    """

    scores: Tensor
    mask: Tensor

    def __init__(self, weight: Tensor, scores: Tensor | None = None) -> None:
        super().__init__()
        begun = torch.zeros_like(weight) if scores is None else scores.detach().clone()
        self.register_buffer("scores", begun.requires_grad_())
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """Weight [r, n] with zeros in it; of the second term only the gradient is left."""
        return weight * self.mask + (self.scores - self.scores.detach()) * weight.detach()


def attach(linear: nn.Linear, scores: Tensor | None = None) -> Scored:
    """Let a linear layer compute with its masked weight from now on; its scores begin at 0 where none are given."""
    scored = Scored(linear.weight.detach(), scores)
    parametrize.register_parametrization(linear, "weight", scored)
    return scored


def detach(linear: Any) -> None:
    """Make a linear layer's masked weight its own: plain again, with zeros in it."""
    kept = linear.parametrizations.weight[0].mask
    parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
    masks.zero(linear, kept)  # a negative weight times 0 is -0
