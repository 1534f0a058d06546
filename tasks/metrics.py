"""Quality and its uncertainty in plain numpy: accuracy, macro-F1, paired bootstrap intervals and flips.

Every model is judged on the same examples. A resample of n examples only matters through how many fall into each of
the eight cells (teacher right or wrong, student, floor), so one multinomial draw is one exact bootstrap resample.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import Interval

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def classes(logits: NDArray[Any]) -> Ints:
    """The predicted class of each row; one column (or a vector) is a decision value with its border at 0."""
    if logits.ndim == 2 and logits.shape[1] > 1:
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)
    return np.asarray(logits.reshape(-1) > 0, dtype=np.int64)


def accuracy(predicted: Ints, labels: Ints) -> float:
    """The share of right predictions."""
    return float(np.mean(predicted == labels))


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """The mean F1 over the classes that occur in the labels or the predictions."""
    scores = []
    for label in np.union1d(predicted, labels):
        right = float(np.sum((predicted == label) & (labels == label)))
        scores.append(2 * right / float(np.sum(predicted == label) + np.sum(labels == label)))
    return float(np.mean(scores))


def resample(right: tuple[NDArray[np.bool_], ...], count: int, seed: int) -> Floats:
    """Accuracies [count, models] of paired bootstrap resamples, from what each model got right."""
    total = right[0].shape[0]
    cell = np.zeros(total, dtype=np.int64)
    for place, model in enumerate(right):
        cell |= model.astype(np.int64) << place
    cells = 1 << len(right)
    share = np.bincount(cell, minlength=cells) / total
    drawn = np.random.default_rng(seed).multinomial(total, share, size=count)
    member = np.array([[code >> place & 1 for place in range(len(right))] for code in range(cells)], dtype=np.int64)
    return np.asarray(drawn @ member / total, dtype=np.float64)


def ratio(above: Floats, below: Floats) -> Floats:
    """above / below, and 0 (nothing kept) where there is nothing to keep because below is not positive."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 1e-12)


def interval(point: float, values: Floats) -> Interval:
    """A point estimate with the 2.5 % and 97.5 % quantiles of its resamples."""
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(point=float(point), low=float(low), high=float(high))


def comparison(
    teacher: Ints, student: Ints, floor: Ints, labels: Ints, count: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Retention, lift retained, win over the floor, flips and agreement: the paired fields of an Evaluation."""
    right = tuple(predicted == labels for predicted in (teacher, student, floor))
    points = np.array([[model.mean() for model in right]], dtype=np.float64)
    draws = np.concatenate([points, resample(right, count, seed)])
    t, s, f = draws.T
    series = {"retention": ratio(s, t), "lift_retained": ratio(s - f, t - f), "win_over_floor": s - f}
    return {
        **{name: interval(values[0], values[1:]) for name, values in series.items()},
        "flips_to_wrong": int(np.sum(right[0] & ~right[1])),
        "flips_to_right": int(np.sum(~right[0] & right[1])),
        "agreement": float(np.mean(teacher == student)),
    }
