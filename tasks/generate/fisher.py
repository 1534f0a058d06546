"""How much a decoder's answers move when the outputs of its linear layers do: squared gradients, output by output.

With next tokens y drawn from the model's own distribution, F = E[g g^T] of g = d log p(y) / d output is Fisher's
information: outputs that err by e move the distribution by KL = e^T F e / 2. Of F its diagonal is kept, and tokens
count as independent (as in K-FAC: Martens and Grosse 2015, "Optimizing neural networks with Kronecker-factored
approximate curvature", arXiv 1503.05671), so that errors of all layers stand side by side in nats a token.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tasks.generate import walk


def diagonals(model: Any, ids: Tensor, linears: dict[str, nn.Module], seed: int) -> dict[str, Tensor]:
    """By name of linears the mean over all tokens of [n, t] ids of the squared gradients of their outputs [outputs].

    One block goes through at a time, and of each layer only the input is kept until the way back.
    """
    squares = {name: torch.zeros(walk.weight_of(one).shape[0]) for name, one in linears.items()}
    generator = torch.Generator().manual_seed(seed)

    def look(name: str) -> Callable[..., None]:
        def add(gradient: Tensor) -> None:
            squares[name] += gradient.detach().flatten(0, -2).square().sum(0)

        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            output.register_hook(add)

        return hook

    def begin(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    wanted = {name: weight.requires_grad for name, weight in model.named_parameters()}
    model.requires_grad_(False)
    handles = [one.register_forward_hook(look(name)) for name, one in linears.items()]
    handles.append(model.get_input_embeddings().register_forward_hook(begin))
    try:
        with recomputed(walk.layers_of(model)), torch.enable_grad():
            for block in ids.split(1):
                logits = model(input_ids=block, use_cache=False).logits[0].float()
                chances = functional.softmax(logits.detach(), -1)
                drawn = torch.multinomial(chances, 1, generator=generator)
                upwards = chances.neg_().scatter_add_(1, drawn, torch.ones_like(chances[:, :1]))  # of log p by logits
                logits.backward(upwards)
    finally:
        for handle in handles:
            handle.remove()
        for name, weight in model.named_parameters():
            weight.requires_grad_(wanted[name])
    return {name: total / ids.numel() for name, total in squares.items()}


@contextlib.contextmanager
def recomputed(layers: nn.ModuleList) -> Iterator[None]:
    """Layers keep nothing but their inputs for the way back, and are computed again there."""
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def divergence(error: Tensor, sums: Tensor, tokens: int, diagonal: Tensor) -> float:
    """Nats a token that a weight's error D [outputs, inputs] costs; `sums` of x x^T [inputs, inputs] are of so many."""
    moved = ((error @ sums) * error).sum(1) / tokens  # mean square of each output's error
    return float((moved.double() * diagonal.double()).sum() / 2)
