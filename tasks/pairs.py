"""Texts that come in pairs: how rows hold them, which rows belong together, and which tokens are the second text's.

In memory a row's `text` is what the tokenizer is given: a string, or a tuple of two. On disk the second stands under
`pair`. The tokenizer's own template joins the two; longer pairs are cut at the end of the longer text ("longest
first"). A BERT-like encoder adds another vector to the tokens of the second text. The exported graph keeps its two
inputs (ids and mask): where the second text begins is read off the separators.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.records import ShrinkError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from torch import Tensor

Text = str | tuple[str, str]
Row = dict[str, Any]
PROBE = ("one", "two three")
LARGEST = 0.05  # part of the rows that may hang together by shared texts before pairs are split one by one
SMALL = 10  # so many always may


def joined(row: Row) -> Row:
    """A row as read from disk: {text, pair} becomes one `text` of two."""
    if "pair" not in row:
        return row
    return {**{key: value for key, value in row.items() if key != "pair"}, "text": (row["text"], row["pair"])}


def apart(row: Row) -> Row:
    """A row as written to disk: a `text` of two becomes {text, pair}."""
    return row if isinstance(row["text"], str) else {**row, "text": row["text"][0], "pair": row["text"][1]}


def parts(text: Text | Sequence[str]) -> tuple[str, ...]:
    """The one or two strings of a text (JSON gives a pair as a list)."""
    return (text,) if isinstance(text, str) else tuple(text)


def linked(keys: Sequence[tuple[str, str]]) -> list[str]:
    """For each pair of normalised texts the name of the group that must not be torn apart by a split.

    Pairs that share a text, directly or over others, form a group, so that a premise with its three hypotheses, or a
    question asked in many pairs, stands in one split. Where that would chain more than 5 % of the rows together (as
    neighbouring sentences of an article do), only equal pairs, also turned around, form one.
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (higher := above.setdefault(name, name)) != name:
            above[name] = above[higher]
            name = above[name]
        return name

    for first, second in keys:
        one, other = sorted((top(first), top(second)))
        above[other] = one
    groups = [top(first) for first, _ in keys]
    if max(Counter(groups).values(), default=0) <= max(LARGEST * len(keys), SMALL):
        return groups
    return ["\t".join(sorted(key)) for key in keys]


def separator(tokenizer: "Tokenizer") -> int | None:
    """The id of the piece between two texts where the tokenizer marks the second text's tokens by type 1, else None.

    Raises ShrinkError when the tokenizer sets nothing between two texts, or marks them in another way than by what
    follows the first separator.
    """
    cut = tokenizer.truncation
    tokenizer.no_truncation()
    encoding = tokenizer.encode(*PROBE)
    if cut is not None:
        tokenizer.enable_truncation(**cut)
    numbers = encoding.sequence_ids
    first = max((place for place, number in enumerate(numbers) if number == 0), default=-1)
    between = encoding.ids[first + 1 : numbers.index(1)] if 1 in numbers else []
    if not between:
        raise ShrinkError(
            "the tokenizer sets no separator between two texts: take a teacher that was trained on pairs."
        )
    if not any(encoding.type_ids):
        return None
    if types_of(encoding.ids, between[0]) != encoding.type_ids:
        raise ShrinkError(
            f"the tokenizer marks two texts by the types {encoding.type_ids}, not 1 behind the first separator: take a "
            "teacher with BERT's template."
        )
    return between[0]


def types_of(ids: Sequence[int], mark: int) -> list[int]:
    """The token types of one sequence: 0 up to the first separator, 1 behind it."""
    if mark not in ids:
        return [0] * len(ids)
    first = list(ids).index(mark)
    return [int(place > first) for place in range(len(ids))]


def token_types(ids: "Tensor", mark: int) -> "Tensor":
    """Token types [b, t] of token ids [b, t] in operations that every runtime has; padding gets a type too, unseen."""
    found = (ids == mark).long()
    return ((found.cumsum(1) - found) > 0).long()


def disagreeing(encodings: "Sequence[Encoding]", mark: int | None) -> int | None:
    """The place of the first encoding whose own types are not those read off the separators; None when all agree."""
    if mark is None:
        return None
    return next((at for at, one in enumerate(encodings) if types_of(one.ids, mark) != one.type_ids), None)


def check_template(path: Path, texts: Sequence[Text], names: Sequence[str]) -> None:
    """ShrinkError when a tokenizer file cannot mark pairs, or when a text (of this name) holds the separator itself."""
    from tasks import pieces

    tokenizer = pieces.opened(path)
    mark = separator(tokenizer)
    wrong = disagreeing(tokenizer.encode_batch(list(texts)), mark)
    if wrong is not None and mark is not None:
        piece = tokenizer.id_to_token(mark)
        raise ShrinkError(f"row {names[wrong]} has {piece} inside a text, which ends a text: remove it there.")
