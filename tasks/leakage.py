"""Whether evaluated texts stand among those that were learnt from: word for word, or nearly.

Word for word is after lowercasing and dropping all but letters and digits, as the split sees texts. Nearly is a
Jaccard similarity of 0.8 or more of their sets of five words in a row (shingles, Broder 1997), computed exactly over an
index of the evaluated texts' shingles. What a teacher had learnt before anybody's run cannot be known.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from registry.records import Leakage
from tasks import data
from tasks.pairs import Text
from tasks.splits import normalise

WORDS = 5
ALIKE = 0.8
LEARNT = ("train", "transfer")  # calibration takes training texts


def of_split(rows: Path, texts: Sequence[Text]) -> Leakage:
    """What of the evaluated texts stands in the training and transfer texts of a data artifact."""
    return found(texts, (row["text"] for name in LEARNT for row in data.read_rows(rows, name)))


def found(texts: Sequence[Text], learnt: Iterable[Text]) -> Leakage:
    """Counts of evaluated texts that were learnt word for word, and nearly."""
    held = [normalise(text) for text in texts]
    known = dict.fromkeys(map(normalise, learnt))  # in order, each once
    own = [set[str]() if text in known else shingles(text) for text in held]
    index = defaultdict[str, list[int]](list)
    for place, parts in enumerate(own):
        for part in parts:
            index[part].append(place)
    near = set[int]()
    for text in known:
        parts = shingles(text)
        shared = Counter(place for part in parts if part in index for place in index[part])
        near |= {at for at, count in shared.items() if count >= ALIKE * (len(parts) + len(own[at]) - count)}
    return Leakage(texts=len(held), learnt=len(known), exact=sum(text in known for text in held), near=len(near))


def shingles(text: str) -> set[str]:
    """All runs of five words; a shorter text is one run."""
    words = text.split()
    return {" ".join(words[at : at + WORDS]) for at in range(max(1, len(words) - WORDS + 1))}
