"""Two models on the same examples: by how much the student is better, with an interval honest at the edge.

Of answers that are right or wrong the difference of two paired shares has Tango's score interval (1998, Statistics in
Medicine 17:891), which also has a width where the two never differ: with none of n it ends at z² / (n + z²), what an
exact binomial bound says. Newcombe (1998, Statistics in Medicine 17:2635) found it near its nominal level for few
examples, where a bootstrap that only draws what was seen is far below. Other scores have a paired bootstrap.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import Difference, Interval, Metric
from tasks import metrics

Z = 1.959963984540054  # of a two-sided 95 % interval
STEPS = 60  # halvings of an interval of length 2: below the last digit


def tango(lost: int, won: int, examples: int, z: float = Z) -> Interval:
    """The score interval of (won - lost) / examples: every difference that a score test does not reject."""
    point = (won - lost) / examples

    def beyond(difference: float) -> bool:
        return abs(score_statistic(lost, won, examples, difference)) > z

    low = -1.0 if not beyond(-1.0 + 1e-12) else bisect(beyond, -1.0, point)
    high = 1.0 if not beyond(1.0 - 1e-12) else bisect(beyond, 1.0, point)
    return Interval(point=point, low=low, high=high)


def bisect(beyond: Any, outside: float, inside: float) -> float:
    """Where `beyond` turns from true (outside) to false (inside); the outer end, so that it never ends too early."""
    for _ in range(STEPS):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if beyond(middle) else (outside, middle)
    return outside


def score_statistic(lost: int, won: int, examples: int, difference: float) -> float:
    """Tango's statistic of the hypothesis that the true difference of the two shares is `difference`.

    Its variance is that under the hypothesis: the share of the lost ones is the likeliest that goes with it.
    """
    above = won - lost - examples * difference
    a = 2 * examples
    b = -(won + lost) + (2 * examples - (won - lost)) * difference
    c = -lost * difference * (1 - difference)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = examples * (2 * share + difference * (1 - difference))
    if variance <= 1e-300:
        return 0.0 if abs(above) < 1e-9 else math.copysign(math.inf, above)
    return above / math.sqrt(variance)


def of_answers(other: NDArray[np.bool_], student: NDArray[np.bool_]) -> Difference:
    """From what each has right [n]: the difference of the two shares, in points."""
    lost, won, count = int(np.sum(other & ~student)), int(np.sum(student & ~other)), len(student)
    differ, point = (lost + won) / count, (won - lost) / count
    interval = tango(lost, won, count)
    return Difference(examples=count, interval=interval, variance=differ - point**2, lost=lost, won=won)


def of_guesses(
    metric: Metric,
    other: metrics.Ints,
    student: metrics.Ints,
    labels: metrics.Ints,
    draws: int,
    seed: int,
) -> Difference:
    """The difference of a classifier's score by its metric; other metrics than accuracy by the paired bootstrap."""
    theirs, own = metrics.equal(other, labels), metrics.equal(student, labels)
    answers = of_answers(theirs, own)
    if metric == "accuracy":
        return answers
    o, s = metrics.resampled(metric, (other, student), labels, draws, seed).T
    found = bootstrapped(s - o, len(labels))
    interval = metrics.widened(found.interval, theirs, own, metrics.unseen(len(labels)))
    return found.model_copy(update={"interval": interval, "lost": answers.lost, "won": answers.won})


def of_sums(
    other: NDArray[np.float64], student: NDArray[np.float64], below: NDArray[np.float64], drawn: NDArray[np.float64]
) -> Difference:
    """The difference of two ratios of sums [n], `below` what both are divided by; `drawn` [count, n] are resamples.

    Where no example differs, none was seen that does: one might weigh all that the largest can.
    """
    gap = np.asarray(student - other, dtype=np.float64)
    weights = np.concatenate([np.ones((1, len(below))), drawn])
    found = bootstrapped((weights @ gap) / (weights @ below), len(below))
    if np.any(gap != 0):
        return found
    hidden = metrics.unseen(len(below))
    return found.model_copy(update={"interval": Interval(point=0.0, low=-hidden, high=hidden)})


def bootstrapped(values: NDArray[np.float64], examples: int) -> Difference:
    """A difference from its value and its resamples behind it; n times their variance is that of one example."""
    interval = metrics.interval(float(values[0]), values[1:])
    return Difference(examples=examples, interval=interval, variance=float(examples * np.var(values[1:])))
