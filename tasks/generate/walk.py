"""Goes through a decoder layer by layer: what comes in is measured, the layer is changed, what it then gives goes on.

The texts are blocks of one length without padding, so that all that a layer is given besides hidden states (positions,
masks) is the same for every batch: it is caught once, in a first pass of one block. Only one layer's sums live at a
time. The layers that are done are given to `done`; a walk that starts again reads them and only computes what goes
through them.
"""

import contextlib
import ctypes
import functools
import gc
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from registry.records import ShrinkError
from tasks import progress

Give = Callable[[], Tensor]
Sums = dict[str, Tensor]  # by linear of a layer, the sum of x x^T over all its inputs [inputs, inputs], or `largest`


class Caught(NamedTuple):
    """What a layer is called with: the first argument is the hidden state, these are the rest."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Measure = Callable[[nn.Module, list[Tensor], Caught], Sums]  # what is measured of a layer's inputs, by linear


def layers_of(model: Any) -> nn.ModuleList:
    """The decoder's layers, bottom first; ShrinkError where a model has none that are known."""
    inner = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    for owner in (inner, getattr(inner, "decoder", None)):
        for name in ("layers", "h"):
            found = getattr(owner, name, None)
            if isinstance(found, nn.ModuleList):
                return found
    raise ShrinkError(f"no layers are known in a model of type '{model.config.model_type}': choose another decoder.")


def linears_of(layer: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a decoder layer by name, transformers' Conv1D (GPT-2) among them."""
    from transformers.pytorch_utils import Conv1D

    return {name: one for name, one in layer.named_modules() if isinstance(one, nn.Linear | Conv1D)}


def weight_of(linear: nn.Module) -> Tensor:
    """A linear's weight as [outputs, inputs]; Conv1D holds it the other way round."""
    weight: Tensor = linear.weight.detach()  # type: ignore[operator]
    return weight if isinstance(linear, nn.Linear) else weight.T


def put(linear: nn.Module, weight: Tensor) -> None:
    """Replace a linear's weight, given as [outputs, inputs], in place."""
    with torch.no_grad():
        weight_of(linear).copy_(weight)


def start(model: Any, ids: Tensor, batch: int) -> tuple[list[Tensor], list[Caught]]:
    """Of blocks [n, t] the first layer's inputs, in batches, and what each layer is called with besides."""
    layers = layers_of(model)
    caught: dict[int, Caught] = {}
    hidden: list[Tensor] = []

    class Enough(Exception):
        """Ends a forward pass: what was wanted is known."""

    def catch(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            caught[index] = Caught(args[1:], rest)

        return hook

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden.append(args[0] if args else kwargs["hidden_states"])
        raise Enough

    with torch.no_grad():
        with contextlib.ExitStack() as hooks:
            for index, layer in enumerate(layers):
                hooks.callback(layer.register_forward_pre_hook(catch(index), with_kwargs=True).remove)
            model.base_model(input_ids=ids[:1], use_cache=False)  # one block says it; no logits: large
        with contextlib.ExitStack() as hooks:
            hooks.callback(layers[0].register_forward_pre_hook(enter, with_kwargs=True).remove)
            for begin in range(0, len(ids), batch):
                with contextlib.suppress(Enough):
                    model.base_model(input_ids=ids[begin : begin + batch], use_cache=False)
    return hidden, [caught[index] for index in range(len(layers))]


def through(layer: nn.Module, hidden: list[Tensor], caught: Caught) -> None:
    """Replace each batch of hidden states by what the layer makes of it."""
    for number, state in enumerate(hidden):
        hidden[number] = given(layer, state, caught)


def given(layer: nn.Module, state: Tensor, caught: Caught) -> Tensor:
    """What a layer makes of one batch of hidden states."""
    with torch.no_grad():
        found = layer(state, *caught.args, **caught.kwargs)
    result: Tensor = found[0] if isinstance(found, tuple) else found
    return result


def sums(layer: nn.Module, hidden: list[Tensor], caught: Caught) -> Sums:
    """By linear of a layer, the sum of x x^T over its inputs; linears with the same input share one tensor."""
    return read_by(layer, (functools.partial(given, layer, state, caught) for state in hidden))


def read_by(layer: nn.Module, passes: Iterable[Give]) -> Sums:
    """The same over what the layer's linears read in some passes through it."""
    found: Sums = {}
    last: list[tuple[Tensor, str]] = []  # held: what is freed could be taken for what comes next

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if last and last[-1][0] is args[0] and last[-1][1] in found:
                found[name] = found[last[-1][1]]  # q, k and v read the same
                return
            rows = args[0].flatten(0, -2).float()
            found[name] = found.get(name, 0) + rows.T @ rows
            last[:] = [(args[0], name)]

        return hook

    handles = [one.register_forward_pre_hook(look(name)) for name, one in linears_of(layer).items()]
    try:
        for once in passes:
            last.clear()
            once()
    finally:
        for handle in handles:
            handle.remove()
    return found


def largest(layer: nn.Module, hidden: list[Tensor], caught: Caught) -> Sums:
    """By linear of a layer, the largest size of each of its inputs [inputs]."""
    found: Sums = {}

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            sizes = args[0].abs().flatten(0, -2).amax(0).float()
            found[name] = torch.maximum(found[name], sizes) if name in found else sizes

        return hook

    handles = [one.register_forward_pre_hook(look(name)) for name, one in linears_of(layer).items()]
    try:
        for state in hidden:
            given(layer, state, caught)
    finally:
        for handle in handles:
            handle.remove()
    return found


def walk(
    model: Any,
    ids: Tensor,
    change: Callable[[int, nn.Module, Sums, Give], None],
    known: Callable[[int, nn.Module], bool],
    batch: int = 8,
    measure: Measure = sums,
) -> None:
    """Change every layer from the bottom up: `known` may put back what an earlier go made of it and say so.

    `change` is called with the layer's number, the layer, its sums (or what else is measured of its inputs), and what
    it gives for the first batch as it is.
    """
    if len(ids) % batch:
        ids = ids[: len(ids) // batch * batch] if len(ids) > batch else ids
        batch = min(batch, len(ids))
    give_back()
    hidden, caught = start(model, ids, batch)
    layers = layers_of(model)
    gc.collect()
    gc.freeze()  # what imports made is not looked through again behind every layer
    try:
        for index, layer in enumerate(layers):
            if not known(index, layer):
                give = functools.partial(given, layer, hidden[0], caught[index])
                change(index, layer, measure(layer, hidden, caught[index]), give)
            if index + 1 < len(layers):
                through(layer, hidden, caught[index])
            give_back()
            progress.report(index + 1, len(layers), "layers")
    finally:
        gc.unfreeze()


def give_back() -> None:
    """Return memory that is free to the system: what lies between tensors that stay would else count for ever."""
    gc.collect()
    trim()


def trim() -> None:
    """The same of what is free already."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc has no such function
            ctypes.CDLL(None).malloc_trim(0)
