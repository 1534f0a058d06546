"""Factors of a linear layer's inputs, moved into what makes these inputs: a norm, or the product before, exactly.

Which module that is, is seen while the layer runs: whose output is the very tensor that the linear layer reads. Between
two products stands a gate (Llama's feed-forward) or a ReLU (OPT's), or only averages (attention whose value heads are
not shared); through other functions no factor passes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks.generate import walk
from tasks.generate.walk import Give

BEFORE = (  # (product, the one that reads what it gives, a module without which factors would not pass)
    ("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj"),
    ("self_attn.v_proj", "self_attn.o_proj", None),
    ("self_attn.v_proj", "self_attn.out_proj", None),
    ("fc1", "fc2", "activation_fn"),
)


def sources(layer: nn.Module, give: Give) -> dict[str, nn.Module]:
    """By name of a layer's linears the module that may take a factor of each of their inputs; some have none."""
    made: list[tuple[Tensor, nn.Module]] = []  # held, so that no tensor takes another's place
    found: dict[str, nn.Module] = {}
    linears = walk.linears_of(layer)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made.append((output, module))

    def before(name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            width = args[0].shape[-1]
            for tensor, maker in made:
                weight = getattr(maker, "weight", None)
                if tensor is args[0] and isinstance(weight, Tensor) and weight.shape == (width,):
                    found[name] = maker

        return look

    norms = [one for one in layer.modules() if one not in linears.values()]
    handles = [one.register_forward_hook(after) for one in norms]
    handles += [one.register_forward_pre_hook(before(name)) for name, one in linears.items()]
    give()
    for handle in handles:
        handle.remove()
    parts = dict(layer.named_modules())
    for first, second, needed in BEFORE:
        if first in linears and second in linears and second not in found and passes(parts, first, second, needed):
            found[second] = linears[first]
    return found


def passes(parts: dict[str, nn.Module], first: str, second: str, needed: str | None) -> bool:
    """Whether a factor of what one product gives arrives as it is at the other."""
    widths = walk.weight_of(parts[first]).shape[0], walk.weight_of(parts[second]).shape[1]
    return (
        widths[0] == widths[1]
        and (needed is None or needed in parts)
        and (needed != "activation_fn" or isinstance(parts["activation_fn"], nn.ReLU))
    )


def move(layer: nn.Module, give: Give, factor_of: Callable[[list[str]], Tensor | None]) -> dict[str, Tensor]:
    """Move factors of all inputs, in place; those that were moved by linear, none where the layer changed.

    `factor_of` says by the names of linears that read the same what their inputs [inputs] are divided by, None: as is.
    """
    linears, before = walk.linears_of(layer), give()
    kept = {name: value.clone() for name, value in layer.state_dict().items()}
    makers, factors = sources(layer, give), dict[str, Tensor]()
    for maker in dict.fromkeys(makers.values()):
        names = [name for name, one in makers.items() if one is maker]
        factor = factor_of(names)
        if factor is not None:
            divide(maker, factor)
            for name in names:
                multiply(linears[name], factor)
                factors[name] = factor
    if float((give() - before).norm() / before.norm().clamp(min=1e-30)) > 1e-3:
        layer.load_state_dict(kept)
        return {}
    return factors


def divide(source: nn.Module, factor: Tensor) -> None:
    """Make what a norm or a product gives smaller by a factor [outputs] of each output."""
    with torch.no_grad():
        weight: Tensor = source.weight  # type: ignore[assignment]
        if weight.ndim > 1:
            walk.put(source, walk.weight_of(source) / factor[:, None])
        elif centred(source):
            weight.copy_((1 + weight) / factor - 1)
        else:
            weight.copy_(weight / factor)
        if isinstance(bias := getattr(source, "bias", None), Tensor):
            bias.copy_(bias / factor)


def multiply(linear: nn.Module, factor: Tensor) -> None:
    """Make a linear layer's weight larger by a factor [inputs] of each input."""
    walk.put(linear, walk.weight_of(linear) * factor)


def centred(norm: nn.Module) -> bool:
    """Whether a norm multiplies by 1 + its weight, as Gemma's do: seen by what it makes of a vector."""
    weight: Tensor = norm.weight  # type: ignore[assignment]
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
        gives = bool(norm(torch.linspace(1.0, 2.0, len(kept))[None]).sub(norm_bias(norm)).abs().max() > 0)
        weight.copy_(kept)
    return gives


def norm_bias(norm: nn.Module) -> Tensor:
    """What a norm adds, 0 where it adds nothing."""
    bias = getattr(norm, "bias", None)
    return bias.detach() if isinstance(bias, Tensor) else torch.zeros(1)
