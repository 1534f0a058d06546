"""What matters in a decoder, seen while training text goes through it: layers, neurons, groups of heads, features.

A layer's influence is 1 minus the cosine of what goes in and what comes out, meant over tokens (Men et al. 2024,
"ShortGPT: Layers in large language models are more redundant than you expect", arXiv 2403.03853). Neurons, groups of
heads and features are weighed by the size of their activations: the mean over a window's tokens, the root of the sum of
squares over windows (Muralidharan et al. 2024, "Compact language models via pruning and knowledge distillation", arXiv
2407.14679, section 2.2). One pass; sums alone are kept.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks import progress
from tasks.generate import cut, walk
from tasks.generate.families import Anatomy


class Sizes(NamedTuple):
    """Scores: by layer of its neurons [n] and of its groups of heads [g], and of the hidden width [d]."""

    neurons: list[Tensor]
    groups: list[Tensor]
    width: Tensor


def layers(model: Any, ids: Tensor, batch: int) -> list[float]:
    """The influence of every layer on windows of text [n, t]."""
    found = [0.0] * len(walk.layers_of(model))

    def look(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            found[number] += float((1 - functional.cosine_similarity(before, after, dim=-1)).sum())

        return hook

    with hooked(
        [one.register_forward_hook(look(at), with_kwargs=True) for at, one in enumerate(walk.layers_of(model))]
    ):
        through(model, ids, batch)
    return [one / ids.numel() for one in found]


def sizes(model: Any, where: Anatomy, ids: Tensor, batch: int) -> Sizes:
    """The scores of what a decoder consists of, on windows of text [n, t]."""
    heads, wide = cut.heads_of(model), int(model.config.hidden_size)
    every = walk.layers_of(model)
    neurons, groups = ([torch.zeros(0)] * len(every) for _ in range(2))
    width = torch.zeros(wide)

    def of_neurons(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            neurons[number] = add(neurons[number], args[0].abs())

        return hook

    def of_groups(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            groups[number] = add(groups[number], args[0].unflatten(-1, (heads.groups, -1)).norm(dim=-1))

        return hook

    def of_width(module: nn.Module, args: Any, out: Tensor) -> None:
        nonlocal width
        width = add(width, out.abs())

    hooks = [one.get_submodule(where.out).register_forward_pre_hook(of_neurons(at)) for at, one in enumerate(every)]
    hooks += [one.get_submodule(where.merge).register_forward_pre_hook(of_groups(at)) for at, one in enumerate(every)]
    hooks += [one.register_forward_hook(of_width) for one in cut.norms(model, wide)]
    with hooked(hooks):
        through(model, ids, batch)
    return Sizes([one.sqrt() for one in neurons], [one.sqrt() for one in groups], width.sqrt())


def add(total: Tensor, size: Tensor) -> Tensor:
    """A sum of squares with those of more windows [b, t, n], each by the mean of its tokens."""
    more = size.reshape(-1, *size.shape[-2:]).mean(1).square().sum(0)
    return more if not len(total) else total + more


def through(model: Any, ids: Tensor, batch: int) -> None:
    """Windows through a model, without its logits."""
    with torch.inference_mode():
        for start in range(0, len(ids), batch):
            model.base_model(input_ids=ids[start : start + batch], use_cache=False)
            progress.report(min(start + batch, len(ids)), len(ids), "windows")


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Hooks for a while."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
