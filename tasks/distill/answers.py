"""What learns from the teacher's cached answers: reading them, the losses against them, the training.

The methods of `distill` do, and those of `prune` that set weights to zero while the student learns.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenizers import Tokenizer
    from torch import Tensor, nn

    from tasks.models import Classifier, Head
    from tasks.pairs import Text
    from tasks.train import Companion


class LessonConfig(BaseModel):
    """How long and by which losses the student learns from answers, whatever else is done to it meanwhile."""

    model_config = STRICT
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    tasks: ClassVar[tuple[Task, ...]] = ("classify",)
    epochs: int = Field(default=2, ge=1, description="Passes over the train (and transfer) texts.")
    lr: float = Field(default=2e-4, gt=0, description="Highest learning rate.")
    batch_size: int = Field(default=32, ge=1, description="Texts in a step.")
    temperature: float = Field(default=2.0, ge=0.001, le=1000, description="Softens teacher and student alike.")
    logits_weight: float = Field(
        default=1.0, ge=0, le=1000, description="Weight of the divergence from the teacher's logits."
    )
    hidden_weight: float = Field(
        default=1.0, ge=0, le=1000, description="Weight of the pooled vectors' cosine distance."
    )
    labels_weight: float = Field(
        default=0.3, ge=0, le=1000, description="Weight of the cross-entropy with the true labels."
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: rare labels count as much as frequent ones, in the labels' part."
    )
    transfer: bool = Field(default=True, description="Learn from the teacher's answers on transfer texts too.")
    seed: int | None = Field(default=None, ge=0, description="Seed of this stage; none: the run's seed.")


class AnswersConfig(LessonConfig):
    """What every method of `distill` has; each adds its name and its own fields."""

    kind: Literal["distill"] = "distill"


class Lesson(NamedTuple):
    """A student and, row by row, what it learns: its token ids, the teachers' answers, the label (-1: unknown).

    logits are [n, C]; of several teachers [n, K, C], and shares [n, K] says how much each is believed. hidden [n, d]
    are the pooled vectors of one of them. They are empty where a method reads no answers.
    """

    model: "Classifier"
    tokenizer: "Tokenizer"
    head: "Head"
    texts: "list[Text]"
    sequences: list[list[int]]
    logits: "Tensor"
    hidden: "Tensor"
    labels: "Tensor"
    weights: "Tensor | None" = None  # of the classes, in the labels' part
    shares: "Tensor | None" = None


def some(**weights: float) -> None:
    """ValueError when all weights of a config are 0: there is nothing to learn from."""
    if not any(weights.values()):
        raise ValueError(f"{' and '.join(weights)} are all 0, so nothing is learnt: give one of them a weight above 0")


def read(inputs: dict[str, Path], config: LessonConfig) -> Lesson:
    """The student of inputs["student"] with the train (and transfer) rows; raises ShrinkError where sizes differ."""
    import torch

    from tasks import data, losses, models, train

    model, tokenizer, head = models.load(inputs["student"])
    rows = data.read_rows(inputs["data"], "train")
    extra = data.read_rows(inputs["data"], "transfer") if config.transfer else []
    texts = [row["text"] for row in (*rows, *extra)]
    unknown = [-1] * len(head.labels) if head.multi_label else -1
    labels = torch.as_tensor([row["label"] for row in rows] + [unknown] * len(extra))
    weights = losses.class_weights(labels, len(head.labels)) if config.class_weights == "balanced" else None
    sequences = train.tokenize(tokenizer, texts)
    if "labels" not in inputs:
        return Lesson(model, tokenizer, head, texts, sequences, torch.empty(0), torch.empty(0), labels, weights)
    counts = {"train": len(rows), "transfer": len(extra)}
    logits, hidden = (stored(inputs["labels"] / f"{name}.safetensors", counts) for name in ("logits", "hidden"))
    if config.hidden_weight and hidden.shape[1] != model.head.in_features:
        raise ShrinkError(f"hidden_weight needs equal widths, but the teacher's is {hidden.shape[1]}: set it to 0.")
    shares = stored(inputs["labels"] / "shares.safetensors", counts) if logits.ndim == 3 else None
    return Lesson(model, tokenizer, head, texts, sequences, logits, hidden, labels, weights, shares)


def stored(path: Path, counts: dict[str, int]) -> "Tensor":
    """The teacher's answers on train, then on transfer, checked against the rows of the data."""
    import torch
    from safetensors.torch import load_file

    found = load_file(path)
    for name, count in counts.items():
        have = len(found[name]) if name in found else 0
        if count and have != count:
            raise ShrinkError(f"labels hold {have} {name} rows but the data {count}: label this data (transfer: true).")
    whole = torch.cat([found[name] for name, count in counts.items() if count])
    return whole.float().to(torch.get_default_device())


