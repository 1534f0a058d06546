"""Makes the teacher: an encoder with mean pooling and a new head, its top layers tuned on the labelled rows.

The embeddings and the bottom layers stay as they are; what they compute is cached once, without dropout, so that
an epoch costs only the tuned layers.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task
from tasks import architectures
from tasks.teachers import MAIN, Maker

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tasks.models import Classifier


class FinetuneConfig(BaseModel):
    """How the teacher is tuned."""

    model_config = STRICT
    kind: Literal["finetune"] = "finetune"
    tasks: ClassVar[tuple[Task, ...]] = ("classify",)
    teacher: Maker = Field(
        default=MAIN, description="Name of the teacher that is made; another one may join in `label` by its name."
    )
    keep_layers: int | None = Field(default=None, ge=1, description="Keep only the bottom layers.")
    tuned_layers: int = Field(default=3, ge=1, description="Layers tuned, counted from the top; the rest is frozen.")
    epochs: int = Field(default=2, ge=1, description="Passes over the train rows.")
    lr: float = Field(default=1.5e-4, gt=0, description="Highest learning rate.")
    batch_size: int = Field(default=32, ge=1, description="Rows in a step.")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: rare labels count as much as frequent ones."
    )

    @property
    def reads(self) -> dict[str, str]:
        """The teacher as its source or an earlier stage leaves it, and data."""
        return {self.teacher: "torch|source", "data": "rows"}

    @property
    def writes(self) -> tuple[str, str]:
        """The teacher by its name."""
        return (self.teacher, "torch")


def run(inputs: dict[str, Path], config: FinetuneConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the tuned teacher; measured: losses of the epochs, validation accuracy, parameters."""
    from tasks import anatomy, data, encoders, models, train

    facts = data.read_facts(inputs["data"])
    model, folder = _new_classifier(inputs[config.teacher], config, len(facts["labels"]), seed)
    limit = encoders.positions(model.encoder)
    if facts["max_length"] > limit:
        raise ShrinkError(f"max_length is {facts['max_length']} but the teacher reads {limit} tokens: lower it.")
    kinds = {name: bool(facts.get(name)) for name in ("multi_label", "pairs")}
    head = models.Head(labels=tuple(facts["labels"]), max_length=facts["max_length"], **kinds)
    tokenizer = models.load_tokenizer(folder, head.max_length)
    if head.pairs:
        model.separator = models.separator_of(model.encoder, tokenizer)
    rows = data.read_rows(inputs["data"], "train")
    sequences = train.tokenize(tokenizer, [row["text"] for row in rows])
    frozen = max(0, model.depth - config.tuned_layers)
    if frozen and anatomy.shared(model.encoder):
        raise ShrinkError(f"tuned_layers is {config.tuned_layers} but {architectures.SHARED}: set it to {model.depth}.")
    cache = bottom_activations(model, sequences, frozen)
    freeze_bottom(model, frozen)
    schedule = train.Schedule(epochs=config.epochs, lr=config.lr, batch_size=config.batch_size, seed=seed)
    loss_of = _loss(model, cache, [row["label"] for row in rows], frozen, config.class_weights == "balanced")
    curve = train.fit(model, [len(item) for item in cache], loss_of, schedule)
    models.save(out, model, tokenizer, head)
    held = data.read_rows(inputs["data"], "validation")
    logits, _ = train.predict(model, train.tokenize(tokenizer, [row["text"] for row in held]))
    score = train.accuracy(logits, [row["label"] for row in held])
    return {"loss": curve, "validation_accuracy": score, "parameters": models.count_parameters(model)}


def bottom_activations(model: "Classifier", sequences: list[list[int]], frozen: int) -> "list[Tensor]":
    """For every text the output [t, d] of the first `frozen` layers, as float16, without dropout."""
    import torch

    from tasks import progress, train

    model.eval()
    cache = [torch.empty(0)] * len(sequences)
    batches = train.sorted_batches([len(sequence) for sequence in sequences], 64)
    with torch.no_grad():
        for number, rows in enumerate(batches):
            ids, mask = train.pad([sequences[row] for row in rows], train.pad_of(model))
            hidden = model.encode(model.embed(ids), mask, last=frozen).half()
            for place, row in enumerate(rows):
                cache[row] = hidden[place, : len(sequences[row])].clone()
            progress.report(number + 1, len(batches), "frozen layers")
    return cache


def freeze_bottom(model: "Classifier", frozen: int) -> None:
    """No gradients for the embeddings and the first `frozen` layers."""
    from tasks import anatomy

    for part in (*anatomy.embeddings(model.encoder), *list(model.layers)[:frozen]):
        part.requires_grad_(False)


def _new_classifier(directory: Path, config: FinetuneConfig, labels: int, seed: int) -> "tuple[Classifier, Path]":
    import torch

    from tasks import layout, models

    folder = layout.find_model(directory)
    torch.manual_seed(seed)
    model = models.Classifier(models.load_encoder(folder), labels)
    torch.nn.init.normal_(model.head.weight, std=0.02)
    torch.nn.init.zeros_(model.head.bias)
    if config.keep_layers is not None:
        models.keep_layers(model, list(range(config.keep_layers)))
    return model, folder


def _loss(
    model: "Classifier", cache: "list[Tensor]", labels: list[int], frozen: int, balanced: bool = False
) -> "Callable[[list[int]], Tensor]":
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from tasks import losses, models, parallel

    targets = torch.as_tensor(labels)
    weights = losses.class_weights(targets, model.head.out_features) if balanced else None

    def loss_of(rows: list[int]) -> "Tensor":
        hidden = pad_sequence([cache[row] for row in rows], batch_first=True).float()
        mask = pad_sequence([torch.ones(len(cache[row])) for row in rows], batch_first=True)
        pooled = models.mean_pool(model.encode(hidden, mask, first=frozen), mask)
        return losses.label_loss(parallel.full(model.classify(pooled)), targets[rows], weights)

    return loss_of
