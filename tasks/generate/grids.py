"""The grids that a decoder's weights are rounded to: each group of a row shares a scale and a shift.

What is stored of a weight is an integer q between `low` and `high`; it stands for scale * q + shift. The grids called
q4_0 to q8_0 are those of GGUF's blocks of 32 (llama.cpp, ggml-quants), so that what is rounded here is in such a file
to the last bit; `integer` makes those of compressed-tensors, whose zero is an integer, too. Pure functions of tensors:
weights are [outputs, inputs], scales and shifts [outputs, groups].
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor

from registry.records import STRICT, ShrinkError
from tasks.generate import choices

ROWS = 1024  # of a weight that are rounded at once: an embedding's would take gigabytes
SHRUNK = tuple(1.0 - 0.025 * step for step in range(13))  # parts of the full range that a fit tries


class Rounded(NamedTuple):
    """A weight as it is stored: codes [outputs, inputs] int8; scale and shift [outputs, groups] float32."""

    codes: Tensor
    scale: Tensor
    shift: Tensor

    def value(self) -> Tensor:
        """The weights that are meant [outputs, inputs]."""
        groups = self.codes.unflatten(1, (self.scale.shape[1], -1))  # views: nothing but the weights is made
        found: Tensor = (groups * self.scale.float()[..., None]).add_(self.shift.float()[..., None])
        return found.flatten(1)


class Grid(BaseModel):
    """How a group of weights is stored."""

    model_config = STRICT
    name: str
    low: int
    high: int
    group: int  # weights of a row that share scale and shift
    bits: float  # a weight takes, scale and shift included
    zero: Literal["middle", "edge", "integer", "free"]
    # middle: symmetric about 0; edge: the largest size falls on `low`; integer: the shift is whole scales; free: any


def gguf(name: str, low: int, high: int, bits: float, zero: Literal["middle", "edge", "free"]) -> Grid:
    """One of GGUF's blocks of 32 with scales in half precision."""
    return Grid(name=name, low=low, high=high, group=32, bits=bits, zero=zero)


GGUF = {
    "q4_0": gguf("q4_0", -8, 7, 4.5, "edge"),
    "q4_1": gguf("q4_1", 0, 15, 5.0, "free"),
    "q5_0": gguf("q5_0", -16, 15, 5.5, "edge"),
    "q5_1": gguf("q5_1", 0, 31, 6.0, "free"),
    "q8_0": gguf("q8_0", -127, 127, 8.5, "middle"),
}


def integer(bits: int, group: int, symmetric: bool) -> Grid:
    """compressed-tensors' groups: integers of some bits, half-precision scales, and integer zeros unless symmetric."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    extra = 16 / group if symmetric else (16 + bits) / group
    name = f"int{bits}_g{group}" + ("" if symmetric else "_zero")
    return Grid(
        name=name, low=low, high=high, group=group, bits=bits + extra, zero="middle" if symmetric else "integer"
    )


def named(name: str) -> Grid:
    """The grid of a name that a recipe may say (tasks/generate/choices.py)."""
    said = choices.integers(name)
    return GGUF[name] if said is None else integer(*said)


def grouped(weight: Tensor, grid: Grid) -> Tensor:
    """[outputs, inputs] as [outputs, groups, group]; ShrinkError when groups do not divide the row."""
    if weight.shape[1] % grid.group:
        raise ShrinkError(f"group is {grid.group}, which does not divide the {weight.shape[1]} inputs of a weight.")
    groups: Tensor = weight.unflatten(1, (-1, grid.group))
    return groups


def ranged(groups: Tensor, grid: Grid, part: float) -> tuple[Tensor, Tensor]:
    """Scale and shift of [outputs, groups, group] by a part of the groups' range, as they are stored."""
    low, high = groups.amin(2) * part, groups.amax(2) * part
    shift = torch.zeros_like(low)
    match grid.zero:
        case "middle":
            scale = torch.maximum(high, -low) / grid.high
        case "edge":
            scale = torch.where(high > -low, high, low) / grid.low
        case "free":
            scale, shift = (high - low) / (grid.high - grid.low), stored(low)
        case "integer":
            low, high = low.clamp(max=0), high.clamp(min=0)
            scale = stored((high - low) / (grid.high - grid.low))
            zero = torch.round(grid.low - low / whole(scale)).clamp(grid.low, grid.high)
            shift = -zero * scale
    return stored(scale), shift


def stored(values: Tensor) -> Tensor:
    """As half precision keeps it."""
    return values.half().float()


def whole(scale: Tensor) -> Tensor:
    """The scale with 1 in place of 0, by which can be divided."""
    return torch.where(scale == 0, 1.0, scale)


def codes(weight: Tensor, scale: Tensor, shift: Tensor, grid: Grid) -> Tensor:
    """The nearest integers of weights whose scale and shift have (or broadcast to) their shape."""
    return torch.round((weight - shift) / whole(scale)).clamp(grid.low, grid.high)


def valued(code: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """What integers stand for."""
    return code * scale + shift


def fit(
    weight: Tensor, grid: Grid, importance: Tensor | None = None, parts: Sequence[float] = SHRUNK
) -> tuple[Tensor, Tensor]:
    """Scale and shift of each group with the least squared error over the tried parts of its range.

    `importance` [inputs] weighs the squares; the mean square of each input makes it the error of the outputs, were
    inputs independent (what an importance matrix is to llama.cpp). Full ranges come first, so that ties keep them.
    """
    groups = grouped(weight, grid)
    weights = torch.ones(groups.shape[1:]) if importance is None else importance.view(groups.shape[1:])
    best, least = ranged(groups, grid, 1.0), torch.full(groups.shape[:2], torch.inf)
    for part in parts:
        scale, shift = ranged(groups, grid, part)
        rounded = valued(codes(groups, scale[..., None], shift[..., None], grid), scale[..., None], shift[..., None])
        error = ((rounded - groups).square() * weights).sum(2)
        better = error < least
        best = (torch.where(better, scale, best[0]), torch.where(better, shift, best[1]))
        least = torch.minimum(error, least)
    return best


def importance(sums: Tensor) -> Tensor:
    """Of the sums of x x^T [inputs, inputs] the squares of each input [inputs], about 1."""
    squares = sums.diagonal()
    return squares / squares.mean().clamp(min=1e-12)


def spread(values: Tensor, grid: Grid) -> Tensor:
    """Scales or shifts [outputs, groups] for every weight [outputs, inputs]."""
    return values.repeat_interleave(grid.group, dim=1)


def room(weight: Tensor, grid: Grid) -> Rounded:
    """Where a weight's integers, scales and shifts go, a part after the other.

    Taken at once: small results that stay between large ones that go would keep the memory of these, too.
    """
    shape = weight.shape[0], grouped(weight[:1], grid).shape[1]
    return Rounded(torch.empty(weight.shape, dtype=torch.int8), torch.empty(shape), torch.empty(shape))


def nearest(weight: Tensor, grid: Grid, importance: Tensor | None = None, parts: Sequence[float] = SHRUNK) -> Rounded:
    """Round to nearest: every weight by itself, on the groups' fitted scales."""
    found = room(weight, grid)
    for start in range(0, len(weight), ROWS):
        rows = weight[start : start + ROWS]
        scale, shift = fit(rows, grid, importance, parts)
        code = codes(rows, spread(scale, grid), spread(shift, grid), grid)
        for whole, part in zip(found, (code, scale, shift), strict=True):
            whole[start : start + ROWS] = part
    return found
