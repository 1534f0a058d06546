"""How much an encoder needs each feed-forward neuron, attention head and feature of its hidden width: four measures.

A unit is scaled by a mask of ones, one value per example; g is the gradient of an example's loss with respect to it. An
embedding model has no loss to labels: there it is that of a random projection of its embedding, whose square is in
expectation the squared change of the embedding (after Hutchinson 1990).

- fisher: the sum over examples of g squared, the diagonal Fisher information (Michel, Levy and Neubig 2019; Kwon et al.
  2022, "A fast post-training pruning framework for transformers", arXiv 2204.09656).
- taylor: the sum of |g|. g is the sum over tokens of activation times gradient, so that it is how much the loss would
  change without the unit, to first order (Molchanov et al. 2019, "Importance estimation for neural network pruning",
  arXiv 1906.10771).
- activation: the mean over real tokens of a neuron's or feature's absolute value and of the norm of a head's output
  (Muralidharan et al. 2024, "Compact language models via pruning and knowledge distillation", arXiv 2407.14679).
- magnitude: the norm of all weights that make or read the unit; it looks at no text.

The width runs through the whole encoder: its features are measured at each place, that is in the embedding and in
every layer's output.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from tasks import anatomy, losses, progress, train
from tasks.models import Classifier

Kind = Literal["fisher", "taylor", "activation", "magnitude"]


class Importance(NamedTuple):
    """A tensor a layer for neurons [f] and heads [h], one a place for the width [d]: the embedding, then the layers.

    Of the width there are none where they were not asked for.
    """

    ffn: list[Tensor]
    heads: list[Tensor]
    hidden: list[Tensor]


def measure(
    model: Classifier,
    sequences: list[list[int]],
    labels: list[int] | list[list[int]],
    kind: Kind,
    heads: int,
    hidden: bool = False,
    size: int = 16,
) -> Importance:
    """Importance by one of the four measures, of layers with `heads` heads; the model is left as it was."""
    if kind == "magnitude":
        return by_magnitude(model, heads, hidden)
    model.eval().requires_grad_(False)
    targets, generator = torch.as_tensor(labels), torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    batches = train.sorted_batches([len(sequence) for sequence in sequences], size)
    for number, rows in enumerate(batches):
        ids, mask = train.pad([sequences[row] for row in rows], train.pad_of(model))
        if kind == "activation":
            seen = activations(model, ids, mask, heads, hidden)
        else:
            slopes = gradients(model, ids, mask, targets[rows], heads, hidden, generator)
            seen = [(slope.square() if kind == "fisher" else slope.abs()).sum(0) for slope in slopes]
        found = [a + b for a, b in zip(found, seen, strict=True)] if found else seen
        progress.report(number + 1, len(batches), "importance")
    model.requires_grad_(True)
    if kind == "activation":
        found = [one / sum(map(len, sequences)) for one in found]
    count = len(model.layers)
    return Importance(found[:count], found[count : 2 * count], found[2 * count :])


def gradients(
    model: Classifier, ids: Tensor, mask: Tensor, labels: Tensor, heads: int, hidden: bool, generator: torch.Generator
) -> list[Tensor]:
    """The gradient of each example's loss by unit [b, units]: neurons of every layer, then heads, then places."""
    rows, layers = len(ids), list(model.layers)

    def ones(*shape: int) -> Tensor:
        return torch.ones(rows, 1, *shape, requires_grad=True)

    ffn = [ones(anatomy.parts(layer).ffn_out.in_features) for layer in layers]
    head = [ones(heads, 1) for _ in layers]
    places = [ones(int(model.config.hidden_size)) for _ in (0, *layers)] if hidden else []
    handles = attach(model, ffn, head, places)
    answer = model(ids, mask)
    if model.head.out_features:
        loss = losses.label_loss(answer, labels, reduction="sum")
    else:
        loss = (answer * torch.randn(answer.shape, generator=generator)).sum()
    found = torch.autograd.grad(loss, [*ffn, *head, *places])
    for handle in handles:
        handle.remove()
    return [one.reshape(rows, -1) for one in found]


