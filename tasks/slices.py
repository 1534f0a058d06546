"""Parts of the evaluated examples on which a student is judged by itself: thirds by length, labels, the user's columns.

On each the share of right answers counts, whatever metric the whole goes by: with the rows of one label alone, F1 and
MCC say nothing. Of embeddings it is the mean of the measure that kept least, of writing the perplexity of documents.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.records import Difference, ShrinkError, Slice
from tasks import multilabel, paired, pairs
from tasks.pairs import Row
from tasks.tables import NOTHING

MOST = 20  # values of a column: each is told by its name
LONGEST = 40  # characters of a value's name

Floats = NDArray[np.float64]


class Part(NamedTuple):
    """Examples that belong together, by their places."""

    by: str
    value: str
    places: NDArray[np.int64]


def parts_of(rows: Sequence[Row], labels: Sequence[str], columns: Sequence[str] = ()) -> list[Part]:
    """All parts of rows: by length, by label where there are labels, by the columns that the rows keep."""
    found = by_length([row["text"] for row in rows])
    if labels:
        held = [multilabel.held(row["label"]) for row in rows]
        numbers = sorted({number for one in held for number in one})
        names = {number: labels[number] if number >= 0 else NOTHING for number in numbers}
        found += [Part("label", names[one], places([one in own for own in held])) for one in numbers]
    for column in columns:
        cells = [row["columns"][column] for row in rows]
        found += [Part(column, value, places([cell == value for cell in cells])) for value in sorted(set(cells))]
    return found


def by_length(texts: Sequence[pairs.Text]) -> list[Part]:
    """Thirds by the number of characters, of a pair both texts'; fewer parts where many are equally long."""
    sizes = np.array([sum(map(len, pairs.parts(text))) for text in texts])
    first, second = (int(np.quantile(sizes, share, method="lower")) for share in (1 / 3, 2 / 3))
    thirds = (
        (f"up to {first} characters", sizes <= first),
        (f"{first + 1} to {second} characters", (sizes > first) & (sizes <= second)),
        (f"{second + 1} characters and more", sizes > second),
    )
    return [Part("length", name, places(chosen)) for name, chosen in thirds if np.any(chosen)]


def places(chosen: Any) -> NDArray[np.int64]:
    """Where something is true."""
    return np.flatnonzero(np.asarray(chosen))


def of_answers(parts: Sequence[Part], teacher: NDArray[np.bool_], student: NDArray[np.bool_]) -> tuple[Slice, ...]:
    """Each part with what teacher and student have right [n]."""
    return tuple(
        told(part, paired.of_answers(t, s), float(t.mean()), float(s.mean()))
        for part in parts
        for t, s in [(teacher[part.places], student[part.places])]
    )


def of_sums(
    parts: Sequence[Part], teacher: Floats, student: Floats, below: Floats, draws: int, seed: int
) -> tuple[Slice, ...]:
    """Each part with ratios of sums [n] over its examples, as `paired.of_sums` compares them."""
    from tasks.embed.measures import resamples

    found = []
    for part in parts:
        t, s, size = (values[part.places] for values in (teacher, student, below))
        against = paired.of_sums(t, s, size, resamples(len(size), draws, seed))
        found.append(told(part, against, float(t.sum() / size.sum()), float(s.sum() / size.sum())))
    return tuple(found)


def told(part: Part, against: Difference, teacher: float, student: float) -> Slice:
    """The record of a part."""
    return Slice(by=part.by, value=part.value, teacher=teacher, student=student, against=against)


def check(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """ShrinkError for a column with more values than can be told, or with a long one: it may be a text."""
    for column in columns:
        values = sorted({row["columns"][column] for row in rows})
        if len(values) > MOST:
            raise ShrinkError(
                f"evaluate.slices names {column!r}, which has {len(values)} values, but at most {MOST} can be told "
                "apart: name a column with few."
            )
        if long := next((value for value in values if len(value) > LONGEST), None):
            raise ShrinkError(
                f"evaluate.slices names {column!r}, which has a value of {len(long)} characters, but names have "
                f"{LONGEST} at most: name another column, or shorten its values."
            )
