"""Distillation of embeddings without labels: the student's vectors learn to lie as the teacher's do.

Three losses. The cosine to the teacher's vector of the same text, computed once. The cosine between student and teacher
at every token, in the last layer and, evenly mapped, in those below: far more to learn from a text than one vector; the
teacher runs along for it (after Jiao et al. 2020, "TinyBERT", arXiv 1909.10351, and DistilBERT's alignment of
directions; Sanh et al. 2019, arXiv 1910.01108). And the relations among the texts of a step: the softmax of a text's
similarities to the others at a low temperature, so that near neighbours count most; the student learns the teacher's by
their divergence (Fang et al. 2021, "SEED: Self-supervised distillation for visual representation", arXiv 2101.04731,
with the step's own texts as the queue; after Park et al. 2019, "Relational knowledge distillation", arXiv 1904.05068).
Relations alone also work where the widths of student and teacher differ.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task
from tasks.distill import alongside, answers
from tasks.distill.answers import Lesson
from tasks.teachers import MAIN

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier

HELD = "validation"  # texts that are looked at before and after, never learnt from


class DistillEmbeddingsConfig(BaseModel):
    """How long and by which losses an embedding student learns."""

    model_config = STRICT
    kind: Literal["distill"] = "distill"
    method: Literal["embeddings"] = "embeddings"
    tasks: ClassVar[tuple[Task, ...]] = ("embed",)
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    epochs: int = Field(default=2, ge=1, description="Passes over the train (and transfer) texts.")
    lr: float = Field(default=3e-4, gt=0, description="Highest learning rate.")
    batch_size: int = Field(default=32, ge=2, description="Texts in a step, whose relations are compared.")
    cosine_weight: float = Field(
        default=1.0, ge=0, le=1000, description="Weight of the distance to the teacher's vectors."
    )
    tokens_weight: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight of the distance to the teacher at every token and layer; it runs along.",
    )
    relations_weight: float = Field(
        default=0.0, ge=0, le=1000, description="Weight of the divergence of the relations."
    )
    temperature: float = Field(
        default=0.05, ge=0.001, le=1000, description="Of the relations; the lower, the nearer texts count."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Of the student's layers while it learns.")
    transfer: bool = Field(default=True, description="Learn from the teacher's vectors of transfer texts too.")
    seed: int | None = Field(default=None, ge=0, description="Seed of this stage; none: the run's seed.")

    @property
    def reads(self) -> dict[str, str]:
        """Student, labels and data; the teacher where it runs along."""
        beside = {MAIN: "torch"} if self.tokens_weight else {}
        return {"student": "torch", **beside, "labels": "labels", "data": "rows"}


def run(inputs: dict[str, Path], config: DistillEmbeddingsConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student; measured: losses of the epochs, closeness to the teacher before and after.

    Where the teacher runs along also the rows that it would cut into other pieces.
    """
    from tasks import data, models, train

    rows = {name: data.read_rows(inputs["data"], name) for name in ("train", "transfer", HELD)}
    if not config.transfer:
        rows["transfer"] = []
    lesson = read(inputs, rows)
    held = answers.stored(inputs["labels"] / "hidden.safetensors", {HELD: len(rows[HELD])})
    check(config, lesson.model.head.in_features, lesson.hidden.shape[1])
    guide = alongside.load(inputs[MAIN], lesson) if config.tokens_weight else None
    held_texts = [row["text"] for row in rows[HELD]]
    before = closeness(lesson, held_texts, held)
    set_dropout(lesson.model, config.dropout)
    chosen_seed = seed if config.seed is None else config.seed
    schedule = train.Schedule(epochs=config.epochs, lr=config.lr, batch_size=config.batch_size, seed=chosen_seed)
    lengths = [len(sequence) for sequence in lesson.sequences]
    curve = train.fit(lesson.model, lengths, lambda chosen: loss(lesson, config, guide, chosen), schedule)
    models.save(out, lesson.model, lesson.tokenizer, lesson.head)
    scores = {f"{HELD}_overlap_before": before, f"{HELD}_overlap": closeness(lesson, held_texts, held)}
    measured = {"loss": curve, **scores, "parameters": models.count_parameters(lesson.model)}
    return measured if guide is None else measured | {"respelled_rows": guide.respelled}


