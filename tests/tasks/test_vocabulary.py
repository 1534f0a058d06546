"""Pruned vocabularies of three kinds of tokenizer: a text whose pieces all stay is cut as before, all others can be."""

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from registry.records import digest_directory
from tasks import architectures, data, layout, train
from tasks import models as classifiers
from tasks.prune import vocabulary
from tests.tasks.encoders import TOKENIZERS, save_teacher, tokenizer_of
from tests.tasks.test_torch_stages import FILLER, GOOD, make_texts

WORDS = (*GOOD, *FILLER, "zebras", "jumpfilm", "films", "plotgood", "agreat", "vividly", "☃", "naïve")
cached = lru_cache(tokenizer_of)


def pruned(old: Tokenizer, kept_texts: list[str], min_count: int = 1) -> tuple[Tokenizer, dict[int, int]]:
    description = json.loads(old.to_str())
    counts = Counter(piece for encoding in old.encode_batch(kept_texts) for piece in encoding.ids)
    smaller, new = vocabulary.reindex(description, vocabulary.kept_pieces(description, counts, min_count))
    return Tokenizer.from_str(json.dumps(smaller)), new


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=6), st.lists(st.sampled_from(WORDS), max_size=6), st.integers(1, 3))
def test_a_text_whose_pieces_all_stay_is_cut_as_before(
    kind: str, known: list[str], words: list[str], least: int
) -> None:
    old = cached(kind)
    small, new = pruned(old, known, least)
    text = " ".join(words)
    before, after = old.encode(text), small.encode(text)
    assert small.get_vocab_size() == len(new) and sorted(new.values()) == list(range(len(new)))
    if set(before.ids) <= new.keys():
        assert after.tokens == before.tokens and after.ids == [new[number] for number in before.ids]
    if kind != "WordPiece" and old.token_to_id("[UNK]") not in before.ids:  # it can still be spelled, in smaller pieces
        assert small.token_to_id("[UNK]") not in after.ids and small.decode(after.ids) == old.decode(before.ids)


def test_joins_stay_closed_and_in_order() -> None:
    merges = [("a", "b"), ("c", "d"), ("ab", "cd"), ("b", "c"), ("a", "bc")]
    pieces = ["[UNK]", *"abcde", "ab", "cd", "abcd", "bc", "abc"]
    old = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, merges))
    description = json.loads(old.to_str())
    kept = vocabulary.kept_pieces(description, Counter([pieces.index("abcd")]), 1)
    small, _ = vocabulary.reindex(description, kept)
    assert [pieces[number] for number in kept] == [*"abcde", "ab", "cd", "abcd"]
    assert [tuple(pair) for pair in small["model"]["merges"]] == merges[:3]
    assert Tokenizer.from_str(json.dumps(small)).encode("abcd").tokens == old.encode("abcd").tokens == ["abcd"]
    assert Tokenizer.from_str(json.dumps(small)).encode("abc").tokens == ["ab", "c"]


def test_the_cost_of_an_unknown_character_stays() -> None:
    scored = [("<unk>", 0.0), ("a", -2.0), ("b", -3.0), ("xy", -20.0), ("zw", -20.0), ("yzw", -1.0), ("low", -90.0)]
    old = Tokenizer(models.Unigram(scored, unk_id=0))
    description = json.loads(old.to_str())
    text = "xyzw"  # without the lowest score, <unk> + yzw would cost less than xy + zw
    assert old.encode(text).tokens == ["xy", "zw"]
    kept = vocabulary.kept_pieces(description, Counter([3, 4, 5]), 1)
    small, _ = vocabulary.reindex(description, kept)
    assert Tokenizer.from_str(json.dumps(small)).encode(text).tokens == ["xy", "zw"]
    without = [number for number in kept if number != 6]
    dearer, _ = vocabulary.reindex(description, without)
    assert Tokenizer.from_str(json.dumps(dearer)).encode(text).tokens != ["xy", "zw"]


@pytest.mark.parametrize("pieces", TOKENIZERS)
@pytest.mark.parametrize("kind", ["roberta", "distilbert", "albert", "modernbert", "mobilebert"])
def test_the_stage_keeps_the_logits(tmp_path: Path, kind: str, pieces: str) -> None:
    teacher, rows, out = save_teacher(tmp_path / "teacher", kind, pieces), tmp_path / "rows", tmp_path / "out"
    rows.mkdir()
    texts = [text for text, _ in make_texts(30, 3)]
    found = [{"id": str(n), "text": text, "label": n % 2} for n, text in enumerate(texts)]
    data.write_rows(rows / "train.jsonl", found)
    out.mkdir()
    measured: dict[str, Any] = vocabulary.run(
        {"student": teacher, "data": rows}, vocabulary.PruneVocabularyConfig(), out, 0
    )
    (big, old, _), (small, new, _) = classifiers.load(teacher), classifiers.load(out)
    assert measured["pieces"] < measured["pieces_before"]
    wanted, _ = train.predict(big, train.tokenize(old, texts))
    assert torch.equal(train.predict(small, train.tokenize(new, texts))[0], wanted)
    assert layout.read(out).tokenizer == pieces and architectures.pad_of(small.config.to_dict()) == train.pad_of(small)
    again = tmp_path / "again"
    again.mkdir()
    vocabulary.run({"student": teacher, "data": rows}, vocabulary.PruneVocabularyConfig(), again, 0)
    assert digest_directory(again) == digest_directory(out)
