"""Quality and its uncertainty in plain numpy: accuracy, macro-F1, MCC, paired bootstrap intervals and flips.

Labels and predictions are [n], or [n, L] of 0 and 1 where rows have several labels (tasks/multilabel.py).

Every model is judged on the same examples. A resample of n examples only matters through how many fall into each of
the eight cells (teacher right or wrong, student, floor), so one multinomial draw is one exact bootstrap resample.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import Interval, Metric, ShrinkError
from tasks import multilabel

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def classes(logits: NDArray[Any]) -> Ints:
    """The predicted class of each row; one column (or a vector) is a decision value with its border at 0."""
    if logits.ndim == 2 and logits.shape[1] > 1:
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)
    return np.asarray(logits.reshape(-1) > 0, dtype=np.int64)


def equal(one: Ints, other: Ints) -> NDArray[np.bool_]:
    """Which rows agree: in their class, or in their whole set of labels."""
    return multilabel.exact(one, other) if one.ndim == 2 else np.asarray(one == other)


def accuracy(predicted: Ints, labels: Ints) -> float:
    """The share of right predictions."""
    return float(np.mean(equal(predicted, labels)))


def confusion(predicted: Ints, labels: Ints, classes: int) -> Floats:
    """Counts [classes, classes] of examples by label (row) and prediction (column)."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.float64)


def score(metric: Metric, counts: Floats) -> Floats:
    """A metric of confusion counts [..., C, C]; the shape of the result is [...].

    macro_f1 is the mean F1 over the classes that occur in labels or predictions. mcc is the correlation of labels and
    predictions for any number of classes (Gorodkin 2004), 0 where either has one class only.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    true, found, total = counts.sum(-1), counts.sum(-2), counts.sum((-2, -1))
    match metric:
        case "accuracy":
            return np.asarray(right.sum(-1) / total)
        case "macro_f1":
            each = ratio(2 * right, true + found)  # 0 for a class that does not occur
            return np.asarray(each.sum(-1) / (true + found > 0).sum(-1))
        case "mcc":
            both = right.sum(-1) * total - (true * found).sum(-1)
            spread = (total**2 - (true**2).sum(-1)) * (total**2 - (found**2).sum(-1))
            return ratio(both, np.sqrt(spread))
    raise ShrinkError(f"metric is {metric!r}, which with one label a row is the accuracy: take accuracy.")


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """The mean F1 over the classes that occur in the labels or the predictions."""
    return measure("macro_f1", predicted, labels)


def measure(metric: Metric, predicted: Ints, labels: Ints) -> float:
    """A metric of predictions."""
    if labels.ndim == 2:
        return multilabel.measure(metric, predicted, labels)
    classes = int(max(predicted.max(), labels.max())) + 1
    return float(score(metric, confusion(predicted, labels, classes)))


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


def resampled(metric: Metric, guesses: tuple[Ints, ...], labels: Ints, count: int, seed: int) -> Floats:
    """Scores [1 + count, models]: of the examples themselves, then of paired bootstrap resamples.

    As for `resample`, only how many examples fall into each cell matters; a cell is here a label with every model's
    guess.
    """
    if metric == "accuracy":
        right = tuple(equal(predicted, labels) for predicted in guesses)
        points = np.array([[model.mean() for model in right]], dtype=np.float64)
        return np.concatenate([points, resample(right, count, seed)])
    if labels.ndim == 2:
        return multilabel.resampled(metric, guesses, labels, count, seed)
    classes = int(max(labels.max(), *(predicted.max() for predicted in guesses))) + 1
    cells, member = np.unique(np.stack([labels, *guesses]), axis=1, return_inverse=True)
    share = np.bincount(member.reshape(-1), minlength=cells.shape[1]) / len(labels)
    drawn = np.random.default_rng(seed).multinomial(len(labels), share, size=count)
    drawn = np.concatenate([np.rint(share * len(labels))[None].astype(drawn.dtype), drawn])
    columns = []
    for guess in cells[1:]:
        place = np.zeros((cells.shape[1], classes * classes))
        place[np.arange(cells.shape[1]), cells[0] * classes + guess] = 1
        columns.append(score(metric, (drawn @ place).reshape(-1, classes, classes)))
    return np.stack(columns, axis=1)


def comparison(
    teacher: Ints,
    student: Ints,
    floor: Ints,
    labels: Ints,
    count: int = 2000,
    seed: int = 0,
    metric: Metric = "accuracy",
) -> dict[str, Any]:
    """Retention, lift retained, win over the floor by a metric, flips and agreement: an Evaluation's paired fields."""
    t, s, f = resampled(metric, (teacher, student, floor), labels, count, seed).T
    series = {"retention": ratio(s, t), "lift_retained": ratio(s - f, t - f), "win_over_floor": s - f}
    found = {name: interval(values[0], values[1:]) for name, values in series.items()}
    right = {name: equal(guess, labels) for name, guess in (("t", teacher), ("s", student), ("f", floor))}
    hidden = unseen(len(labels))
    found["retention"] = widened(found["retention"], right["t"], right["s"], hidden / t[0] if t[0] > 0 else 0.0)
    found["win_over_floor"] = widened(found["win_over_floor"], right["f"], right["s"], hidden)
    return {
        **found,
        "flips_to_wrong": int(np.sum(right["t"] & ~right["s"])),
        "flips_to_right": int(np.sum(~right["t"] & right["s"])),
        "agreement": float(np.mean(equal(teacher, student))),
    }


def unseen(examples: int) -> float:
    """The largest share of examples of a kind of which none was seen in so many, with 97.5 % confidence.

    The exact binomial bound (Clopper and Pearson 1934) with no success: 1 - 0.025^(1/n), about 3.7 / n.
    """
    return float(1 - 0.025 ** (1 / examples))


def widened(found: Interval, one: NDArray[np.bool_], other: NDArray[np.bool_], share: float) -> Interval:
    """An interval that also covers a kind of example that is missing: right by one model and wrong by the other.

    Resamples never draw what was not seen: where no answer turned wrong (or right), their interval ends too early, and
    where none differs it has no width at all, however few examples there are. `share` is what such examples may weigh,
    in accuracy; for other metrics it is taken for the same.
    """
    low = found.low - (0.0 if bool((one & ~other).any()) else share)
    high = found.high + (0.0 if bool((~one & other).any()) else share)
    return Interval(point=found.point, low=low, high=high)
