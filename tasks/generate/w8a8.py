"""SmoothQuant's maths: outliers of a layer's inputs are moved into its weights, then both are rounded to 8 bits.

Xiao et al. 2022, "SmoothQuant: Accurate and efficient post-training quantization for large language models", arXiv
2211.10438, equation 4: input j is divided by s[j] = max|x[j]|^alpha / max|w[j]|^(1 - alpha) and column j of the weights
multiplied by it. Weights are rounded row by row, inputs token by token when they come. Pure functions of tensors:
weights are [outputs, inputs], inputs [..., inputs].
"""

import torch
from torch import Tensor

from tasks.generate import grids
from tasks.generate.grids import Grid, Rounded

NAME = "int8_row"
STEPS = 255  # between the least and the largest of 8 bits: what compressed-tensors spreads over a token's range


def factors(sizes: Tensor, weights: list[Tensor], alpha: float) -> Tensor:
    """What each input [inputs] of weights that read the same is divided by, of its largest sizes [inputs].

    1 where an input, or all that reads it, is always 0.
    """
    columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    used = (sizes > 0) & (columns > 0)
    found = torch.where(used, sizes, 1.0).pow(alpha) / torch.where(used, columns, 1.0).pow(1 - alpha)
    return found.clamp(1e-4, 1e4)


def row(inputs: int) -> Grid:
    """8 bits about 0, the whole row of a weight with one half-precision scale."""
    return Grid(name=NAME, low=-127, high=127, group=inputs, bits=8 + 16 / inputs, zero="middle")


def rounded(weight: Tensor) -> Rounded:
    """A weight's rows, each by its largest size."""
    return grids.nearest(weight, row(weight.shape[1]), None, (1.0,))


def by_token(inputs: Tensor) -> Tensor:
    """Inputs as 8 bits say them, each token's by its own largest size; all that is 0 stays so."""
    scale = grids.whole(inputs.abs().amax(-1, keepdim=True) * 2 / STEPS)
    return torch.round(inputs / scale).clamp(-128, 127) * scale
