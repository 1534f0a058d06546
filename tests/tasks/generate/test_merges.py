"""Byte-pair vocabularies cut to what a text uses: same pieces and predictions, every text still goes there and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from registry.records import ShrinkError, digest_directory
from tasks import data
from tasks.generate import lm
from tasks.prune import merges, vocabulary
from tests.tasks.generate import decoders
from tests.tasks.generate.decoders import FAMILIES, tiny
from tests.tasks.generate.lessons import documents, folder_of

ENDS = ["<|begin|>", "<|end|>", "<|extra|>"]


def byte_pairs(folder: Path, size: int = 380) -> int:
    """A byte-level BPE learnt from words that the documents do not all have; its number of pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=ENDS, initial_alphabet=alphabet, show_progress=False)
    words = "the bank of the old river said that a new paper was in the city more than a year ago " * 9
    made.train_from_iterator([words, "unrelated quixotic zephyrs juggle fjords vexingly " * 9], trainer)
    whole = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=ENDS[0], eos_token=ENDS[1], pad_token=ENDS[1])
    whole.save_pretrained(folder)
    return int(made.get_vocab_size())


def student(folder: Path, family: str = "llama") -> Path:
    """A tiny decoder with a byte-pair vocabulary, three rows of its embedding for no piece."""
    folder_of(folder, family)
    count = byte_pairs(folder)
    model = tiny(family)
    model.resize_token_embeddings(count + 3)
    for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        torch.nn.init.normal_(weight, std=0.3)
    lm.save(folder, model, folder, {}, {})
    said = {"bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 1, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(said))
    return folder


def ran(folder: Path, family: str = "llama", **said: Any) -> tuple[dict[str, Path], dict[str, Any]]:
    at = {"student": student(folder / "student", family), "data": documents(folder / "data"), "out": folder / "out"}
    at["out"].mkdir()
    return at, merges.run(at, merges.PruneMergesConfig.model_validate(said), at["out"], 0)


def logits(folder: Path, ids: list[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = lm.load(folder)(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_whose_pieces_stay_gets_the_same_predictions(family: str, tmp_path: Path) -> None:
    at, told = ran(tmp_path, family)
    before, after = (lm.load_tokenizer(at[name]) for name in ("student", "out"))
    text = data.read_rows(at["data"], "train")[0]["text"][:60]
    was, now = (one(text, add_special_tokens=False)["input_ids"] for one in (before, after))
    assert before.convert_ids_to_tokens(was) == after.convert_ids_to_tokens(now) and was != now
    kept = [before.convert_tokens_to_ids(piece) for piece in after.convert_ids_to_tokens(list(range(told["pieces"])))]
    torch.testing.assert_close(logits(at["out"], now), logits(at["student"], was)[:, kept], rtol=1e-4, atol=1e-4)
    assert told["pieces"] < told["pieces_before"]
    config, generation = (
        json.loads((at["out"] / f"{name}.json").read_text()) for name in ("config", "generation_config")
    )
    assert config["vocab_size"] == told["pieces"]
    ends = [after.convert_tokens_to_ids(name) for name in ENDS]
    assert generation["eos_token_id"] == ends[1:] and generation["bos_token_id"] == ends[0] == after.bos_token_id
    assert told["parameters"] == sum(one.numel() for one in lm.load(at["out"]).parameters())


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, Any]]:
    return ran(tmp_path_factory.mktemp("cut"))


@pytest.fixture(scope="module")
def tokenizers(cut: tuple[dict[str, Path], dict[str, Any]]) -> tuple[Any, Any]:
    return lm.load_tokenizer(cut[0]["student"]), lm.load_tokenizer(cut[0]["out"])


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(), st.text(alphabet="the bankrivoldzq\n '")))
def test_any_text_goes_there_and_back(tokenizers: tuple[Any, Any], text: str) -> None:
    for one in tokenizers:
        ids = one(text, add_special_tokens=False)["input_ids"]
        assert one.decode(ids, clean_up_tokenization_spaces=False) == text
        assert all(0 <= number < len(one) for number in ids)


def test_bytes_and_special_tokens_stay_and_joins_are_closed(cut: tuple[dict[str, Path], dict[str, Any]]) -> None:
    from tokenizers import pre_tokenizers

    said = json.loads((cut[0]["out"] / "tokenizer.json").read_text())
    pieces = said["model"]["vocab"]
    assert set(pre_tokenizers.ByteLevel.alphabet()) | set(ENDS) <= set(pieces)
    made = {whole for left, right, whole in vocabulary.joins(said["model"]) if {left, right, whole} <= set(pieces)}
    assert len(vocabulary.joins(said["model"])) > 10
    assert {piece for piece in pieces if len(piece) > 1} - set(
        ENDS
    ) == made  # each can be reached by joins that are left
    assert sorted(pieces.values()) == list(range(len(pieces)))
    again = cut[0]["out"].with_name("again")
    again.mkdir()
    merges.run(cut[0], merges.PruneMergesConfig(), again, 0)
    assert digest_directory(again) == digest_directory(cut[0]["out"])


def test_more_pieces_are_those_that_are_joined_first(tmp_path: Path) -> None:
    at, told = ran(tmp_path, pieces=350)
    assert 350 <= told["pieces"] <= 352
    was, now = (json.loads((at[name] / "tokenizer.json").read_text())["model"]["vocab"] for name in ("student", "out"))
    assert set(list(was)[:300]) <= set(now)


def test_what_is_no_byte_pair_vocabulary_or_has_not_so_many_is_refused(tmp_path: Path) -> None:
    at = {"student": folder_of(tmp_path / "words"), "data": documents(tmp_path / "data")}
    with pytest.raises(ShrinkError, match="the tokenizer is WordLevel, which has no joins: leave prune/merges out"):
        merges.run(at, merges.PruneMergesConfig(), tmp_path, 0)
    at["student"] = student(tmp_path / "student")
    with pytest.raises(ShrinkError, match=r"pieces is 999 but the student has only \d+: give at most that"):
        merges.run(at, merges.PruneMergesConfig(pieces=999), tmp_path, 0)
    at["student"] = folder_of(tmp_path / "rounded", grid="q4_0")
    with pytest.raises(ShrinkError, match="prune/merges would undo the rounding"):
        merges.run(at, merges.PruneMergesConfig(), tmp_path, 0)


@settings(max_examples=50, deadline=None)
@given(text=st.one_of(st.text(), st.text(alphabet="the quickbrowndogz\n '")))
def test_a_vocabulary_with_byte_fallback_spells_any_text_as_before(fallback: tuple[Any, Any], text: str) -> None:
    was, now = (one.decode(one(text, add_special_tokens=False)["input_ids"]) for one in fallback)
    assert was == now


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Before and after: the text lacks most of what the tokenizer was learnt from."""
    folder = tmp_path_factory.mktemp("fallback")
    at = {"student": decoders.folder(folder / "student", pieces="BPE with byte fallback")}
    at |= {"data": documents(folder / "data"), "out": folder / "out"}
    at["out"].mkdir()
    told = merges.run(at, merges.PruneMergesConfig(), at["out"], 0)
    assert 256 < told["pieces"] < told["pieces_before"]
    return lm.load_tokenizer(at["student"]), lm.load_tokenizer(at["out"])
