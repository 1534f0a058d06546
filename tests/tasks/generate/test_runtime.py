"""Folders opened to read and write with: a GGUF file gives what the folder does that it was made of."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from registry.records import ShrinkError
from tasks.generate import gguf_read, gguf_tokenizer, gguf_write, grids, lm, runtime
from tests.tasks.generate.decoders import tiny
from tests.tasks.generate.test_gguf_write import folder_of

TEXTS = ["the cat sat", "a dog\n\n12 ate the cake ", "  1999 cats' dogs'll  \n 3.14", "é\u4e2d <|im_end|>the"]


def written(tmp_path: Path, name: str = "q4_0", family: str = "llama") -> tuple[Path, Path]:
    """A tiny model's folder with all linears and the embedding on a grid, and the GGUF folder of it."""
    folder = folder_of(tiny(family), tmp_path / "lm", grids.GGUF[name])
    (tmp_path / "gguf").mkdir()
    gguf_write.write(folder, tmp_path / "gguf" / runtime.MODEL)
    return folder, tmp_path / "gguf"


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_blocks_are_read_as_the_very_numbers_that_were_rounded(tmp_path: Path, name: str) -> None:
    folder, made = written(tmp_path, name)
    known = json.loads((folder / "grids.json").read_text())
    wanted, (found, _) = lm.load(folder).state_dict(), gguf_read.model_and_tokenizer(made / runtime.MODEL)
    for weight, value in found.state_dict().items():
        if weight in known or value.ndim == 1:
            assert torch.equal(value, wanted[weight]), weight
        else:
            assert torch.equal(value, wanted[weight].half().float()), weight


def test_both_kinds_of_folder_answer_alike(tmp_path: Path) -> None:
    opened = [runtime.open_model(one, "transformers") for one in written(tmp_path)]
    for text in TEXTS:
        assert opened[0].ids(text) == opened[1].ids(text)
    ids = opened[0].ids("the cat sat on the mat")
    logits = [one.logits(ids) for one in opened]
    assert logits[0].shape == (len(ids), 64) and logits[0].dtype == np.float32
    assert np.abs(logits[0] - logits[1]).max() < 2e-2 * np.abs(logits[0]).max()  # the embedding is in half precision
    assert opened[0].context == opened[1].context == 64
    said = [{"role": "user", "content": "the cat"}]
    assert opened[0].chat(said) == opened[1].chat(said) == opened[0].ids("the cat")


def test_a_stream_is_the_likeliest_next_token_each_time_up_to_the_end_or_the_context(tmp_path: Path) -> None:
    opened = runtime.open_model(written(tmp_path)[1], "transformers")
    ids = opened.ids("the cat")
    wanted = list(ids)
    while len(wanted) < 64 and (token := int(opened.logits(wanted)[-1].argmax())) not in {0, 1}:
        wanted.append(token)
    found = list(opened.stream(ids, 1000))
    assert found == wanted[len(ids) :] and len(found) > 3
    assert list(opened.stream(ids, 2)) == found[:2]


def test_more_than_the_context_and_nothing_are_refused(tmp_path: Path) -> None:
    opened = runtime.open_model(written(tmp_path)[0], "transformers")
    with pytest.raises(ShrinkError, match=r"the prompt has 65 tokens but the model reads 64: shorten it\."):
        opened.logits([2] * 65)
    with pytest.raises(ShrinkError, match="the prompt has 65 tokens"):
        next(opened.stream([2] * 65, 1))
    with pytest.raises(ShrinkError, match="the prompt has no token"):
        opened.logits([])


@pytest.mark.parametrize("cut", gguf_tokenizer.PRETOKENIZERS)
def test_every_known_cut_comes_back_from_the_file_with_the_same_ids(tmp_path: Path, cut: str) -> None:
    folder = folder_of(tiny("llama"), tmp_path / "lm", None)
    made = Tokenizer(models.BPE(ignore_merges=cut in gguf_tokenizer.IGNORING))
    said = json.loads(made.to_str()) | {"pre_tokenizer": gguf_tokenizer.PRETOKENIZERS[cut]}
    made = Tokenizer.from_str(json.dumps(said))
    made.decoder = decoders.ByteLevel()
    if cut in gguf_tokenizer.COMPOSED:
        made.normalizer = normalizers.NFC()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([*TEXTS, "12 12 12 123456 the the"] * 9, trainer)
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token=special[0], eos_token=special[1]).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": made.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps(config))
    model = tiny("llama")
    model.resize_token_embeddings(made.get_vocab_size())
    lm.save(folder, model, folder, {}, {})
    gguf_write.write(folder, tmp_path / "model.gguf")
    _, back = gguf_read.model_and_tokenizer(tmp_path / "model.gguf")
    own = lm.load_tokenizer(folder)
    for text in TEXTS:
        assert back(text)["input_ids"] == own(text)["input_ids"], text
        assert back.decode(back(text)["input_ids"]) == text
    assert ("12" in made.get_vocab()) == (cut not in {"smollm", "qwen2"})  # the cut is not without effect


def test_files_of_other_models_are_refused(tmp_path: Path) -> None:
    import gguf

    _, folder = written(tmp_path)
    data = (folder / runtime.MODEL).read_bytes()
    (folder / runtime.MODEL).write_bytes(data[: len(data) - 100])
    with pytest.raises(ShrinkError, match="no whole GGUF file"):
        runtime.open_model(folder, "transformers")
    writer = gguf.GGUFWriter(folder / runtime.MODEL, "falcon")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ShrinkError, match="holds a 'falcon' but known are llama, qwen2, qwen3"):
        runtime.open_model(folder, "transformers")
    (folder / runtime.MODEL).write_bytes(data.replace(b"blk.2.ffn_up.weight", b"blk.2.ffn_xx.weight"))
    with pytest.raises(ShrinkError, match=r"holds no llama that can be read \(it lacks blk\.2\.ffn_up\.weight\)"):
        runtime.open_model(folder, "transformers")
    (folder / runtime.MODEL).write_bytes(data.replace(b"llama.block_count", b"llama.block_xount"))
    with pytest.raises(ShrinkError, match=r"llama\.block_count"):
        runtime.open_model(folder, "transformers")
