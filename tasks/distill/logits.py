"""Distillation from cached answers: the student learns the teachers' logits and pooled vectors, and the true labels.

Several generations (born-again networks; Furlanello et al. 2018, arXiv 1805.04770) are an order of stages: `label` by
the student, then `distill` with `afresh`, which begins where the generation before began and differs in its teacher
alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.distill import answers
from tasks.distill.answers import AnswersConfig

if TYPE_CHECKING:
    from torch import Tensor


class DistillLogitsConfig(AnswersConfig):
    """How long and by which losses the student learns."""

    method: Literal["logits"] = "logits"
    afresh: bool = Field(
        default=False, description="Begin as the student was before it was first taught (a next generation)."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        answers.some(
            logits_weight=self.logits_weight, hidden_weight=self.hidden_weight, labels_weight=self.labels_weight
        )
        return self

    @property
    def reads(self) -> dict[str, str]:
        """The student as it is now, or as it was at the start."""
        return {"start" if self.afresh else "student": "torch", "labels": "labels", "data": "rows"}


def run(inputs: dict[str, Path], config: DistillLogitsConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student; measured: losses of the epochs, validation accuracy before and after, parameters."""
    lesson = answers.read({**inputs, "student": inputs["start" if config.afresh else "student"]}, config)

    def loss_of(rows: list[int]) -> "Tensor":
        return answers.loss(lesson, config, rows, lesson.model.features(*answers.batch(lesson, rows)))

    return answers.teach(lesson, config, loss_of, inputs, out, seed)
