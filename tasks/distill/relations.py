"""Distillation of attention relations: which tokens the teacher relates to which, beside its cached answers.

MiniLMv2 (Wang et al. 2021, "MiniLMv2: Multi-head self-attention relation distillation for compressing pretrained
transformers", arXiv 2012.15828; after Wang et al. 2020, "MiniLM", arXiv 2002.10957): the queries, keys and values of
one teacher layer and of the student's last layer are each split anew into `relation_heads` parts, so that neither
widths nor heads need to agree; a relation is the softmax of the scaled products between tokens, and the student learns
the teacher's by their divergence.

Relations are too large to keep, so the teacher runs in every step.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from registry.records import ShrinkError
from tasks import architectures, teachers
from tasks.distill import alongside, answers
from tasks.distill.answers import AnswersConfig

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models import Classifier


class DistillRelationsConfig(AnswersConfig):
    """How long and by which losses the student learns, the teacher's attention relations among them."""

    method: Literal["relations"] = "relations"
    teacher: teachers.Maker = Field(default=teachers.MAIN, description="Which teacher runs along, by its name.")
    relations_weight: float = Field(
        default=1.0, gt=0, le=1000, description="Weight of the divergence of the relations."
    )
    relation_heads: int = Field(default=16, ge=1, description="Parts of queries, keys and values; divides both widths.")
    teacher_layer: int | None = Field(
        default=None, ge=0, description="Teacher's layer to learn from, counted from 0; none: its last."
    )

    @property
    def reads(self) -> dict[str, str]:
        """Student, the teacher that runs along, labels and data."""
        return {"student": "torch", self.teacher: "torch", "labels": "labels", "data": "rows"}


def run(inputs: dict[str, Path], config: DistillRelationsConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student; measured: as distill/logits, and respelled_rows, which the teacher cuts otherwise."""
    import torch

    from tasks import models

    lesson = answers.read(inputs, config)
    guide = alongside.load(inputs[config.teacher], lesson)
    student, teacher = lesson.model, guide.model
    check(config, student, teacher)
    top = student.depth - 1
    layer = teacher.depth - 1 if config.teacher_layer is None else config.teacher_layer

    def loss_of(rows: list[int]) -> "Tensor":
        ids, mask = answers.batch(lesson, rows)
        below = student.encode(student.embed(ids), mask, last=top)
        with torch.no_grad():  # what inference_mode makes cannot stand in a loss
            seen = teacher.encode(teacher.embed(guide.numbers[ids]), mask, last=layer)
            wanted = relations(teacher, layer, seen, mask, config.relation_heads)
        found = relations(student, top, below, mask, config.relation_heads)
        apart = sum(divergence(mine, theirs, mask) for mine, theirs in zip(found, wanted, strict=True))
        pooled = models.mean_pool(student.encode(below, mask, first=top), mask)
        return answers.loss(lesson, config, rows, pooled) + config.relations_weight * apart

    return answers.teach(lesson, config, loss_of, inputs, out, seed) | {"respelled_rows": guide.respelled}


def check(config: DistillRelationsConfig, student: "Classifier", teacher: "Classifier") -> None:
    """ShrinkError when the teacher lacks the layer, or relation_heads does not divide a width."""
    from tasks import anatomy

    if config.teacher_layer is not None and config.teacher_layer >= teacher.depth:
        raise ShrinkError(
            f"teacher_layer is {config.teacher_layer} but the teacher's last is {teacher.depth - 1}: lower it."
        )
    for name, model in (("student", student), ("teacher", teacher)):
        architectures.check_use(model.config.model_type, "relations", f"distill/relations: the {name}")
        width = anatomy.attention_size(model.layers[-1])
        if width % config.relation_heads:
            raise ShrinkError(
                f"relation_heads is {config.relation_heads}, which does not divide the {width} features of the "
                f"{name}'s attention: give a number that does."
            )


def relations(model: "Classifier", layer: int, hidden: "Tensor", mask: "Tensor", heads: int) -> "list[Tensor]":
    """Log relations [b, heads, t, t] among the queries, keys and values that a layer makes of its input [b, t, d]."""
    from tasks import anatomy

    made = anatomy.projected(anatomy.layer_at(model.encoder, layer), hidden)
    return [relation(vectors, mask, heads) for vectors in made]


def relation(vectors: "Tensor", mask: "Tensor", heads: int) -> "Tensor":
    """Log-softmax [b, heads, t, t] of the scaled products between tokens [b, t, d], padding (mask 0) left out."""
    from torch.nn import functional

    from tasks import parallel
    from tasks.encoders import HIDDEN_BIAS

    parts = vectors.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = parallel.full(parts @ parts.transpose(-1, -2)) / math.sqrt(parts.shape[-1])
    return functional.log_softmax(scores + (1 - mask.to(scores.dtype))[:, None, None, :] * HIDDEN_BIAS, dim=-1)


def divergence(student: "Tensor", teacher: "Tensor", mask: "Tensor") -> "Tensor":
    """Kullback-Leibler divergence of the student's log relations [b, heads, t, t] from the teacher's; a scalar.

    The mean over heads and real tokens of a text, then over texts.
    """
    apart = (teacher.exp() * (teacher - student)).sum(-1).mean(1)
    return ((apart * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
