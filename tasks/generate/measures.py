"""How well a language model predicts text, and how near it is to its teacher: pure functions of logits.

Perplexity is told per byte of text, exp(nats / bytes), and what is better when it is lower is kept as
teacher / student: `retention` is the one place where that is said.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Read(NamedTuple):
    """What a model made of one document's predicted tokens, summed over them."""

    nats: float  # negative log-likelihood
    kl: float  # divergence of the teacher's distribution from the student's; 0 without a teacher
    same: int  # tokens whose likeliest successor is the teacher's
    tokens: int


def read(logits: Tensor, ids: Tensor, teacher: Tensor | None = None) -> Read:
    """Of logits [b, t, pieces] over ids [b, t] (-1 is no token): sums over every token but the first of a window."""
    wanted = ids[:, 1:]
    real = wanted >= 0
    said = functional.log_softmax(logits[:, :-1][real].float(), -1)
    nats = -said.gather(1, wanted[real][:, None]).double().sum()
    if teacher is None:
        return Read(float(nats), 0.0, int(real.sum()), int(real.sum()))
    theirs = functional.log_softmax(teacher[:, :-1][real].float(), -1)
    kl = (theirs.exp() * (theirs - said)).sum(-1).double().sum()
    same = (theirs.argmax(-1) == said.argmax(-1)).sum()
    return Read(float(nats), float(kl), int(same), int(real.sum()))


def perplexity(nats: Tensor, sizes: Tensor) -> float:
    """Per byte, over documents: the exponential of all nats [n] over all bytes [n]."""
    return float(torch.exp(nats.sum() / sizes.sum()))


def retention(teacher: float, student: float, lower_is_better: bool) -> float:
    """What a student keeps of its teacher's score: 1 is all of it, whichever way better points."""
    return teacher / student if lower_is_better else student / teacher
