"""What of the evaluated texts was learnt from: beside every pair compared by brute force."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import data, leakage
from tasks.splits import normalise

SENTENCE = "the quick brown fox jumps over the lazy dog while nobody in the whole town looks at it twice today"
WORDS = st.sampled_from(["a", "b", "c", "d", "e", "f"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=14).map(" ".join), max_size=12)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_the_index_finds_what_every_pair_gives(held: list[str], learnt: list[str]) -> None:
    check_by_every_pair(held, learnt)


def check_by_every_pair(held: list[str], learnt: list[str]) -> None:
    """By comparing every pair, and every window of a text in full."""
    found = leakage.found(held, learnt)
    exact = near = part = 0
    for text in held:
        if text in learnt:
            exact += 1
            continue
        own = leakage.runs(text)
        others = [set(leakage.runs(other)) for other in learnt]
        if any(len(set(own) & other) / len(set(own) | other) >= leakage.ALIKE for other in others):
            near += 1
            continue
        windows = [set(own[at : at + leakage.SPAN]) for at in range(max(1, len(own) - leakage.SPAN + 1))]
        part += any(len(window & other) >= leakage.PASSAGE for window in windows for other in others)
    assert (found.exact, found.near, found.part) == (exact, near, part)
    assert (found.texts, found.learnt) == (len(held), len(set(learnt)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_passages_are_what_every_window_of_every_pair_gives(seed: int) -> None:
    """Documents of a few pieces that they share, each changed a little: half-copied windows of every kind."""
    random = np.random.default_rng(seed)
    pieces = [[f"p{number}w{at}" for at in range(random.integers(5, 60))] for number in range(4)]

    def document() -> str:
        words = [word for number in random.integers(0, 4, random.integers(1, 4)) for word in pieces[number]]
        return " ".join(word if random.random() > 0.05 else f"x{random.integers(9)}" for word in words)

    check_by_every_pair([document() for _ in range(6)], [document() for _ in range(6)])


def test_an_excerpt_of_a_long_document_is_found_with_four_words_changed_and_not_with_many() -> None:
    random = np.random.default_rng(1)
    document = [f"w{number}" for number in random.integers(0, 9000, 2000)]
    excerpt = document[700:750]

    def changed(every: int) -> str:
        return " ".join("other" if at % every == every - 1 else word for at, word in enumerate(excerpt))

    for held, learnt in ((" ".join(document), changed(12)), (changed(12), " ".join(document))):
        found = leakage.found([held], [learnt])
        assert (found.exact, found.near, found.part) == (0, 0, 1), "from either side"
    assert leakage.found([" ".join(document)], [changed(5)]).part == 0
    assert leakage.found([" ".join(document)], [" ".join(excerpt[:20])]).part == 0, "a quotation is no passage"
    halves = [" ".join(document[700:722]), " ".join(document[722:744])]
    assert leakage.found([" ".join(document)], halves).part == 0, "it is one text that has a passage"
    assert leakage.found(["ha " * 60], ["ha " * 30]).part == 0, "the same run again is one run"


def test_case_and_punctuation_hide_nothing() -> None:
    found = leakage.found(["Good film!", "Bad film."], ["GOOD, film", "worse"])
    assert (found.exact, found.near) == (1, 0)


def test_two_spellings_of_a_letter_hide_nothing() -> None:
    accented = "Ein schöner Film über das Leben"
    found = leakage.found([accented, "ＧＯＯＤ film"], [unicodedata.normalize("NFD", accented), "good film"])
    assert (found.exact, found.near) == (2, 0)


@pytest.mark.parametrize(
    "text",
    [
        "这家餐厅的服务非常好食物也很美味我们全家都很喜欢下次还会再来",
        "このえいがはとてもおもしろくてかぞくみんなでわらいました",
    ],
)
def test_a_text_without_spaces_is_near_what_it_was_made_of(text: str) -> None:
    assert leakage.found([text], [f"{text[:-1]}！们"]).near == 1
    assert leakage.found([text], [text[::-1]]).near == 0


def test_a_changed_end_is_near_and_a_changed_middle_of_a_short_text_is_not() -> None:
    words = SENTENCE.split()
    end, middle = [*words[:-1], "ever"], [*words[:9], "when", *words[10:]]
    assert leakage.found([SENTENCE], [" ".join(end)]).near == 1
    assert leakage.found([SENTENCE], [" ".join(middle)]).near == 0


def test_training_and_transfer_count_and_validation_does_not(tmp_path: Path) -> None:
    rows = {"train": ["one"], "validation": ["two"], "transfer": ["three"], "test": ["one", "two", "three"]}
    for name, texts in rows.items():
        data.write_rows(tmp_path / f"{name}.jsonl", [{"id": str(at), "text": one} for at, one in enumerate(texts)])
    found = leakage.of_split(tmp_path, rows["test"])
    assert (found.texts, found.learnt, found.exact, found.near) == (3, 2, 2, 0)


def test_pairs_leak_as_pairs_also_turned_around() -> None:
    found = leakage.found([("a b", "c d"), ("a b", "e f")], [("c d", "a b")])
    assert (found.exact, found.near) == (1, 0)


def test_ten_thousand_texts_take_seconds() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in random.integers(0, 5000, 20)) for _ in range(10_000)]
    assert normalise(texts[0]) == texts[0]
    found = leakage.found(texts[:2000], texts[1990:])
    assert (found.exact, found.near) == (10, 0)
