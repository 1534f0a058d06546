"""How much every input of a decoder's linear layers counts: the mean of its squares over text.

That is llama.cpp's importance matrix: the squared error of an output, were inputs independent, is that of each weight
times the mean square of what it is multiplied with.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks import progress
from tasks.generate import rounding, walk

LEAST = 1e-6  # of the layer's mean: an input that was never seen still counts a little


def of(model: Any, ids: Tensor, batch: int) -> dict[str, Tensor]:
    """By name of a weight the mean square of its inputs [inputs] in blocks of text [n, t]; at least LEAST of the mean.

    Where a layer's inputs are all zero they count alike.
    """
    linears = rounding.linears(model)
    sums = {name: torch.zeros(walk.weight_of(one).shape[1], dtype=torch.float64) for name, one in linears.items()}

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            sums[name] += args[0].flatten(0, -2).double().square().sum(0)

        return hook

    handles = [one.register_forward_pre_hook(look(name)) for name, one in linears.items()]
    try:
        with torch.no_grad():
            for begin in range(0, len(ids), batch):
                model.base_model(input_ids=ids[begin : begin + batch], use_cache=False)  # no logits: large
                progress.report(min(begin + batch, len(ids)), len(ids), "blocks of text")
    finally:
        for handle in handles:
            handle.remove()
    return {name: floored(total / ids.numel()) for name, total in sums.items()}


def floored(means: Tensor) -> Tensor:
    """Mean squares [inputs] in float32, none of them too small to count."""
    mean = float(means.mean())
    return (means.clamp(min=LEAST * mean) if mean > 0 else torch.ones_like(means)).float()
