"""What of the evaluated texts was learnt from: beside every pair compared by brute force."""

from pathlib import Path

import numpy as np
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
    found = leakage.found(held, learnt)
    exact = near = 0
    for text in held:
        if text in learnt:
            exact += 1
            continue
        own = leakage.shingles(text)
        others = [leakage.shingles(other) for other in learnt]
        near += any(len(own & other) / len(own | other) >= leakage.ALIKE for other in others)
    assert (found.exact, found.near) == (exact, near)
    assert (found.texts, found.learnt) == (len(held), len(set(learnt)))


def test_case_and_punctuation_hide_nothing() -> None:
    found = leakage.found(["Good film!", "Bad film."], ["GOOD, film", "worse"])
    assert (found.exact, found.near) == (1, 0)


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
