"""Cuts a decoder smaller: layers, feed-forward neurons, groups of attention heads, the hidden width.

What is left is an ordinary decoder of its family, built anew from its configuration. All cuts are exact: a neuron, a
group or a layer whose contribution is nothing can go without a change. Where one lies in a layer is said by
tasks/generate/families.py; linears that hold several things in a row (gate and up, or queries, keys and values) are cut
in each of them.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from registry.records import ShrinkError
from tasks.generate import families, walk
from tasks.generate.families import Anatomy

HEAD_NORMS = ("q_norm", "k_norm")  # norms of a head, not of the width


class Heads(NamedTuple):
    """How attention is divided: heads of queries, heads of keys and values that groups of them share, a head's size."""

    queries: int
    groups: int
    size: int


def anatomy_of(model: Any, stage: str) -> Anatomy:
    """A model's anatomy; ShrinkError for a family that is not known."""
    kind = str(model.config.model_type)
    if reason := families.unknown(kind):
        raise ShrinkError(f"{stage}: {reason}")
    return families.ANATOMIES[kind]


def heads_of(model: Any) -> Heads:
    """How a model's attention is divided."""
    config = model.config
    queries = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // queries)
    return Heads(queries, int(getattr(config, "num_key_value_heads", None) or queries), size)


def neurons_of(model: Any, where: Anatomy) -> int:
    """Feed-forward neurons of every layer."""
    return int(walk.weight_of(walk.layers_of(model)[0].get_submodule(where.out)).shape[1])


def keep_layers(model: Any, kept: list[int]) -> Any:
    """The model with some of its layers, whose numbers rise."""
    layers = walk.layers_of(model)
    for number in reversed(range(len(layers))):
        if number not in kept:
            del layers[number]
    changes: dict[str, Any] = {"num_hidden_layers": len(kept)}
    if kinds := getattr(model.config, "layer_types", None):
        changes["layer_types"] = [kinds[number] for number in kept]
    return rebuilt(model, changes)


def keep_neurons(model: Any, where: Anatomy, kept: list[list[int]]) -> Any:
    """The model with some feed-forward neurons of each layer, as many in every one."""
    count = neurons_of(model, where)
    for layer, numbers in zip(walk.layers_of(model), kept, strict=True):
        for name in where.into:
            linear = layer.get_submodule(name)
            stacks = walk.weight_of(linear).shape[0] // count
            take(linear, rows=[at * count + number for at in range(stacks) for number in numbers])
        take(layer.get_submodule(where.out), columns=numbers)
    return rebuilt(model, {where.neurons: len(kept[0])})


def keep_groups(model: Any, where: Anatomy, kept: list[list[int]]) -> Any:
    """The model with some groups of heads of each layer, keys and values with the queries that read them."""
    heads = heads_of(model)
    for layer, numbers in zip(walk.layers_of(model), kept, strict=True):
        told = [spans(numbers, width) for width in widths(heads)]
        if len(where.attention) == 1:
            starts = [0, heads.queries * heads.size, (heads.queries + heads.groups) * heads.size]
            take(
                layer.get_submodule(where.attention[0]),
                rows=[start + row for start, rows in zip(starts, told, strict=True) for row in rows],
            )
        else:
            for name, rows in zip(where.attention, told, strict=True):
                take(layer.get_submodule(name), rows=rows)
        take(layer.get_submodule(where.merge), columns=told[0])
    count = len(kept[0])
    queries = heads.queries // heads.groups * count
    changes = {"num_attention_heads": queries, "num_key_value_heads": count, "head_dim": heads.size}
    return rebuilt(model, changes)


def widths(heads: Heads) -> tuple[int, int, int]:
    """Rows that one group has of queries, keys and values."""
    return heads.queries // heads.groups * heads.size, heads.size, heads.size


def spans(numbers: list[int], width: int) -> list[int]:
    """The rows of some groups of so many rows."""
    return [number * width + row for number in numbers for row in range(width)]


