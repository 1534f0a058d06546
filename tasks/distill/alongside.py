"""A teacher that runs along in every step, for what is too large to keep: relations and hidden states of all tokens.

It reads the student's own word pieces by its own numbers: a student whose vocabulary was pruned spells rare words in
smaller pieces, and tokens must stand side by side.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from registry.records import ShrinkError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from tasks.distill.answers import Lesson
    from tasks.models import Classifier


class Guide(NamedTuple):
    """A teacher, its number of each of the student's pieces [pieces], and how many rows it would cut otherwise."""

    model: "Classifier"
    numbers: "Tensor"
    respelled: int


def load(directory: Path, lesson: "Lesson") -> Guide:
    """The teacher of a folder beside a student; ShrinkError when it lacks a piece that the student has."""
    from tasks import models, train

    model, tokenizer, _ = models.load(directory)
    model.requires_grad_(False)
    numbers = teacher_numbers(lesson.tokenizer, tokenizer)
    own = train.tokenize(tokenizer, lesson.texts)
    respelled = sum(numbers[mine].tolist() != theirs for mine, theirs in zip(lesson.sequences, own, strict=True))
    return Guide(model, numbers, respelled)


def teacher_numbers(student: "Tokenizer", teacher: "Tokenizer") -> "Tensor":
    """The teacher's number of each of the student's word pieces [pieces]; ShrinkError when the teacher lacks one."""
    import torch

    own, known = student.get_vocab(), teacher.get_vocab()
    lacking = sorted(own.keys() - known.keys())
    if lacking:
        raise ShrinkError(f"the teacher's tokenizer lacks the student's piece {lacking[0]!r}: use distill/logits.")
    numbers = torch.zeros(max(own.values()) + 1, dtype=torch.long)
    for piece, number in own.items():
        numbers[number] = known[piece]
    return numbers
