"""Cuts whole layers, feed-forward neurons and attention heads: the result is a smaller ordinary BERT.

A neuron's or head's importance is the sum over examples of the squared gradient of the loss with respect to a mask
of ones on it, the diagonal Fisher information (Michel, Levy and Neubig 2019; Kwon et al. 2022, "A fast post-training
pruning framework for transformers"), taken on the whole model before any layer goes. An embedding model has no loss to
labels: there it is the squared gradient of a random projection of its embedding, in expectation the squared change of
the embedding (after Hutchinson 1990).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError
from tasks import architectures

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier

SAMPLE = 384  # train rows on which importance is measured


class PruneStructuredConfig(BaseModel):
    """What is left of the student."""

    model_config = STRICT
    kind: Literal["prune"] = "prune"
    method: Literal["structured"] = "structured"
    reads: ClassVar[dict[str, str]] = {"student": "torch", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    layers: tuple[int, ...] | None = Field(default=None, description="Layers kept, from 0 at the bottom; none: all.")
    ffn: int | None = Field(default=None, ge=1, description="Feed-forward neurons kept in each layer; none: all.")
    heads: int | None = Field(default=None, ge=1, description="Attention heads kept in each layer; none: all.")
    positions: bool = Field(default=True, description="Drop position embeddings beyond the data's max_length.")


def run(inputs: dict[str, Path], config: PruneStructuredConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the cut student; measured: parameters before and after."""
    import numpy as np

    from tasks import anatomy, data, models, train

    model, tokenizer, head = models.load(inputs["student"])
    before = models.count_parameters(model)
    present = heads_of(model)
    for part in ("ffn", "heads"):
        if getattr(config, part) is not None:
            architectures.check_use(model.config.model_type, part, "prune/structured")
    _check(config.ffn, "ffn", neurons_of(model))
    _check(config.heads, "heads", present)
    kept = list(range(model.depth)) if config.layers is None else list(config.layers)
    scores = None
    if config.ffn is not None or config.heads is not None:
        rows = data.read_rows(inputs["data"], "train")
        sample = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))[:SAMPLE]]
        sequences = train.tokenize(tokenizer, [row["text"] for row in sample])
        scores = importance(model, sequences, [row["label"] for row in sample])
    models.keep_layers(model, kept)
    if scores is not None:
        one = [0] if anatomy.shared(model.encoder) else kept
        cut_parts(model, [scores[0][index] for index in one], [scores[1][index] for index in one], config)
    if config.positions:
        models.slice_positions(model, head.max_length)
    models.save(out, model, tokenizer, head)
    return {"parameters_before": before, "parameters": models.count_parameters(model)}


def heads_of(model: "Classifier") -> int:
    """Attention heads that every layer has now."""
    return int(getattr(model.config, "kept_heads", None) or model.config.num_attention_heads)


def neurons_of(model: "Classifier") -> int:
    """Feed-forward neurons that every layer has now."""
    return int(architectures.value(model.config.to_dict(), "intermediate_size"))


def cut_parts(model: "Classifier", ffn: "list[Tensor]", heads: "list[Tensor]", config: PruneStructuredConfig) -> None:
    """Keep the most important neurons and heads of every layer, in their old order."""
    from tasks import anatomy, models

    size = anatomy.head_size(model.encoder)
    for layer, ffn_score, head_score in zip(model.layers, ffn, heads, strict=True):
        if config.ffn is not None:
            models.slice_ffn(layer, top(ffn_score, config.ffn))
        if config.heads is not None:
            models.slice_heads(layer, top(head_score, config.heads), size)
    if config.ffn is not None:
        setattr(model.config, architectures.named(model.config.to_dict(), "intermediate_size"), config.ffn)
    if config.heads is not None:
        model.config.kept_heads = config.heads


def top(scores: "Tensor", count: int) -> list[int]:
    """Rising indices of the largest scores; of equal ones the first."""
    import torch

    order: list[int] = torch.sort(scores, descending=True, stable=True).indices[:count].tolist()
    return sorted(order)


def importance(
    model: "Classifier", sequences: list[list[int]], labels: list[int], size: int = 16
) -> "tuple[list[Tensor], list[Tensor]]":
    """Per layer the importance of its neurons [f] and of its heads [h]; the model is left as it was."""
    import torch
    from torch.nn import functional

    from tasks import progress, train

    model.eval().requires_grad_(False)
    heads, width = heads_of(model), neurons_of(model)
    ffn_scores = [torch.zeros(width) for _ in model.layers]
    head_scores = [torch.zeros(heads) for _ in model.layers]
    targets, generator = torch.as_tensor(labels), torch.Generator().manual_seed(0)
    batches = train.sorted_batches([len(sequence) for sequence in sequences], size)
    for number, rows in enumerate(batches):
        ffn_masks = [torch.ones(len(rows), 1, width, requires_grad=True) for _ in model.layers]
        head_masks = [torch.ones(len(rows), 1, heads, 1, requires_grad=True) for _ in model.layers]
        handles = _attach(model, ffn_masks, head_masks)
        answer = model(*train.pad([sequences[row] for row in rows], train.pad_of(model)))
        if model.head.out_features:
            loss = functional.cross_entropy(answer, targets[rows], reduction="sum")
        else:
            loss = (answer * torch.randn(answer.shape, generator=generator)).sum()
        gradients = torch.autograd.grad(loss, [*ffn_masks, *head_masks])
        for handle in handles:
            handle.remove()
        for place, gradient in enumerate(gradients):
            target = (ffn_scores + head_scores)[place]
            target += gradient.reshape(len(rows), -1).square().sum(0)
        progress.report(number + 1, len(batches), "importance")
    model.requires_grad_(True)
    return ffn_scores, head_scores


def _attach(model: "Classifier", ffn_masks: "list[Tensor]", head_masks: "list[Tensor]") -> list[Any]:
    """Hooks that multiply every layer's neurons and head outputs by its masks (one value per example)."""

    from tasks import anatomy

    def scale_neurons(mask: "Tensor") -> Any:
        return lambda module, args: (args[0] * mask, *args[1:])

    def scale_heads(mask: "Tensor") -> Any:
        def hook(module: Any, args: tuple[Any, ...]) -> Any:
            context = args[0]
            return ((context.unflatten(-1, (mask.shape[2], -1)) * mask).flatten(2), *args[1:])

        return hook

    handles = []
    for layer, ffn_mask, head_mask in zip(model.layers, ffn_masks, head_masks, strict=True):
        parts = anatomy.parts(layer)
        handles.append(parts.ffn_out.register_forward_pre_hook(scale_neurons(ffn_mask)))
        handles.append(parts.attention_output.register_forward_pre_hook(scale_heads(head_mask)))
    return handles


def _check(wanted: int | None, field: str, present: int) -> None:
    if wanted is not None and wanted > present:
        raise ShrinkError(f"{field} is {wanted} but the student has only {present}: give at most that.")
