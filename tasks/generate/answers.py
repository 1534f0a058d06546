"""What a student learns from a teacher's cached answers: its likeliest pieces at every token, and the rest's mass.

The loss is the divergence between the teacher's and the student's distributions over k + 1 outcomes, the k likeliest
pieces of the teacher and everything else in one (Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural
network", arXiv 1503.02531, on the part of the logits that is kept). It is 0 where both agree on these, and never more
than the divergence over all pieces (data processing inequality). The configuration is readable without torch.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, Field, model_validator

from registry.records import STRICT, ShrinkError
from tasks.generate.lesson import LessonConfig

if TYPE_CHECKING:
    from torch import Tensor

FILE, FACTS = "top_k.safetensors", "top_k.json"


class Facts(BaseModel):
    """top_k.json: which windows were answered, and how many pieces are kept of each answer."""

    model_config = STRICT
    length: int
    windows: int
    seed: int
    k: int
    sha256: str  # of the windows' token ids


class AnsweredConfig(LessonConfig):
    """How long a student learns from cached answers, and how much from the text itself."""

    reads: ClassVar[dict[str, str]] = {"student": "lm", "labels": "top_k", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "lm")
    kind: Literal["distill"] = Field("distill", description="The stage's kind.")
    answers_weight: float = Field(
        default=1.0, ge=0, le=1000, description="Weight of the divergence from the teacher's answers."
    )
    text_weight: float = Field(
        default=0.0, ge=0, le=1000, description="Weight of the text's own next tokens (cross-entropy)."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.answers_weight or self.text_weight):
            raise ValueError(
                "answers_weight and text_weight are both 0, so nothing is learnt: give one of them a weight above 0"
            )
        return self


class Answers(NamedTuple):
    """Windows of text [n, t], the teacher's likeliest pieces behind every token and the logs of their chances [n, t, k]
    in half precision, and the log of the mass of all other pieces [n, t].
    """

    ids: "Tensor"
    pieces: "Tensor"
    chances: "Tensor"
    rest: "Tensor"


def top(logits: "Tensor", k: int) -> "tuple[Tensor, Tensor, Tensor]":
    """Of logits [..., pieces] the k likeliest pieces (int32), the logs of their chances, and of the rest's mass."""
    import torch

    known = torch.log_softmax(logits.float(), -1)
    chances, pieces = known.topk(k, -1)
    return pieces.to(torch.int32), chances.half(), others(chances).half()


def others(chances: "Tensor") -> "Tensor":
    """The log of 1 minus the sum of chances whose logs are given [..., k]; at least that of 1e-6."""
    import torch

    return torch.log1p(-chances.exp().sum(-1).clamp(max=1 - 1e-6))


def divergence(logits: "Tensor", pieces: "Tensor", chances: "Tensor", rest: "Tensor") -> "Tensor":
    """Mean over all tokens of KL(teacher || student) over the kept pieces and the rest, in nats."""
    import torch

    mine = torch.log_softmax(logits.float(), -1).gather(-1, pieces.long())
    theirs, beyond = chances.float(), rest.float()
    found = (theirs.exp() * (theirs - mine)).sum(-1) + beyond.exp() * (beyond - others(mine))
    return found.mean()


def loss(logits: "Tensor", some: Answers, config: AnsweredConfig) -> "Tensor":
    """The weighted losses of a student's logits [b, t, pieces] on some windows."""
    from tasks.generate import lesson

    total = 0 * logits.sum() if not config.answers_weight else config.answers_weight * divergence(logits, *some[1:])
    return total + config.text_weight * lesson.text_loss(logits, some.ids) if config.text_weight else total


def rows(found: Answers, numbers: list[int]) -> Answers:
    """Some windows with their answers."""
    return Answers(*(one[numbers] for one in found))


def read(labels: Path, data: Path, tokenizer: Any) -> Answers:
    """Cached answers with the windows that they are about; ShrinkError where a tokenizer or text has changed since."""
    from safetensors.torch import load_file

    from tasks.generate import lesson

    facts = Facts.model_validate(json.loads((labels / FACTS).read_text(encoding="utf-8")))
    ids = lesson.windows(tokenizer, lesson.texts(data, "train"), facts.length, facts.windows, facts.seed)
    if lesson.digest(ids) != facts.sha256:
        raise ShrinkError(
            "the labels are of other tokens than the student reads: put label behind the stage that changed its "
            "vocabulary, with `model: student`, or label this data."
        )
    return Answers(ids, **load_file(labels / FILE))
