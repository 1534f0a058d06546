"""Rows with any number of labels: reading and checking them, and the measures of answers that are sets of labels.

A row's label is a list of 0 and 1, one for each name; a model's answer names every label whose logit is above 0 (a
probability above one half). Accuracy is then the share of rows whose whole set is right (subset accuracy); macro-F1 is
the mean F1 over the labels, micro-F1 the F1 of all (row, label) decisions together.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import Metric, ShrinkError, has_text, is_unicode

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SEPARATORS = (";", ",", "|", "\t", "/", " ")  # what a wrong label_separator may have been meant to be
CHUNK = 2_000_000  # numbers of drawn counts that are held at once
NONE = -1  # in `held`: the row has no label


def names_in(record: dict[str, Any], column: str, separator: str | None, number: int, file: str) -> list[str]:
    """The label names of one record, each once, in their order; a cell is split at the separator, if there is one."""
    value = record.get(column)
    if separator is not None:
        found = [part.strip() for part in str(value or "").split(separator)]
        return list(dict.fromkeys(part for part in found if part))
    if not isinstance(value, list) or any(isinstance(one, list | dict | bool | float | None) for one in value):
        raise ShrinkError(
            f"Row {number} of {file} has {value!r:.60} under {column!r} (label_column) but multi_label needs a JSON "
            "list of names, [] for none: write one."
        )
    names = [str(one).strip() for one in value]
    wrong = next((one for one in names if not (has_text(one) and is_unicode(one))), None)
    if wrong is not None:
        raise ShrinkError(f"Row {number} of {file} has the label {wrong!r:.60} in {column!r}: give it a name.")
    return list(dict.fromkeys(names))


def check_cells(rows: Sequence[dict[str, Any]], file: str, separator: str | None) -> None:
    """ShrinkError when no row has two labels: then the separator is another, or the rows are not multi-label."""
    if any(len(row["label"]) > 1 for row in rows):
        return
    cells = [name for row in rows for name in row["label"]]
    near = next((mark for mark in SEPARATORS if mark != separator and any(mark in cell for cell in cells)), None)
    if separator is not None and near is not None:
        raise ShrinkError(f"label_separator is {separator!r} but no label of {file} has it: did you mean {near!r}?")
    if not cells:
        raise ShrinkError(f"multi_label is true but no row of {file} has any label: give labels.")
    raise ShrinkError(
        f"multi_label is true but no row of {file} has two labels: leave it out and give every row one label, as text."
    )


def separator_in(names: Sequence[str]) -> str | None:
    """What stands between several labels in names that were read as one each, such as a, b and a|b; else None.

    Some name's parts must all occur in other names too: 'N/A' among 'yes' and 'no' is one label.
    """
    for mark in SEPARATORS[:-1]:  # words stand beside each other in many a name
        parts = [{part.strip() for part in name.split(mark)} for name in names]
        times = Counter(part for held in parts for part in held)
        if any(len(held) > 1 and "" not in held and min(times[part] for part in held) > 1 for held in parts):
            return mark
    return None


def numbered(rows: Sequence[dict[str, Any]], order: Callable[[str], Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows whose label names became a list of 0 and 1, and the names in the order of its places."""
    names = sorted({name for row in rows for name in row["label"]}, key=order)
    if len(names) < 2:
        raise ShrinkError(f"multi_label is true but the rows have {len(names)} label(s) in all: give two or more.")
    return [{**row, "label": [int(name in row["label"]) for name in names]} for row in rows], names


def held(label: int | Sequence[int]) -> list[int]:
    """The numbers of the labels that a row has, NONE alone where it has none; for one label just that."""
    if isinstance(label, int):
        return [label]
    return [number for number, there in enumerate(label) if there] or [NONE]


def check_split(name: str, rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> None:
    """ShrinkError when a label is on none or on all of the train rows."""
    if name != "train":
        return
    counts = np.asarray([row["label"] for row in rows]).sum(0)
    for label, count in zip(labels, counts.tolist(), strict=True):
        if count == 0:
            raise ShrinkError(f"The train split has no row of label {label!r}: give more rows of it or drop it.")
        if count == len(rows):
            raise ShrinkError(f"Every train row has the label {label!r}: give rows without it or drop it.")


def decided(logits: NDArray[Any]) -> Ints:
    """Logits [n, L] to answers of 0 and 1."""
    return np.asarray(logits > 0, dtype=np.int64)


def exact(one: Ints, other: Ints) -> NDArray[np.bool_]:
    """Which rows of two [n, L] are wholly equal."""
    return np.asarray((one == other).all(axis=1))


def score(metric: Metric, hits: Floats, wrong: Floats) -> Floats:
    """F1 of counts [..., L]: hits (true positives) and wrong answers (false positives and negatives together).

    A label that occurs in neither labels nor answers does not count for macro_f1 (scikit-learn's zero_division=nan).
    Raises ShrinkError for a metric that sets of labels do not have.
    """
    match metric:
        case "macro_f1":
            there = 2 * hits + wrong > 0
            each = np.divide(2 * hits, 2 * hits + wrong, out=np.zeros_like(hits), where=there)
            return np.asarray(each.sum(-1) / np.maximum(there.sum(-1), 1))
        case "micro_f1":
            both, missed = 2 * hits.sum(-1), wrong.sum(-1)
            found = np.divide(both, both + missed, out=np.zeros_like(both), where=both + missed > 0)
            return np.asarray(found, dtype=np.float64)
    raise ShrinkError(f"metric is {metric!r}, which several labels a row do not have: take macro_f1 or micro_f1.")


def counts(answers: Ints, labels: Ints) -> tuple[Ints, Ints]:
    """Per row and label [n, L]: a true positive, a wrong answer."""
    return answers * labels, np.asarray(answers != labels, dtype=np.int64)


def measure(metric: Metric, answers: Ints, labels: Ints) -> float:
    """A metric of answers [n, L]."""
    if metric == "accuracy":
        return float(exact(answers, labels).mean())
    hits, wrong = (part.sum(0).astype(np.float64) for part in counts(answers, labels))
    return float(score(metric, hits, wrong))


def resampled(metric: Metric, guesses: tuple[Ints, ...], labels: Ints, count: int, seed: int) -> Floats:
    """F1 [1 + count, models]: of the rows themselves, then of paired bootstrap resamples of whole rows.

    Rows that look alike to every model (same labels, same answers) are one cell, so that one multinomial draw over
    the cells is one exact resample of the rows.
    """
    width = labels.shape[1]
    cells, member = np.unique(np.concatenate([labels, *guesses], axis=1), axis=0, return_inverse=True)
    there = np.bincount(member.reshape(-1), minlength=len(cells))
    true = cells[:, :width]
    tables = [
        np.concatenate(counts(cells[:, width * place : width * (place + 1)], true), axis=1).astype(np.float64)
        for place in range(1, len(guesses) + 1)
    ]
    rng, columns = np.random.default_rng(seed), []
    for start in range(0, count, step := max(1, CHUNK // len(cells))):
        drawn = rng.multinomial(len(labels), there / len(labels), size=min(step, count - start))
        columns.append(_scores(metric, drawn, tables))
    return np.concatenate([_scores(metric, there[None], tables), *columns])


def _scores(metric: Metric, drawn: Ints, tables: list[Floats]) -> Floats:
    """Scores [draws, models] of how often each cell was drawn [draws, cells]."""
    found = []
    for table in tables:
        sums = drawn.astype(np.float64) @ table
        found.append(score(metric, *np.split(sums, 2, axis=-1)))
    return np.stack(found, axis=1)