def read(inputs: dict[str, Path], rows: dict[str, list[Any]]) -> Lesson:
    """The student with the train and transfer texts and, as `hidden` [n, d], the teacher's vectors of length 1."""
    import torch

    from tasks import models, train

    model, tokenizer, head = models.load(inputs["student"])
    counts = {name: len(rows[name]) for name in ("train", "transfer")}
    wanted = answers.stored(inputs["labels"] / "hidden.safetensors", counts)
    texts = [row["text"] for name in counts for row in rows[name]]
    none = torch.empty(0)
    hidden = torch.nn.functional.normalize(wanted, dim=-1)
    return Lesson(model, tokenizer, head, texts, train.tokenize(tokenizer, texts), none, hidden, none)


def loss(lesson: Lesson, config: DistillEmbeddingsConfig, guide: alongside.Guide | None, rows: list[int]) -> "Tensor":
    """The weighted losses of some rows; a scalar."""
    import torch

    from tasks import losses, models
    from tasks.distill import states

    ids, mask = answers.batch(lesson, rows)
    found = states.states(lesson.model, ids, mask)
    vectors, taught = torch.nn.functional.normalize(models.mean_pool(found[-1], mask), dim=-1), lesson.hidden[rows]
    total = torch.zeros(())
    if config.cosine_weight:
        total = total + config.cosine_weight * losses.pooled_cosine_loss(vectors, taught)
    if config.relations_weight:
        total = total + config.relations_weight * losses.neighbour_loss(vectors, taught, config.temperature)
    if guide is not None:
        with torch.no_grad():  # what inference_mode makes cannot stand in a loss
            wanted = states.states(guide.model, guide.numbers[ids], mask)
        total = total + config.tokens_weight * tokens_apart(found, wanted, mask)
    return total


def tokens_apart(student: "list[Tensor]", teacher: "list[Tensor]", mask: "Tensor") -> "Tensor":
    """Mean over a student's layers of the cosine distance of its tokens' states to those of the teacher's layers.

    Both are what `states` gives, the embeddings first: these do not count. Layers are mapped as distill/hidden does.
    """
    from tasks.distill import hidden, states

    places = hidden.pairs(None, len(student) - 1, len(teacher) - 1)
    distances = [
        states.cosine_distance(student[mine + 1], teacher[theirs + 1], mask) for mine, theirs in places.items()
    ]
    return sum(distances[1:], distances[0]) / len(distances)


def check(config: DistillEmbeddingsConfig, student: int, teacher: int) -> None:
    """ShrinkError when there is nothing to learn, or a cosine is asked for between vectors of two widths."""
    weights = {"cosine_weight": config.cosine_weight, "tokens_weight": config.tokens_weight}
    if not any(weights.values()) and not config.relations_weight:
        raise ShrinkError(f"{', '.join(weights)} and relations_weight are all 0: set one of them above 0.")
    for name, weight in weights.items():
        if weight and student != teacher:
            raise ShrinkError(
                f"{name} is {weight} but the student is {student} wide and the teacher {teacher}: set it to 0 and "
                "learn from relations (relations_weight)."
            )


def set_dropout(model: "Classifier", share: float) -> None:
    """Give every dropout of a model this share; it is no part of what is saved."""
    from torch import nn

    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = share


def closeness(lesson: Lesson, texts: list[str], wanted: "Tensor") -> float:
    """The mean overlap of the ten nearest neighbours among texts by the model's vectors and by the wanted ones."""
    from torch.nn import functional

    from tasks import train
    from tasks.embed import measures

    _, pooled = train.predict(lesson.model, train.tokenize(lesson.tokenizer, texts))
    found, taught = (functional.normalize(one, dim=-1) for one in (pooled, wanted))
    return float(measures.overlap((taught @ taught.T).cpu().numpy(), (found @ found.T).cpu().numpy()).mean())
