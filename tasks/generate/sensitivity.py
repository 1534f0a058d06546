"""What each grid would cost each weight of a decoder, in nats a token, and the grids that a budget of bits buys.

Of a linear layer the cost is foretold from its rounding error, its inputs (H = X^T X) and what its outputs mean to the
answers (tasks/generate/fisher.py). That tells layers apart, but knows nothing of errors that go together: weights that
training has moved off a grid by less than its steps lose all of that training there. So it is made to agree with
what is seen (tasks/generate/divergence.py): of each kind of linear on one grid, of each grid with all linears on it,
scaled by how much less than rounding to nearest the method at hand loses. Of the embedding the divergence is seen in
any case, on each grid with that method's own rounding, and both can be weighed against each other
(tasks/generate/budget.py).
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from registry.records import ShrinkError
from tasks import checkpoint
from tasks.generate import budget, divergence, fisher, grids, heads, lm, walk
from tasks.generate.budget import Choice
from tasks.generate.choices import GGUF_GRIDS
from tasks.generate.grids import Grid, Rounded

BLOCKS, BACKWARD = 12, 8  # of calibration text that are measured with; of them, those that go backwards
WINDOW, WINDOWS = 128, 3  # tokens of the blocks that go backwards; how many of them divergences are seen on
PARTS = (1.0, 0.9)  # of a group's range, tried where many grids are only compared


class Scaled(NamedTuple):
    """What the method at hand makes of layers and tables."""

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

    `scaled` says of a layer what the method loses over what rounding to nearest does, and rounds tables as it does.
    Raises ShrinkError when the smallest grids take more.
    """
    weights = lm.own_weights(model)
    count = sum(map(torch.numel, weights.values()))
    spent = sum(lm.bits_of(name, one, fixed) for name, one in weights.items() if name not in free)
    least = (spent + sum(weights[name].numel() * grids.GGUF[GGUF_GRIDS[0]].bits for name in free)) / count
    if least > target:
        raise ShrinkError(
            f"target is {target:g} but the smallest grids take {math.ceil(100 * least) / 100:.2f} bits a weight: raise "
            "it to that at least."
        )
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
    short = ids[:BACKWARD]
    if ids.shape[1] > WINDOW:
        short = short[:, : ids.shape[1] // WINDOW * WINDOW].reshape(-1, WINDOW)

    def kept(name: str, measure: Callable[[], Errors]) -> Errors:
        known = checkpoint.part(at, name)
        if known is None:
            walk.give_back()  # what was measured before leaves holes
            known = measure()
            checkpoint.keep_part(at, name, known)
        return known

    outside = [name for name in free if name not in linears]
    diagonals = kept("fisher", lambda: fisher.diagonals(model, short, linears, seed))
    found = kept("costs-tables", lambda: tables(model, short[:WINDOWS], outside, ids, scaled.table))
    middle = len(walk.layers_of(model)) // 2

    def change(index: int, layer: nn.Module, sums: walk.Sums, give: walk.Give) -> None:
        own: Errors = {"scale": torch.tensor(scaled.layer(layer, sums, give))} if index == middle else {}
        for name, linear in walk.linears_of(layer).items():
            if (full := f"{names[id(layer)]}.{name}.weight") in linears:
                own[full] = costs(walk.weight_of(linear), sums[name], ids.numel(), diagonals[full])
                own[f"{full}.squares"] = grids.importance(sums[name]).clone()
        checkpoint.keep_part(at, f"costs{index}", own)

    walk.walk(model, ids, change, lambda index, layer: checkpoint.part(at, f"costs{index}") is not None, 4)
    for index in range(len(walk.layers_of(model))):
        found |= checkpoint.part(at, f"costs{index}") or {}
    scale = found.pop("scale")
    squares = {name: found.pop(f"{name}.squares") for name in linears}
    found |= kept("costs-seen", lambda: agreeing(model, short[:WINDOWS], {one: found[one] for one in linears}, squares))
    return {name: one * scale if name in linears else one for name, one in found.items()}


def agreeing(model: Any, ids: Tensor, found: Errors, squares: dict[str, Tensor]) -> Errors:
    """Costs of linears that agree with the divergences seen of each kind on the first grid, and of all on each grid.

    `squares` are the importance of their inputs [inputs] by name.
    """
    if not found:
        return {}
    before, kinds = divergence.spoken(model, ids), {name: kind_of(name) for name in found}

    def seen(grid: str, kind: str | None) -> float:
        def change(name: str, weight: Tensor) -> Tensor | None:
            if name not in found or kind not in (None, kinds[name]):
                return None
            return grids.nearest(weight, grids.GGUF[grid], squares[name], PARTS).value()

        with divergence.changed(model, change):
            return divergence.seen(model, ids, before)

    for kind in dict.fromkeys(kinds.values()):
        own = [name for name in found if kinds[name] == kind]
        part = sum(float(found[name][0]) for name in own)
        if part > 0:
            ratio = seen(GGUF_GRIDS[0], kind) / part  # once: it runs the model
            found |= {name: found[name] * ratio for name in own}
    sums = torch.stack([*found.values()]).double().sum(0)
    all_of = torch.tensor([seen(grid, None) for grid in GGUF_GRIDS], dtype=torch.float64)
    ratios = torch.where(sums > 0, all_of / sums.clamp(min=1e-30), 1.0).float()
    return {name: one * ratios for name, one in found.items()}


def kind_of(name: str) -> str:
    """What a linear is in its layer, by the name of its weight: the same for all layers."""
    parts = name.split(".")
    return ".".join(parts[next(at for at, part in enumerate(parts) if part.isdigit()) + 1 :])


def costs(weight: Tensor, sums: Tensor, tokens: int, diagonal: Tensor) -> Tensor:
    """What each of GGUF_GRIDS costs one linear's weight, rounded to nearest."""
    importance = grids.importance(sums)
    rounded = [grids.nearest(weight, grids.GGUF[name], importance, PARTS).value() for name in GGUF_GRIDS]
    return torch.tensor([fisher.divergence(one - weight, sums, tokens, diagonal) for one in rounded])


def tables(
    model: Any,
    ids: Tensor,
    names: list[str],
    text: Tensor,
    table: Callable[[Tensor, Tensor | None, Grid], Rounded],
) -> Errors:
    """What each of GGUF_GRIDS costs an embedding or a head: the divergence seen with all of it rounded by the method.

    The windows `ids`, the beginning of the `text`, are kept out of the sums that the method rounds by: it fits those
    better than other text. A table lies in a file while another stands in its place, so that it is held once.
    """
    found: Errors = {}
    if not names:
        return found
    others = text[-(-ids.numel() // text.shape[1]) :]
    sums, before = heads.head_sums(model, others if len(others) else text), divergence.spoken(model, ids)
    for name in names:
        weight = lm.own_weights(model)[name]
        mine = sums if name == heads.head_of(model) else None
        seen = []
        with heads.aside(weight) as put_back:
            for grid in GGUF_GRIDS:
                heads.replace(weight, table(weight, mine, grids.GGUF[grid]))
                walk.trim()
                each = [divergence.seen(model, one, [then]) for one, then in zip(ids.split(1), before, strict=True)]
                seen.append(sum(each) / len(each))
                put_back()
        found[name] = torch.tensor(seen)
    return found
