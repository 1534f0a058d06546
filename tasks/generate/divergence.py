"""How far a decoder's answers move when its weights are rounded: seen on a few windows, in nats a token.

Layers run on rounded weights one after the other, and each has its own back behind it: a copy of one layer alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.generate import walk

ROWS = 32  # tokens whose chances are compared at once: those of all would be held several times
Change = Callable[[str, Tensor], Tensor | None]  # of a linear's weight by name what is in its place, None: as it is


def spoken(model: Any, ids: Tensor) -> list[Tensor]:
    """Logarithms of the probabilities after each token of windows [n, t]: [1, t, pieces] of each."""
    with torch.no_grad():
        return [functional.log_softmax(model(input_ids=one, use_cache=False).logits, -1) for one in ids.split(1)]


def seen(model: Any, ids: Tensor, before: list[Tensor]) -> float:
    """Divergence of what the model says now of windows from what it said before, in nats a token.

    The windows go through together: what is changed on the way is changed once.
    """
    total = 0.0
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        for window, known in zip(logits, before, strict=True):
            for now, then in zip(window.split(ROWS), known[0].split(ROWS), strict=True):
                said = functional.log_softmax(now, -1)
                total += float(functional.kl_div(said, then, log_target=True, reduction="sum"))
    return total / ids.numel()


@contextlib.contextmanager
def changed(model: Any, change: Change) -> Iterator[None]:
    """While this lasts, each layer runs on the weights that `change` puts in the place of its linears'."""
    prefixes = {id(one): name for name, one in model.named_modules()}
    kept: dict[nn.Module, Tensor] = {}

    def put(layer: nn.Module, args: Any) -> None:
        for name, linear in walk.linears_of(layer).items():
            weight = walk.weight_of(linear)
            other = change(f"{prefixes[id(layer)]}.{name}.weight", weight)
            if other is not None:
                kept[linear] = weight.clone()
                walk.put(linear, other)

    def restore(layer: nn.Module, args: Any, output: Any) -> None:
        for linear in walk.linears_of(layer).values():
            if linear in kept:
                walk.put(linear, kept.pop(linear))
        walk.trim()  # what lies between copies would else be kept, more and more of it

    handles = [layer.register_forward_pre_hook(put) for layer in walk.layers_of(model)]
    handles += [layer.register_forward_hook(restore) for layer in walk.layers_of(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for linear, weight in kept.items():
            walk.put(linear, weight)