def streams(model: Classifier) -> list[nn.Module]:
    """The modules whose outputs have the hidden width: the last of the embedding, then every layer."""
    return [anatomy.embeddings(model.encoder)[-1], *model.layers]


def attach(
    model: Classifier, ffn_masks: list[Tensor], head_masks: list[Tensor], hidden_masks: Sequence[Tensor] = ()
) -> list[Any]:
    """Hooks that multiply every layer's neurons, head outputs and places by its masks (one value per example)."""

    def scale_neurons(mask: Tensor) -> Any:
        return lambda module, args: (args[0] * mask, *args[1:])

    def scale_heads(mask: Tensor) -> Any:
        return lambda module, args: ((args[0].unflatten(-1, (mask.shape[2], -1)) * mask).flatten(2), *args[1:])

    def scale_place(mask: Tensor) -> Any:
        return lambda module, args, output: output * mask

    handles = []
    for layer, ffn_mask, head_mask in zip(model.layers, ffn_masks, head_masks, strict=True):
        parts = anatomy.parts(layer)
        handles.append(parts.ffn_out.register_forward_pre_hook(scale_neurons(ffn_mask)))
        handles.append(parts.attention_output.register_forward_pre_hook(scale_heads(head_mask)))
    for module, mask in zip(streams(model), hidden_masks, strict=False):
        handles.append(module.register_forward_hook(scale_place(mask)))
    return handles


@torch.no_grad()
def activations(model: Classifier, ids: Tensor, mask: Tensor, heads: int, hidden: bool) -> list[Tensor]:
    """The sum over real tokens of how large each unit is: neurons of every layer, then heads, then places."""
    real = mask.bool()
    parts, places = [anatomy.parts(layer) for layer in model.layers], streams(model) if hidden else []
    sums: list[Any] = [0.0] * (2 * len(parts) + len(places))

    def add(at: int, size: Callable[[Tensor], Tensor]) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None = None) -> None:
            sums[at] = sums[at] + size(args[0] if output is None else output)  # layers that share weights run again

        return hook

    def sizes(one: Tensor) -> Tensor:
        return one[real].abs().sum(0)

    def norms(one: Tensor) -> Tensor:
        lengths: Tensor = one[real].unflatten(-1, (heads, -1)).norm(dim=-1)
        return lengths.sum(0)

    handles = []
    for at, part in enumerate(parts):
        handles.append(part.ffn_out.register_forward_pre_hook(add(at, sizes)))
        handles.append(part.attention_output.register_forward_pre_hook(add(len(parts) + at, norms)))
    for at, module in enumerate(places, start=2 * len(parts)):
        handles.append(module.register_forward_hook(add(at, sizes)))
    model(ids, mask)
    for handle in handles:
        handle.remove()
    return sums


@torch.no_grad()
def by_magnitude(model: Classifier, heads: int, hidden: bool) -> Importance:
    """The norm of the weights that make or read each unit; a place's own are those of the embedding, or of a layer."""
    ffn, head, places = [], [], []
    for layer in model.layers:
        parts, gate = anatomy.parts(layer), anatomy.gate(layer)
        made = [parts.ffn_in.weight, *([] if gate is None else [gate.weight])]
        ffn.append(norm(*made, parts.ffn_out.weight.T))
        attention = (*(part.weight for part in parts[:3]), parts.attention_output.weight.T)
        head.append(norm(*(one.unflatten(0, (heads, -1)).flatten(1) for one in attention)))
        reading = (*(part.weight.T for part in parts[:3]), *(one.T for one in made))
        places.append((*reading, parts.attention_output.weight, parts.ffn_out.weight))
    tables = tuple(one.weight.T for one in model.encoder.embeddings.modules() if isinstance(one, nn.Embedding))
    return Importance(ffn, head, [norm(*place) for place in (tables, *places)] if hidden else [])


def norm(*matrices: Tensor) -> Tensor:
    """The Euclidean norm of each unit's weights [units], a row a unit."""
    squares: Tensor = torch.stack([one.square().sum(1) for one in matrices]).sum(0)
    return squares.sqrt()
