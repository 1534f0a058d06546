"""Distillation from cached answers: the student learns the teacher's logits and pooled vectors, and the true labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.distill import answers
from tasks.distill.answers import AnswersConfig

if TYPE_CHECKING:
    from torch import Tensor


class DistillLogitsConfig(AnswersConfig):
    """How long and by which losses the student learns."""

    method: Literal["logits"] = "logits"
    reads: ClassVar[dict[str, str]] = {"student": "torch", "labels": "labels", "data": "rows"}


def run(inputs: dict[str, Path], config: DistillLogitsConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student; measured: losses of the epochs, validation accuracy before and after, parameters."""
    lesson = answers.read(inputs, config)

    def loss_of(rows: list[int]) -> "Tensor":
        return answers.loss(lesson, config, rows, lesson.model.features(*answers.batch(lesson, rows)))

    return answers.teach(lesson, config, loss_of, inputs, out, seed)