def batch(lesson: Lesson, rows: list[int]) -> "tuple[Tensor, Tensor]":
    """The student's ids and attention mask of some rows."""
    from tasks import train

    return train.pad([lesson.sequences[row] for row in rows], train.pad_of(lesson.model))


def loss(lesson: Lesson, config: LessonConfig, rows: list[int], pooled: "Tensor") -> "Tensor":
    """The weighted losses against logits, pooled vectors and labels, of the student's pooled vectors of some rows."""
    from tasks import losses, parallel

    logits = parallel.full(lesson.model.classify(pooled))
    if lesson.shares is not None:
        apart = losses.mixture_kd_loss(logits, lesson.logits[rows], lesson.shares[rows], config.temperature)
    elif lesson.head.multi_label:
        apart = losses.binary_kd_loss(logits, lesson.logits[rows], config.temperature)
    else:
        apart = losses.kd_loss(logits, lesson.logits[rows], config.temperature)
    total = config.logits_weight * apart
    if config.hidden_weight:
        total = total + config.hidden_weight * losses.pooled_cosine_loss(pooled, lesson.hidden[rows])
    if config.labels_weight:
        total = total + config.labels_weight * losses.label_loss(logits, lesson.labels[rows], lesson.weights)
    return total


def teach(
    lesson: Lesson,
    config: LessonConfig,
    loss_of: "Callable[[list[int]], Tensor]",
    inputs: dict[str, Path],
    out: Path,
    seed: int,
    companion: "Companion | None" = None,
    along: "Sequence[nn.Module]" = (),
) -> dict[str, Any]:
    """Train and write the student; measured: losses of the epochs, validation accuracy before and after, parameters.

    `along` are modules that are trained with it, kept in its checkpoints and then thrown away.
    """
    from tasks import models

    before = score(lesson, inputs["data"])
    curve = fit(lesson, config, loss_of, seed, companion, along)
    models.save(out, lesson.model, lesson.tokenizer, lesson.head)
    scores = {"validation_accuracy_before": before, "validation_accuracy": score(lesson, inputs["data"])}
    return {"loss": curve, **scores, "parameters": models.count_parameters(lesson.model)}


def fit(
    lesson: Lesson,
    config: LessonConfig,
    loss_of: "Callable[[list[int]], Tensor]",
    seed: int,
    companion: "Companion | None" = None,
    along: "Sequence[nn.Module]" = (),
) -> list[float]:
    """Train a student, and what is trained along with it; the losses of the epochs."""
    from torch import nn

    from tasks import train

    schedule = train.Schedule(
        epochs=config.epochs,
        lr=config.lr,
        batch_size=config.batch_size,
        seed=seed if config.seed is None else config.seed,
    )
    trained = nn.ModuleList([lesson.model, *along]) if along else lesson.model
    lengths = [len(sequence) for sequence in lesson.sequences]
    return train.fit(trained, lengths, loss_of, schedule, companion or train.ALONE)


def score(lesson: Lesson, rows: Path) -> float:
    """The student's accuracy on the validation rows."""
    from tasks import data, train

    held = data.read_rows(rows, "validation")
    ids = train.tokenize(lesson.tokenizer, [row["text"] for row in held])
    return train.accuracy(train.predict(lesson.model, ids)[0], [row["label"] for row in held])
