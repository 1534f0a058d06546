"""The grids that the quantize stages round to, as torch functions: what a number becomes there and back again.

Each takes floats and gives the floats that the stored integers stand for, to the last bit what ONNX Runtime's
quantisers, its kernels and tasks/quantize/embedding.py compute. Weights are torch's [outputs, inputs]; ONNX holds them
transposed. `straight_through` lets gradients pass the rounding (Bengio, Leonard and Courville 2013, "Estimating or
propagating gradients through stochastic neurons for conditional computation").
"""

import torch
from torch import Tensor
from torch.nn import functional

from tasks.quantize.embedding import CLIPS

TINY = torch.finfo(torch.float32).tiny  # smaller scales are replaced by 1
LEAST = 1e-7  # of the embedding's scales, before they are stored in half precision


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """Exactly `rounded` going forward, the gradient of `values` going backward."""
    return rounded.detach() + (values - values.detach())


def int8_channels(weight: Tensor, reduce_range: bool, per_channel: bool) -> Tensor:
    """Symmetric int8 (7 bits with reduce_range), one scale a row of [outputs, inputs] or one for all.

    As onnxruntime.quantization.quantize_dynamic does for MatMul: the largest size falls on 127, or on 64.
    """
    largest = weight.abs().amax(dim=1, keepdim=True) if per_channel else weight.abs().amax()
    scale = (2 * largest.double() / (128 if reduce_range else 254)).float()
    scale = torch.where(scale < TINY, 1.0, scale)
    return torch.round(weight / scale).clamp(-128, 127) * scale


def uint8_tensor(values: Tensor) -> Tensor:
    """Unsigned 8 bits with a zero point, one range for all values: ONNX's DynamicQuantizeLinear."""
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1.0, scale)
    zero = torch.round((0 - low / scale).clamp(0, 255))
    return ((torch.round(values / scale) + zero).clamp(0, 255) - zero) * scale


def int4_blocks(weight: Tensor, block: int, symmetric: bool) -> Tensor:
    """Four bits in blocks of a row of [outputs, inputs], the last perhaps short: onnxruntime's MatMulNBitsQuantizer.

    Symmetric: the number of the largest size falls on -8, whatever its sign. Else: the range, with 0 in it, on 0 to 15.
    """
    inputs = weight.shape[1]
    blocks = functional.pad(weight, (0, -inputs % block)).unflatten(1, (-1, block))
    low, high = blocks.amin(2, keepdim=True), blocks.amax(2, keepdim=True)
    if symmetric:
        scale, zero = torch.where(high.abs() > low.abs(), high, low) / -8, torch.tensor(8.0)
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / 15
        zero = half_away(torch.where(scale == 0, low, -low / scale).clamp(0, 15))
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    codes = half_away((blocks * inverse + zero).clamp(min=0)).clamp(max=15)
    return ((codes - zero) * scale).flatten(1)[:, :inputs]


def half_away(values: Tensor) -> Tensor:
    """Rounding of numbers of at least 0 with halves going up, as C's roundf."""
    whole = values.floor()
    return whole + (values - whole >= 0.5)


def int8_blocks(values: Tensor, block: int) -> Tensor:
    """Symmetric int8 in blocks of the last dimension: the input of MatMulNBits at accuracy level 4."""
    width = values.shape[-1]
    blocks: Tensor = functional.pad(values, (0, -width % block)).unflatten(-1, (-1, block))
    largest = blocks.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest == 0, 0.0, 127 / largest)
    found: Tensor = torch.round(blocks * inverse) * (largest / 127)
    return found.flatten(-2)[..., :width]


def int8_rows(rows: Tensor) -> Tensor:
    """Embedding vectors [..., d] as tasks/quantize/embedding.quantize_rows: int8, a half-precision scale each."""
    scale = (rows.abs().amax(-1, keepdim=True) / 127).clamp(min=LEAST).half().float()
    return torch.round(rows / scale).clamp(-127, 127) * scale


def int4_groups(rows: Tensor, group: int) -> Tensor:
    """Embedding vectors [..., d] as tasks/quantize/embedding.quantize_groups: the best of four clips a group."""
    parts: Tensor = rows.unflatten(-1, (-1, group))
    full = (parts.abs().amax(-1, keepdim=True) / 7).clamp(min=LEAST)
    best, least = full.half().float(), torch.full_like(full, torch.inf)
    for clip in CLIPS:
        scale = (full * clip).clamp(min=LEAST).half().float()
        error = ((torch.round(parts / scale).clamp(-8, 7) * scale - parts) ** 2).sum(-1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    found: Tensor = torch.round(parts / best).clamp(-8, 7) * best
    return found.flatten(-2)
