"""Whether evaluated texts stand among those that were learnt from: word for word, nearly, or in part.

Word for word is after lowercasing and dropping all but letters and digits, as the split sees texts. Nearly is a
Jaccard similarity of 0.8 or more of their sets of five words in a row (shingles, Broder 1997). In part is a passage:
within 50 words (the length that Lee et al. 2022 call a duplicate) 23 different runs of five that one learnt text has,
so half of them, which four changed words leave; that finds an excerpt of a long document, which Jaccard does not. A
character of a script without spaces (Chinese, Japanese, Thai and others) counts as a word. All three are computed
exactly, over an index of the evaluated texts' shingles. What a teacher had learnt before anybody's run cannot be known.

Time grows with the words of both sides, not with their pairs: 100,000 texts of 20 words beside 100,000 take 5 seconds
and 0.5 GB.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from registry.records import Leakage
from tasks import data
from tasks.pairs import Text
from tasks.splits import normalise

WORDS = 5
# Thai, Lao, Burmese, Khmer, kana, ideographs
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
ALIKE = 0.8
SPAN = 50 - WORDS + 1  # runs within which a passage lies
PASSAGE = SPAN // 2  # different ones of them that make it one
LEARNT = ("train", "transfer")  # calibration takes training texts


def of_split(rows: Path, texts: Sequence[Text]) -> Leakage:
    """What of the evaluated texts stands in the training and transfer texts of a data artifact."""
    return found(texts, (row["text"] for name in LEARNT for row in data.read_rows(rows, name)))


def found(texts: Sequence[Text], learnt: Iterable[Text]) -> Leakage:
    """Counts of evaluated texts that were learnt word for word, nearly, and in part; each counts once."""
    held = [normalise(text) for text in texts]
    known = dict.fromkeys(map(normalise, learnt))  # in order, each once
    own = [list[str]() if text in known else runs(text) for text in held]
    sizes = [len(set(one)) for one in own]
    index = defaultdict[str, list[int]](list)
    for place, one in enumerate(own):
        for part in set(one):
            index[part].append(place)
    near, passages = set[int](), set[int]()
    for text in known:
        parts = set(runs(text))
        shared = Counter(place for part in parts if part in index for place in index[part])
        for at, count in shared.items():
            if count >= ALIKE * (len(parts) + sizes[at] - count):
                near.add(at)
            elif count >= PASSAGE and at not in passages and passage(own[at], parts):
                passages.add(at)
    exact = sum(text in known for text in held)
    return Leakage(texts=len(held), learnt=len(known), exact=exact, near=len(near), part=len(passages - near))


def passage(own: Sequence[str], learnt: AbstractSet[str]) -> bool:
    """Whether somewhere within SPAN runs in a row there are PASSAGE different ones that were learnt."""
    within = Counter[str]()
    for at, run in enumerate(own):
        if run in learnt:
            within[run] += 1
        if at >= SPAN and (gone := own[at - SPAN]) in learnt:
            within[gone] -= 1
            if not within[gone]:
                del within[gone]
        if len(within) >= PASSAGE:
            return True
    return False


def runs(text: str) -> list[str]:
    """All runs of five words in their order; a shorter text is one run."""
    words = text.split() if text.isascii() else WORD.findall(text)
    return [" ".join(words[at : at + WORDS]) for at in range(max(1, len(words) - WORDS + 1))]
