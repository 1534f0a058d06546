"""DistilBERT's triple loss: the teacher's soft answers, a hard objective, and the direction of all hidden states.

Sanh et al. 2019, "DistilBERT, a distilled version of BERT", arXiv 1910.01108; the weights 5, 2 and 1 are those of its
published training command. There all three are taken while pre-training, where answers are word pieces; here the
student is taught a task, so that the soft answers are the cached logits over the labels, and the hard objective is the
cross-entropy with the true labels. `masked_weight` adds the hard objective of pre-training, masked language modelling
(tasks/distill/masked.py), on all texts; the teacher's answers to it are unknown, since a tuned encoder has lost that
head. The cosine is taken between the last hidden states of all real tokens, for which the teacher runs in every step;
both must be equally wide.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from registry.records import ShrinkError
from tasks import teachers
from tasks.distill import alongside, answers
from tasks.distill.answers import AnswersConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenizers import Tokenizer
    from torch import Tensor, nn

MASK_NAMES = ("[MASK]", "<mask>")  # BERT's and RoBERTa's


class DistillTripleConfig(AnswersConfig):
    """How long the student learns, and how much each of the losses counts."""

    method: Literal["triple"] = "triple"
    logits_weight: float = Field(
        default=5.0, ge=0, le=1000, description="Weight of the divergence from the teacher's logits."
    )
    labels_weight: float = Field(
        default=2.0, ge=0, le=1000, description="Weight of the cross-entropy with the true labels."
    )
    hidden_weight: float = Field(
        default=0.0, ge=0, le=1000, description="Weight of the pooled vectors' cosine distance."
    )
    cosine_weight: float = Field(
        default=1.0, ge=0, le=1000, description="Weight of the cosine distance of the hidden states."
    )
    masked_weight: float = Field(
        default=0.0, ge=0, le=1000, description="Weight of guessing hidden pieces of all texts."
    )
    teacher: teachers.Maker = Field(default=teachers.MAIN, description="Which teacher runs along, by its name.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        answers.some(
            logits_weight=self.logits_weight, labels_weight=self.labels_weight, cosine_weight=self.cosine_weight
        )
        return self

    @property
    def reads(self) -> dict[str, str]:
        """Student, the teacher that runs along, labels and data."""
        return {"student": "torch", self.teacher: "torch", "labels": "labels", "data": "rows"}


def run(inputs: dict[str, Path], config: DistillTripleConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student; measured: as distill/relations."""
    import torch

    from tasks import models
    from tasks.distill import states

    lesson = answers.read(inputs, config)
    guide = alongside.load(inputs[config.teacher], lesson)
    student, teacher = lesson.model, guide.model
    check_widths(student.head.in_features, teacher.head.in_features)
    guesser = guesser_of(lesson, seed) if config.masked_weight else None

    def loss_of(rows: list[int]) -> "Tensor":
        ids, mask = answers.batch(lesson, rows)
        found = student.encode(student.embed(ids), mask)
        with torch.no_grad():  # what inference_mode makes cannot stand in a loss
            wanted = teacher.encode(teacher.embed(guide.numbers[ids]), mask)
        total = answers.loss(lesson, config, rows, models.mean_pool(found, mask))
        total = total + config.cosine_weight * states.cosine_distance(found, wanted, mask)
        return total + config.masked_weight * guesser.loss(ids, mask) if guesser else total

    along = (guesser.head,) if guesser else ()
    measured = answers.teach(lesson, config, loss_of, inputs, out, seed, along=along)
    return measured | {"respelled_rows": guide.respelled}


class Guesser(NamedTuple):
    """What guesses hidden pieces from a student's hidden states, and its loss of some ids and mask [b, t]."""

    head: "nn.Module"
    loss: "Callable[[Tensor, Tensor], Tensor]"


def guesser_of(lesson: answers.Lesson, seed: int) -> Guesser:
    """The masked objective of a student, with a head that is thrown away after the training."""
    from tasks import parallel
    from tasks.distill import masked

    student, tokenizer = lesson.model, lesson.tokenizer
    mask_id, special = mask_piece(tokenizer), masked.special_pieces(tokenizer)
    head = masked.GuessHead(student.head.in_features, student.table, seed)

    def loss(ids: "Tensor", mask: "Tensor") -> "Tensor":
        read, hidden = masked.hide(ids, mask, special, mask_id, student.table.num_embeddings)
        found = student.encode(student.embed(read), mask)[hidden]
        apart = masked.guess_loss(parallel.full(head(found, student.table.weight)), ids[hidden])
        return parallel.balanced(apart, len(found), len(ids))

    return Guesser(head, loss)


def check_widths(student: int, teacher: int) -> None:
    """ShrinkError when hidden states cannot stand side by side."""
    if student != teacher:
        raise ShrinkError(
            f"the cosine needs hidden states of one width, but the student has {student} and the teacher {teacher}: "
            "use distill/hidden, which learns a projection."
        )


def mask_piece(tokenizer: "Tokenizer") -> int:
    """The number of the piece that hides another; ShrinkError when the tokenizer has none."""
    found = next((number for name in MASK_NAMES if (number := tokenizer.token_to_id(name)) is not None), None)
    if found is None:
        raise ShrinkError(f"masked_weight needs a tokenizer with a piece {' or '.join(MASK_NAMES)}: set it to 0.")
    return found
