"""A rounded decoder that learns: weights are what integers, scales and shifts stand for, and gradients go through.

What is trained is relative to each group's scale, so that one learning rate fits all of them: a scale is its first
value times 1 + r, a shift its first value plus t scales, an integer the nearest to its first value plus REACH * u. All
begin at 0. Forward everything is as it will be stored: scales in half precision, integers whole and inside their grid.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tasks.generate import grids
from tasks.generate.grids import Grid, Rounded
from tasks.quantize.grids import straight_through

REACH = 20.0  # how much faster integers go than scales, in steps over parts of a scale
WHOLE = 8  # integers of so many bits stay: they are near enough


class Meant(torch.autograd.Function):
    """What codes [outputs, inputs] stand for, with scale and shift [outputs, groups] and perhaps the codes' positions.

    What is held until the way back is bytes, not floats: the codes as they were used. Rows are done a part after the
    other, so that beside the weight itself nothing of its size in floats is made.
    """

    @staticmethod
    def forward(
        ctx: Any, scale: Tensor, shift: Tensor, position: Tensor | None, first: Tensor, grid: Grid
    ) -> tuple[Tensor, Tensor]:
        """The weights that are meant [outputs, inputs], and the codes now (int8)."""
        codes = first if position is None else moved(first, position, grid)
        ctx.save_for_backward(scale, position, first, codes)
        ctx.grid = grid
        ctx.mark_non_differentiable(codes)
        return Rounded(codes, scale, shift).value(), codes

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of scales, of shifts, and of positions where there are any."""
        scale, position, first, codes = ctx.saved_tensors
        of_scale, of_shift = torch.empty_like(scale), torch.empty_like(scale)
        of_position = None if position is None else torch.empty_like(position)
        for rows in parts_of(scale):
            wide: Tensor = given[0][rows].unflatten(1, (scale.shape[1], -1))
            of_scale[rows] = (wide * codes[rows].unflatten(1, (scale.shape[1], -1))).sum(2)
            of_shift[rows] = wide.sum(2)
            if of_position is not None:
                place = placed(first[rows], position[rows])
                inside = (place >= ctx.grid.low) & (place <= ctx.grid.high)
                of_position[rows] = REACH * torch.where(inside, (wide * scale[rows, :, None]).flatten(1), 0.0)
        return of_scale, of_shift, of_position, None, None


def placed(first: Tensor, position: Tensor) -> Tensor:
    """Where integers are, between their neighbours."""
    return first + REACH * position


def moved(first: Tensor, position: Tensor, grid: Grid) -> Tensor:
    """The integers (int8) nearest to where they are by now, inside their grid."""
    found = torch.empty_like(first)
    for rows in parts_of(first):
        found[rows] = torch.round(placed(first[rows], position[rows]).clamp(grid.low, grid.high))
    return found


def parts_of(values: Tensor) -> Iterator[slice]:
    """Some rows after the other."""
    for start in range(0, len(values), grids.ROWS):
        yield slice(start, start + grids.ROWS)


class Part(nn.Module):
    """What is learnt of one rounded weight."""

    def __init__(self, one: Rounded, grid: Grid, integers: bool) -> None:
        super().__init__()
        self.first, self.grid = one, grid
        self.scale = nn.Parameter(torch.zeros_like(one.scale))
        self.shift = nn.Parameter(torch.zeros_like(one.scale)) if grid.zero == "free" else None
        small = grid.high - grid.low < 2**WHOLE - 2
        self.position = nn.Parameter(torch.zeros(one.codes.shape)) if integers and small else None

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift as they are stored now, with gradients."""
        _, first, shift = self.first
        scale = stored(first * (1 + self.scale))
        if self.grid.zero == "integer":
            shift = scale * torch.round(shift / grids.whole(first))
        elif self.shift is not None:
            shift = stored(shift + first * self.shift)
        return scale, shift

    def forward(self) -> Tensor:
        """The weight that is meant [outputs, inputs]."""
        found: Tensor = Meant.apply(*self.affine(), self.position, self.first.codes, self.grid)[0]
        return found

    def rounded(self) -> Rounded:
        """The integers, scales and shifts as they are stored now."""
        with torch.no_grad():
            codes = self.first.codes if self.position is None else moved(self.first.codes, self.position, self.grid)
            return Rounded(codes, *(one.clone() for one in self.affine()))


class Learnt(nn.Module):
    """A language model whose rounded weights, norms and biases learn; what else it has stays as it is.

    The model's own numbers of the rounded weights are let go of: `put` gives it those that were learnt.
    """

    def __init__(self, model: Any, rounded: dict[str, Rounded], known: dict[str, Grid], integers: bool) -> None:
        super().__init__()
        self.names = sorted(rounded)
        self.turned = turned(model)
        self.parts = nn.ModuleList([Part(rounded[name], known[name], integers) for name in self.names])
        self.rest = nn.ParameterList([one for one in model.parameters() if one.ndim == 1])
        self.whole = (model,)  # what runs: no part of what is trained, so no module of this one
        for name in self.names:
            own = model.get_parameter(name)
            own.data = own.new_zeros(()).expand(own.shape)  # the shape alone

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [b, t, pieces] of token ids [b, t]."""
        weights = {name: self.given(name, part()) for name, part in zip(self.names, self.parts, strict=True)}
        found: Tensor = functional_call(self.whole[0], weights, (), {"input_ids": ids, "use_cache": False}).logits
        return found

    def given(self, name: str, weight: Tensor) -> Tensor:
        """A weight [outputs, inputs] as its layer has it."""
        return weight.T if name in self.turned else weight

    def rounded(self) -> dict[str, Rounded]:
        """The integers, scales and shifts that are learnt by now, by name of their weight."""
        return {name: part.rounded() for name, part in zip(self.names, self.parts, strict=True)}  # type: ignore[operator]


def stored(values: Tensor) -> Tensor:
    """As half precision keeps it, with the gradient of the values."""
    return straight_through(values, grids.stored(values))


def turned(model: nn.Module) -> set[str]:
    """The names of weights that lie as [inputs, outputs] in their layer."""
    from transformers.pytorch_utils import Conv1D

    return {f"{name}.weight" for name, one in model.named_modules() if isinstance(one, Conv1D)}


def put(model: Any, rounded: dict[str, Rounded]) -> None:
    """Give a model the weights that are meant, in place."""
    across = turned(model)
    for name, one in rounded.items():
        model.get_parameter(name).data = (one.value().T if name in across else one.value()).contiguous()
