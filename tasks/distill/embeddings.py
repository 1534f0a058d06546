"""Distillation of embeddings without labels: the student's vectors learn to lie as the teacher's do.

Two losses on vectors of length 1, both against answers that were computed once: the cosine to the teacher's vector of
the same text, and the relations among the texts of a step. A relation is the softmax of a text's similarities to the
others at a low temperature, so that near neighbours count most; the student learns the teacher's by their divergence
(Fang et al. 2021, "SEED: Self-supervised distillation for visual representation", arXiv 2101.04731, with the step's own
texts as the queue; after Park et al. 2019, "Relational knowledge distillation", arXiv 1904.05068). Relations alone also
work where the widths of student and teacher differ.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task
from tasks.distill import answers

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from tasks.models import Classifier

HELD = "validation"  # texts that are looked at before and after, never learnt from


class DistillEmbeddingsConfig(BaseModel):
    """How long and by which losses an embedding student learns."""

    model_config = STRICT
    kind: Literal["distill"] = "distill"
    method: Literal["embeddings"] = "embeddings"
    tasks: ClassVar[tuple[Task, ...]] = ("embed",)
    reads: ClassVar[dict[str, str]] = {"student": "torch", "labels": "labels", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    epochs: int = Field(default=2, ge=1, description="Passes over the train (and transfer) texts.")
    lr: float = Field(default=3e-4, gt=0, description="Highest learning rate.")
    batch_size: int = Field(default=32, ge=2, description="Texts in a step, whose relations are compared.")
    cosine_weight: float = Field(default=1.0, ge=0, description="Weight of the distance to the teacher's vectors.")
    relations_weight: float = Field(default=0.0, ge=0, description="Weight of the divergence of the relations.")
    temperature: float = Field(default=0.05, gt=0, description="Of the relations; the lower, the nearer texts count.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Of the student's layers while it learns.")
    transfer: bool = Field(default=True, description="Learn from the teacher's vectors of transfer texts too.")
    seed: int | None = Field(default=None, ge=0, description="Seed of this stage; none: the run's seed.")


def run(inputs: dict[str, Path], config: DistillEmbeddingsConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student; measured: losses of the epochs, closeness to the teacher before and after."""
    import torch

    from tasks import data, losses, models, train

    model, tokenizer, head = models.load(inputs["student"])
    rows = {name: data.read_rows(inputs["data"], name) for name in ("train", "transfer", HELD)}
    if not config.transfer:
        rows["transfer"] = []
    learnt = [row["text"] for name in ("train", "transfer") for row in rows[name]]
    stored = inputs["labels"] / "hidden.safetensors"
    wanted = answers.stored(stored, {name: len(rows[name]) for name in ("train", "transfer")})
    held = answers.stored(stored, {HELD: len(rows[HELD])})
    check(config, model, wanted)
    sequences = train.tokenize(tokenizer, learnt)

    def loss_of(chosen: list[int]) -> "Tensor":
        ids, mask = train.pad([sequences[row] for row in chosen], train.pad_of(model))
        found, taught = model(ids, mask), torch.nn.functional.normalize(wanted[chosen], dim=-1)
        apart = losses.neighbour_loss(found, taught, config.temperature)
        if not config.cosine_weight:
            return config.relations_weight * apart
        return config.cosine_weight * losses.pooled_cosine_loss(found, taught) + config.relations_weight * apart

    before = closeness(model, tokenizer, [row["text"] for row in rows[HELD]], held)
    set_dropout(model, config.dropout)
    chosen_seed = seed if config.seed is None else config.seed
    schedule = train.Schedule(epochs=config.epochs, lr=config.lr, batch_size=config.batch_size, seed=chosen_seed)
    curve = train.fit(model, [len(sequence) for sequence in sequences], loss_of, schedule)
    models.save(out, model, tokenizer, head)
    after = closeness(model, tokenizer, [row["text"] for row in rows[HELD]], held)
    scores = {f"{HELD}_overlap_before": before, f"{HELD}_overlap": after}
    return {"loss": curve, **scores, "parameters": models.count_parameters(model)}


def check(config: DistillEmbeddingsConfig, model: "Classifier", wanted: "Tensor") -> None:
    """ShrinkError when there is nothing to learn, or a cosine is asked for between vectors of two widths."""
    if not config.cosine_weight and not config.relations_weight:
        raise ShrinkError("cosine_weight and relations_weight are both 0: set one of them above 0.")
    if config.cosine_weight and wanted.shape[1] != model.head.in_features:
        raise ShrinkError(
            f"cosine_weight needs equal widths, but the student's is {model.head.in_features} and the teacher's "
            f"{wanted.shape[1]}: set it to 0 and learn from relations."
        )


def set_dropout(model: "Classifier", share: float) -> None:
    """Give every dropout of a model this share; it is no part of what is saved."""
    from torch import nn

    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = share


def closeness(model: "Classifier", tokenizer: "Tokenizer", texts: list[str], wanted: "Tensor") -> float:
    """The mean overlap of the ten nearest neighbours among texts by the model's vectors and by the wanted ones."""
    from torch.nn import functional

    from tasks import train
    from tasks.embed import measures

    _, pooled = train.predict(model, train.tokenize(tokenizer, texts))
    found, taught = (functional.normalize(one, dim=-1) for one in (pooled, wanted))
    return float(measures.overlap((taught @ taught.T).numpy(), (found @ found.T).numpy()).mean())
