"""Distillation from cached answers: the student learns the teacher's logits and pooled vectors, and the true labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tasks.models import Classifier


class DistillLogitsConfig(BaseModel):
    """How long and by which losses the student learns."""

    model_config = STRICT
    kind: Literal["distill"] = "distill"
    method: Literal["logits"] = "logits"
    reads: ClassVar[dict[str, str]] = {"student": "torch", "labels": "labels", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    epochs: int = Field(default=2, ge=1, description="Passes over the train (and transfer) texts.")
    lr: float = Field(default=2e-4, gt=0, description="Highest learning rate.")
    batch_size: int = Field(default=32, ge=1, description="Texts in a step.")
    temperature: float = Field(default=2.0, gt=0, description="Softens teacher and student alike.")
    logits_weight: float = Field(default=1.0, ge=0, description="Weight of the divergence from the teacher's logits.")
    hidden_weight: float = Field(default=1.0, ge=0, description="Weight of the pooled vectors' cosine distance.")
    labels_weight: float = Field(default=0.3, ge=0, description="Weight of the cross-entropy with the true labels.")
    transfer: bool = Field(default=True, description="Learn from the teacher's answers on transfer texts too.")
    seed: int | None = Field(default=None, ge=0, description="Seed of this stage; none: the run's seed.")


def run(inputs: dict[str, Path], config: DistillLogitsConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student; measured: losses of the epochs, validation accuracy before and after, parameters."""
    from tasks import data, models, train

    model, tokenizer, head = models.load(inputs["student"])
    rows = data.read_rows(inputs["data"], "train")
    extra = data.read_rows(inputs["data"], "transfer") if config.transfer else []
    sequences = train.tokenize(tokenizer, [row["text"] for row in (*rows, *extra)])
    held = data.read_rows(inputs["data"], "validation")
    held_ids, held_labels = train.tokenize(tokenizer, [row["text"] for row in held]), [row["label"] for row in held]
    before = train.accuracy(train.predict(model, held_ids)[0], held_labels)
    counts = {"train": len(rows), "transfer": len(extra)}
    logits, hidden = (_answers(inputs["labels"] / f"{name}.safetensors", counts) for name in ("logits", "hidden"))
    if config.hidden_weight and hidden.shape[1] != model.head.in_features:
        raise ShrinkError(f"hidden_weight needs equal widths, but the teacher's is {hidden.shape[1]}: set it to 0.")
    labels = [row["label"] for row in rows] + [-1] * len(extra)
    schedule = train.Schedule(
        epochs=config.epochs,
        lr=config.lr,
        batch_size=config.batch_size,
        seed=seed if config.seed is None else config.seed,
    )
    loss_of = _loss(model, sequences, (logits, hidden), labels, config)
    curve = train.fit(model, [len(sequence) for sequence in sequences], loss_of, schedule)
    models.save(out, model, tokenizer, head)
    after = train.accuracy(train.predict(model, held_ids)[0], held_labels)
    scores = {"validation_accuracy_before": before, "validation_accuracy": after}
    return {"loss": curve, **scores, "parameters": models.count_parameters(model)}


def _answers(path: Path, counts: dict[str, int]) -> "Tensor":
    """The teacher's answers on train, then on transfer, checked against the rows of the data."""
    import torch
    from safetensors.torch import load_file

    stored = load_file(path)
    for name, count in counts.items():
        have = len(stored[name]) if name in stored else 0
        if count and have != count:
            raise ShrinkError(f"labels hold {have} {name} rows but the data {count}: label this data (transfer: true).")
    return torch.cat([stored[name] for name, count in counts.items() if count]).float()


def _loss(
    model: "Classifier",
    sequences: list[list[int]],
    answers: "tuple[Tensor, Tensor]",
    labels: list[int],
    config: DistillLogitsConfig,
) -> "Callable[[list[int]], Tensor]":
    import torch

    from tasks import losses, train

    teacher_logits, teacher_hidden = answers
    targets = torch.as_tensor(labels)

    def loss_of(rows: list[int]) -> "Tensor":
        pooled = model.features(*train.pad([sequences[row] for row in rows], train.pad_of(model)))
        logits = model.classify(pooled)
        loss = config.logits_weight * losses.kd_loss(logits, teacher_logits[rows], config.temperature)
        if config.hidden_weight:
            loss = loss + config.hidden_weight * losses.pooled_cosine_loss(pooled, teacher_hidden[rows])
        if config.labels_weight:
            loss = loss + config.labels_weight * losses.label_loss(logits, targets[rows])
        return loss

    return loss_of
