"""A rounded decoder that learns: weights are what integers, scales and shifts stand for, and gradients go through.

What is trained is relative to each group's scale, so that one learning rate fits all of them: a scale is its first
value times 1 + r, a shift its first value plus t scales, an integer the nearest to its first value plus REACH * u. All
begin at 0. Forward everything is as it will be stored: scales in half precision, integers whole and inside their grid.
"""

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
    """Codes [outputs, inputs] times scale plus shift [outputs, groups]: keeps bytes for the way back, not floats."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """The weights that are meant [outputs, inputs]."""
        ctx.save_for_backward(codes.to(torch.int8), scale)
        groups = codes.float().unflatten(1, (scale.shape[1], -1))
        found: Tensor = grids.valued(groups, scale[..., None], shift[..., None]).flatten(1)
        return found

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients of codes, where they have any, of scales and of shifts."""
        codes, scale = ctx.saved_tensors
        wide: Tensor = given[0].unflatten(1, (scale.shape[1], -1))
        of_scale = (wide * codes.unflatten(1, (scale.shape[1], -1))).sum(2)
        of_codes = (wide * scale[..., None]).flatten(1) if ctx.needs_input_grad[0] else None
        return of_codes, of_scale, wide.sum(2)


class Part(nn.Module):
    """What is learnt of one rounded weight."""

    def __init__(self, one: Rounded, grid: Grid, integers: bool) -> None:
        super().__init__()
        self.first, self.grid = one, grid
        self.scale = nn.Parameter(torch.zeros_like(one.scale))
        self.shift = nn.Parameter(torch.zeros_like(one.scale)) if grid.zero == "free" else None
        small = grid.high - grid.low < 2**WHOLE - 2
        self.position = nn.Parameter(torch.zeros(one.codes.shape)) if integers and small else None

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, scale and shift as they are stored now, with gradients."""
        codes, first, shift = self.first
        scale = stored(first * (1 + self.scale))
        if self.grid.zero == "integer":
            shift = scale * torch.round(shift / grids.whole(first))
        elif self.shift is not None:
            shift = stored(shift + first * self.shift)
        if self.position is None:
            return codes, scale, shift
        place = (codes + REACH * self.position).clamp(self.grid.low, self.grid.high)
        return straight_through(place, torch.round(place)), scale, shift

    def forward(self) -> Tensor:
        """The weight that is meant [outputs, inputs]."""
        found: Tensor = Meant.apply(*self.parts())
        return found


class Learnt(nn.Module):
    """A language model whose rounded weights, norms and biases learn; what else it has stays as it is."""

    def __init__(self, model: Any, rounded: dict[str, Rounded], known: dict[str, Grid], integers: bool) -> None:
        super().__init__()
        self.names = sorted(rounded)
        self.turned = turned(model)
        self.parts = nn.ModuleList([Part(rounded[name], known[name], integers) for name in self.names])
        self.rest = nn.ParameterList([one for one in model.parameters() if one.ndim == 1])
        self.whole = (model,)  # what runs: no part of what is trained, so no module of this one

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
        found = {}
        with torch.no_grad():
            for name, part in zip(self.names, self.parts, strict=True):
                codes, scale, shift = part.parts()  # type: ignore[operator]
                found[name] = Rounded(codes.to(torch.int8), scale.clone(), shift.clone())
        return found


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
    with torch.no_grad():
        for name, one in rounded.items():
            model.get_parameter(name).copy_(one.value().T if name in across else one.value())
