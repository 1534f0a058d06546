"""Cuts whole layers, feed-forward neurons, attention heads and the hidden width: a smaller ordinary encoder.

What stays is what matters most by one of the four measures of tasks/prune/importance.py, taken on the whole model
before any layer goes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError
from tasks import architectures

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier
    from tasks.prune.importance import Importance

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
    hidden: int | None = Field(
        default=None, ge=1, description="Features kept of the hidden width, a multiple of a head's size; none: all."
    )
    importance: Literal["fisher", "taylor", "activation", "magnitude"] = Field(
        default="fisher",
        description="What decides which neurons, heads and features stay: squared gradients, gradients times "
        "activations, activations, or the sizes of weights.",
    )
    positions: bool = Field(default=True, description="Drop position embeddings beyond the data's max_length.")


def run(inputs: dict[str, Path], config: PruneStructuredConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the cut student; measured: parameters before and after."""
    import numpy as np

    from tasks import data, models, train
    from tasks.prune import importance

    model, tokenizer, head = models.load(inputs["student"])
    before = models.count_parameters(model)
    check(model, config)
    kept = list(range(model.depth)) if config.layers is None else list(config.layers)
    scores = None
    if any(one is not None for one in (config.ffn, config.heads, config.hidden)):
        rows = data.read_rows(inputs["data"], "train")
        sample = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))[:SAMPLE]]
        sequences = train.tokenize(tokenizer, [row["text"] for row in sample])
        labels, wide = [row["label"] for row in sample], config.hidden is not None
        scores = importance.measure(model, sequences, labels, config.importance, heads_of(model), wide)
    models.keep_layers(model, kept)
    if scores is not None:
        cut_parts(model, scores, kept, config)
    if config.positions:
        models.slice_positions(model, head.max_length)
    models.save(out, model, tokenizer, head)
    return {"parameters_before": before, "parameters": models.count_parameters(model)}


def check(model: "Classifier", config: PruneStructuredConfig) -> None:
    """ShrinkError when the model lacks what the config asks for, or cannot be cut there."""
    from tasks import anatomy
    from tasks.prune import width

    kind, described = str(model.config.model_type), model.config
    for part in ("ffn", "heads"):
        if getattr(config, part) is not None:
            architectures.check_use(kind, part, "prune/structured")
    _check(config.ffn, "ffn", neurons_of(model))
    _check(config.heads, "heads", heads_of(model))
    if config.hidden is not None:
        factorised = bool(getattr(described, "embedding_rank", None))
        size, present = anatomy.head_size(model.encoder), int(described.hidden_size)
        width.check("prune/structured", kind, config.hidden, present, size, factorised)


def heads_of(model: "Classifier") -> int:
    """Attention heads that every layer has now."""
    return int(getattr(model.config, "kept_heads", None) or model.config.num_attention_heads)


def neurons_of(model: "Classifier") -> int:
    """Feed-forward neurons that every layer has now."""
    return int(architectures.value(model.config.to_dict(), "intermediate_size"))


def cut_parts(model: "Classifier", scores: "Importance", kept: list[int], config: PruneStructuredConfig) -> None:
    """Keep the most important neurons and heads of the layers that are left, and of the width what all of them need.

    `kept` are the layers' numbers in the whole model, of which the scores are.
    """
    from tasks import anatomy, models
    from tasks.prune import width

    size = anatomy.head_size(model.encoder)
    for layer, number in zip(model.layers, [0] if anatomy.shared(model.encoder) else kept, strict=True):
        if config.ffn is not None:
            models.slice_ffn(layer, top(scores.ffn[number], config.ffn))
        if config.heads is not None:
            models.slice_heads(layer, top(scores.heads[number], config.heads), size)
    if config.ffn is not None:
        setattr(model.config, architectures.named(model.config.to_dict(), "intermediate_size"), config.ffn)
    if config.heads is not None:
        model.config.kept_heads = config.heads
    if config.hidden is not None:
        whole = sum((scores.hidden[number + 1] for number in kept), scores.hidden[0])
        width.cut(model, top(whole, config.hidden), heads_of(model))


def top(scores: "Tensor", count: int) -> list[int]:
    """Rising indices of the largest scores; of equal ones the first."""
    import torch

    order: list[int] = torch.sort(scores, descending=True, stable=True).indices[:count].tolist()
    return sorted(order)


def _check(wanted: int | None, field: str, present: int) -> None:
    if wanted is not None and wanted > present:
        raise ShrinkError(f"{field} is {wanted} but the student has only {present}: give at most that.")
