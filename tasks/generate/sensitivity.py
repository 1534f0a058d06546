"""What each grid would cost each weight of a decoder, in nats a token, and the grids that a budget of bits buys.

Of a linear layer the cost is foretold from its rounding error, its inputs (H = X^T X) and what its outputs mean to the
answers (tasks/generate/fisher.py), scaled by how much less than rounding to nearest the method at hand loses in the
middle layer; of the embedding it is the divergence that was seen with the whole table rounded. So both can be weighed
against each other (tasks/generate/budget.py).
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from registry.records import ShrinkError
from tasks import checkpoint
from tasks.generate import budget, fisher, grids, lm, walk
from tasks.generate.budget import Choice
from tasks.generate.choices import GGUF_GRIDS
from tasks.generate.grids import Grid, Rounded

BLOCKS = 8  # of calibration text that are measured with
WINDOW, WINDOWS = 128, 3  # tokens of the blocks that go backwards; how many of them an embedding is judged by
ROWS = 2048  # about so many of a table tell what the method makes of it
PARTS = (1.0, 0.9)  # of a group's range, tried where many grids are only compared


class Scaled(NamedTuple):
    """How the method at hand loses less than rounding to nearest does."""

    layer: Callable[[nn.Module, walk.Sums, walk.Give], float]  # a layer's error over that by rounding to nearest
    table: Callable[[Tensor, Tensor | None, Grid], Rounded]  # how it rounds an embedding or a head


Errors = dict[str, Tensor]  # by name of a weight, of each of GGUF_GRIDS the nats a token


def spend(
    model: Any,
    ids: Tensor,
    free: list[str],
    fixed: dict[str, Grid],
    target: float,
    scaled: Scaled,
    at: tuple[Path, str],
    seed: int,
) -> tuple[dict[str, Grid], float]:
    """Grids for the `free` weights so that all weights take at most `target` bits each; the divergence foretold.

    `scaled` says of a layer what the method loses over what rounding to nearest does. Raises ShrinkError when the
    smallest grids take more.
    """
    weights = lm.own_weights(model)
    count = sum(map(torch.numel, weights.values()))
    spent = sum(lm.bits_of(name, one, fixed) for name, one in weights.items() if name not in free)
    least = (spent + sum(weights[name].numel() * grids.GGUF[GGUF_GRIDS[0]].bits for name in free)) / count
    if least > target:
        raise ShrinkError(f"target is {target:g} but the smallest grids take {least:.2f} bits a weight: raise it.")
    found = errors(model, ids[:BLOCKS], free, scaled, at, seed)
    offered = {
        name: [
            Choice(grid, weights[name].numel() * grids.GGUF[grid].bits, float(error))
            for grid, error in zip(GGUF_GRIDS, found[name], strict=True)
        ]
        for name in free
    }
    taken = budget.choose(offered, target * count - spent)
    return {name: grids.GGUF[one.grid] for name, one in taken.items()}, sum(one.error for one in taken.values())


def errors(
    model: Any,
    ids: Tensor,
    free: list[str],
    scaled: Scaled,
    at: tuple[Path, str],
    seed: int,
) -> Errors:
    """What every grid costs each free weight; what was measured before a kill is not measured again."""
    names = {id(one): name for name, one in model.named_modules()}
    inside = {
        f"{names[id(one)]}.weight": one for layer in walk.layers_of(model) for one in walk.linears_of(layer).values()
    }
    linears = {name: one for name, one in inside.items() if name in free}
    short = ids[:, : ids.shape[1] // WINDOW * WINDOW].reshape(-1, WINDOW) if ids.shape[1] > WINDOW else ids

    def kept(name: str, measure: Callable[[], Errors]) -> Errors:
        known = checkpoint.part(at, name)
        if known is None:
            known = measure()
            checkpoint.keep_part(at, name, known)
        return known

    outside = [name for name in free if name not in linears]
    diagonals = kept("fisher", lambda: fisher.diagonals(model, short, linears, seed))
    found = kept("costs-tables", lambda: tables(model, short[:WINDOWS], outside, ids, scaled))
    middle = len(walk.layers_of(model)) // 2

    def change(index: int, layer: nn.Module, sums: walk.Sums, give: walk.Give) -> None:
        own: Errors = {"scale": torch.tensor(scaled.layer(layer, sums, give))} if index == middle else {}
        for name, linear in walk.linears_of(layer).items():
            if (full := f"{names[id(layer)]}.{name}.weight") in linears:
                own[full] = costs(walk.weight_of(linear), sums[name], ids.numel(), diagonals[full])
        checkpoint.keep_part(at, f"costs{index}", own)

    walk.walk(model, ids, change, lambda index, layer: checkpoint.part(at, f"costs{index}") is not None, 4)
    for index in range(len(walk.layers_of(model))):
        found |= checkpoint.part(at, f"costs{index}") or {}
    scale = found.pop("scale")
    return {name: one * scale if name in linears else one for name, one in found.items()}


def costs(weight: Tensor, sums: Tensor, tokens: int, diagonal: Tensor) -> Tensor:
    """What each of GGUF_GRIDS costs one linear's weight, rounded to nearest."""
    importance = grids.importance(sums)
    rounded = [grids.nearest(weight, grids.GGUF[name], importance, PARTS).value() for name in GGUF_GRIDS]
    return torch.tensor([fisher.divergence(one - weight, sums, tokens, diagonal) for one in rounded])