def keep_width(model: Any, where: Anatomy, kept: list[int]) -> Any:
    """The model with some features of its hidden width."""
    size, wide = heads_of(model).size, int(model.config.hidden_size)
    for layer in walk.layers_of(model):
        for name in (*where.into, *where.attention):
            take(layer.get_submodule(name), columns=kept)
        for name in (where.out, where.merge):
            take(layer.get_submodule(name), rows=kept)
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is table.weight
    table.weight = nn.Parameter(table.weight.detach()[:, kept].clone())
    head.weight = table.weight if tied else nn.Parameter(head.weight.detach()[:, kept].clone())
    for norm in norms(model, wide):
        for part, value in list(norm.named_parameters()):
            setattr(norm, part, nn.Parameter(value.detach()[kept].clone()))
    return rebuilt(model, {"hidden_size": len(kept), "head_dim": size})


def norms(model: nn.Module, width: int) -> list[nn.Module]:
    """The norms over the whole hidden width."""
    return [
        one
        for name, one in model.named_modules()
        if "norm" in type(one).__name__.lower()
        and name.rpartition(".")[2] not in HEAD_NORMS
        and getattr(one, "weight", torch.empty(0)).shape == (width,)
    ]


def pool_groups(model: Any, where: Anatomy, count: int) -> Any:
    """The model with fewer heads of keys and values, each the mean of neighbours; its queries are what they were."""
    heads = heads_of(model)
    for layer in walk.layers_of(model):
        if len(where.attention) == 1:
            starts = [heads.queries * heads.size, heads.groups * heads.size, heads.groups * heads.size]
            linear = layer.get_submodule(where.attention[0])
            queries, keys, values = walk.weight_of(linear).split(starts)
            parts = [queries, mean(keys, heads, count), mean(values, heads, count)]
            replace(linear, torch.cat(parts), None)
            continue
        for name in where.attention[1:]:
            linear = layer.get_submodule(name)
            own: Tensor | None = linear.bias  # type: ignore[assignment]
            bias = None if own is None else mean(own.detach()[:, None], heads, count)[:, 0]
            replace(linear, mean(walk.weight_of(linear), heads, count), bias)
    return rebuilt(model, {"num_key_value_heads": count})


def mean(rows: Tensor, heads: Heads, count: int) -> Tensor:
    """Rows [groups * size, n] of keys or values as the means of neighbouring groups [count * size, n]."""
    found: Tensor = rows.view(count, heads.groups // count, heads.size, -1).mean(1)
    return found.flatten(0, 1)


def keep_pieces(model: Any, kept: list[int], named: dict[str, Any]) -> Any:
    """The model with some pieces of its vocabulary, numbered from 0; `named` are the tokens its configuration names."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is table.weight
    replace(head, head.weight.detach()[kept], None if head.bias is None else head.bias.detach()[kept])
    table.weight = head.weight if tied else nn.Parameter(table.weight.detach()[kept].clone())
    return rebuilt(model, {"vocab_size": len(kept), **named})


def take(linear: nn.Module, rows: list[int] | None = None, columns: list[int] | None = None) -> None:
    """Leave some outputs (rows) or inputs (columns) of a linear, in place."""
    weight = walk.weight_of(linear)
    bias: Tensor | None = linear.bias  # type: ignore[assignment]
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias.detach()[rows]
    replace(linear, weight if columns is None else weight[:, columns], bias)


def replace(linear: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Give a linear other weights [outputs, inputs], of whatever size; its bias where there is one."""
    kept = weight if isinstance(linear, nn.Linear) else weight.T
    linear.weight = nn.Parameter(kept.detach().clone().contiguous())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())


def rebuilt(model: Any, changes: dict[str, Any]) -> Any:
    """A model of the changed configuration with the weights of one that was cut in place: the same, no second copy."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = copy.deepcopy(model.config)
    for name, value in changes.items():
        setattr(config, name, value)
    with no_init_weights():  # numbers that are not drawn take no memory
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    made.load_state_dict(model.state_dict(), assign=True)
    made.tie_weights()
    return made.eval()
