"""How well a language model predicts text, how near it is to its teacher, and what of a measure a student keeps.

Every measure is a ratio of sums over documents (or prompts, or questions), so that one bootstrap over them gives all
intervals, paired. Perplexity is the exponential of such a ratio and better when it is lower: `retention` and `gain`
are the one place where that is said.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from registry.records import PERPLEXITIES, Interval, Measure, MeasureName
from tasks import metrics

Floats = NDArray[np.float64]
LARGEST = 700.0  # nats a token whose exponential is still a number


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
    return float(score("byte_perplexity", np.asarray(nats.sum()), np.asarray(sizes.sum())))


def score(name: MeasureName, above: Floats, below: Floats) -> Floats:
    """A measure [...] from its sums [...]: their ratio; of a perplexity exp(nats / tokens), or of bytes for tokens."""
    ratio = np.asarray(above, dtype=np.float64) / below
    return np.asarray(np.exp(np.minimum(ratio, LARGEST)) if name in PERPLEXITIES else ratio, dtype=np.float64)


def retention(name: MeasureName, teacher: Floats, student: Floats) -> Floats:
    """What a student keeps of its teacher's score: 1 is all of it, whichever way better points."""
    return metrics.ratio(teacher, student) if name in PERPLEXITIES else metrics.ratio(student, teacher)


def gain(name: MeasureName, one: Floats, other: Floats) -> Floats:
    """By how much the one score is better than the other, in the measure's own unit: above 0 it is."""
    return other - one if name in PERPLEXITIES else one - other


def compared(name: MeasureName, above: Mapping[str, Floats], below: Floats, drawn: Floats) -> Measure:
    """A measure from each role's sums [n] over the n documents, `below` what they are divided by.

    `drawn` [count, n] is how often a resample has each document. A ratio of sums is resampled whole (Efron and
    Tibshirani 1993, section 6): long documents weigh more, as they do in the score itself.
    """
    weights = np.concatenate([np.ones((1, len(below))), drawn])
    bottom = weights @ below
    t, s, f = (score(name, weights @ above[role], bottom) for role in ("teacher", "student", "floor"))
    lift = metrics.ratio(gain(name, s, f), gain(name, t, f))
    series = {"retention": retention(name, t, s), "lift_retained": lift, "win_over_floor": gain(name, s, f)}
    paired = {key: metrics.interval(one[0], one[1:]) for key, one in series.items()}
    return Measure(teacher=float(t[0]), student=float(s[0]), floor=float(f[0]), **paired)


def answered(name: MeasureName, right: Mapping[str, Floats], drawn: Floats) -> Measure:
    """A measure of questions from what each role has right [n] (0 or 1).

    Its intervals also cover a kind of question that was not among so few (tasks/metrics.widened).
    """
    found = compared(name, right, np.ones(len(right["teacher"])), drawn)
    t, s, f = (right[role] > 0 for role in ("teacher", "student", "floor"))
    hidden = metrics.unseen(len(t))
    kept = metrics.widened(found.retention, t, s, hidden / found.teacher if found.teacher > 0 else 0.0)
    won = metrics.widened(found.win_over_floor, f, s, hidden)
    return found.model_copy(update={"retention": kept, "win_over_floor": won})


def mean(above: Floats, below: Floats, drawn: Floats) -> Interval:
    """A ratio of sums [n] with its interval, such as KL a token; `drawn` as for `compared`."""
    weights = np.concatenate([np.ones((1, len(below))), drawn])
    values = (weights @ above) / (weights @ below)
    return metrics.interval(float(values[0]), values[1:])