def tables(model: Any, ids: Tensor, names: list[str], text: Tensor, scaled: Scaled) -> Errors:
    """What each of GGUF_GRIDS costs an embedding or a head: the divergence seen with all of it rounded to nearest.

    It is scaled, too, by what the method at hand makes of some rows on q4_0 (the error of what a head then gives).
    """
    found: Errors = {}
    if not names:
        return found
    sums = head_sums(model, text)
    with torch.no_grad():
        before = [functional.log_softmax(model(input_ids=one, use_cache=False).logits, -1) for one in ids.split(1)]
    for name in names:
        weight = lm.own_weights(model)[name]
        mine = sums if name == head_of(model) else None
        importance = None if mine is None else grids.importance(mine)
        whole, seen = weight.clone(), []
        for grid in GGUF_GRIDS:
            with torch.no_grad():
                replace(weight, grids.nearest(whole, grids.GGUF[grid], importance, PARTS))
                seen.append(sum(apart(model, *pair) for pair in zip(ids.split(1), before, strict=True)) / ids.numel())
        with torch.no_grad():
            weight.copy_(whole)
        errors, some = [], whole[:: max(1, len(whole) // ROWS)]
        for by in (scaled.table, nearest):
            lost = by(some, mine, grids.GGUF["q4_0"]).value() - some
            errors.append(float(lost.square().sum() if mine is None else ((lost @ mine) * lost).sum()))
        found[name] = torch.tensor(seen) * (errors[0] / errors[1] if errors[1] else 1.0)
    return found


def nearest(weight: Tensor, sums: Tensor | None, grid: Grid) -> Rounded:
    """A table rounded to nearest, as its cost is told."""
    return grids.nearest(weight, grid, None if sums is None else grids.importance(sums), PARTS)


def tables_of(model: Any) -> list[str]:
    """The names of the embedding's weight and, where it is not the same, the output head's."""
    first, last = name_of(model, model.get_input_embeddings()), head_of(model)
    return [first] if first == last else [first, last]


def head_of(model: Any) -> str:
    """The name of the output head's weight: the embedding's, where both are one."""
    return name_of(model, model.get_output_embeddings())


def name_of(model: Any, module: Any) -> str:
    """The name under which a module's weight is stored."""
    at = module.weight.data_ptr()
    return next(name for name, weight in lm.own_weights(model).items() if weight.data_ptr() == at)


def head_sums(model: Any, ids: Tensor) -> Tensor:
    """The sum of x x^T over what the output head reads [inputs, inputs]."""
    found: list[Tensor] = []

    class Enough(Exception):
        """Ends a forward pass before its logits, which are large."""

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = args[0].flatten(0, -2)
        found[:] = [rows.T @ rows + (found[0] if found else 0)]
        raise Enough

    handle = model.get_output_embeddings().register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            for block in ids[:BLOCKS].split(1):
                with contextlib.suppress(Enough):
                    model(input_ids=block[:, : 2 * WINDOW], use_cache=False)
    finally:
        handle.remove()
    return found[0]


def replace(weight: Tensor, rounded: Rounded) -> None:
    """Put what rounded integers stand for in a weight's place, some rows at a time."""
    for start in range(0, len(weight), grids.ROWS):
        rows = slice(start, start + grids.ROWS)
        weight[rows] = Rounded(*(part[rows] for part in rounded)).value()


def apart(model: Any, ids: Tensor, before: Tensor) -> float:
    """Divergence of what the model says now of a block from what it said before, summed over tokens, in nats."""
    now = functional.log_softmax(model(input_ids=ids, use_cache=False).logits, -1)
    return float(functional.kl_div(now, before, log_target=True, reduction="sum"))
