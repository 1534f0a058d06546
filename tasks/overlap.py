"""What the floor sees of a text, or of a pair of texts: runs of words, and how far two texts share their words."""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tasks.pairs import Text

WORD = re.compile(r"(?u)\b\w\w+\b")


def terms(text: Text, ngrams: int) -> list[str]:
    """The runs of up to `ngrams` words of a text.

    Of a pair the runs of either text, marked by which (1 or 2), and the single words that both have, marked &.
    """
    if isinstance(text, str):
        return runs(WORD.findall(text.lower()), ngrams)
    words = [WORD.findall(part.lower()) for part in text]
    own = [f"{number} {run}" for number, part in enumerate(words, start=1) for run in runs(part, ngrams)]
    return own + [f"& {word}" for word in sorted({*words[0]} & {*words[1]})]


def runs(words: list[str], ngrams: int) -> list[str]:
    """Runs of 1 to `ngrams` neighbouring words."""
    return [" ".join(words[start : start + n]) for n in range(1, ngrams + 1) for start in range(len(words) - n + 1)]


def measures(text: tuple[str, str], vocabulary: Mapping[str, int], idf: NDArray[np.floating]) -> NDArray[np.float64]:
    """Five measures of a pair, each from 0 to 1: shared words over all, over the first's, over the second's, weighted.

    Weighted is shared over all by how rare words are in the second texts of the training rows. Last the shorter length
    over the longer one, in words.
    """
    words = [WORD.findall(part.lower()) for part in text]
    first, second = ({*part} for part in words)
    shared, both = first & second, first | second
    rarest = float(idf.max())

    def weight(word: str) -> float:
        place = vocabulary.get(f"2 {word}")
        return rarest if place is None else float(idf[place])

    rare, all_rare = (sum(map(weight, sorted(part))) for part in (shared, both))
    lengths = sorted(map(len, words))
    above = (len(shared), len(shared), len(shared), rare, lengths[0])
    below = (len(both), len(first), len(second), all_rare, lengths[1])
    return np.array([part / whole if whole else 0.0 for part, whole in zip(above, below, strict=True)])
