"""A model's folder as GGUF, read back by transformers: the same logits, the same tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from registry.records import ShrinkError, digest_directory
from tasks.generate import gguf_check, gguf_write, grids, lm, walk
from tests.tasks.generate.decoders import tiny

TEXTS = ["the cat sat on the mat", "a dog ate the cake", "cats and dogs", "on and on it goes"]


def tokenizer(folder: Path, size: int = 64) -> None:
    """A small byte-level BPE, trained on a few words."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_end|>"]
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=size, special_tokens=special))
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=special[0], eos_token=special[1])
    fast.chat_template = "{% for one in messages %}{{ one['content'] }}{% endfor %}"
    fast.save_pretrained(folder)


def folder_of(model: Any, folder: Path, grid: grids.Grid | None) -> Path:
    """A model's folder, all linears on a grid."""
    folder.mkdir(parents=True)
    tokenizer(folder)
    rounded, chosen = {}, {}
    names = {id(one): name for name, one in model.named_modules()}
    for layer in walk.layers_of(model):
        for linear in walk.linears_of(layer).values() if grid else ():
            assert grid is not None
            name = f"{names[id(linear)]}.weight"
            rounded[name], chosen[name] = grids.nearest(walk.weight_of(linear), grid), grid
            walk.put(linear, rounded[name].value())
    lm.save(folder, model, folder, rounded, chosen)
    return folder


@pytest.mark.parametrize("name", [None, "q4_0", "q4_1", "q5_0", "q8_0"])
def test_transformers_reads_the_file_back_to_the_same_logits(tmp_path: Path, name: str | None) -> None:
    model = tiny("llama")
    folder = folder_of(model, tmp_path / "m", grids.GGUF[name] if name else None)
    (tmp_path / "g").mkdir()
    gguf_write.write(folder, tmp_path / "g" / "model.gguf")
    gguf_check.check(tmp_path / "g" / "model.gguf")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "g", gguf_file="model.gguf", dtype=torch.float32).eval()
    ids = torch.arange(2, 22)[None]
    with torch.no_grad():
        wanted, found = lm.load(folder)(input_ids=ids).logits, back(input_ids=ids).logits
    assert torch.allclose(wanted, found, atol=2e-2 * float(wanted.abs().max()))  # the embedding is in half precision
    assert torch.equal(wanted.argmax(-1), found.argmax(-1))
    read = AutoTokenizer.from_pretrained(tmp_path / "g", gguf_file="model.gguf")
    assert read(TEXTS)["input_ids"] == lm.load_tokenizer(folder)(TEXTS)["input_ids"]


def test_a_folder_is_read_back_as_it_was_and_always_the_same_bytes(tmp_path: Path) -> None:
    for number in range(2):
        model = tiny("llama")
        folder_of(model, tmp_path / str(number), grids.integer(4, 32, False))
    again = lm.load(tmp_path / "0")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert digest_directory(tmp_path / "0") == digest_directory(tmp_path / "1")
    assert again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()


def test_integers_that_gguf_has_no_blocks_of_are_written_as_what_they_mean(tmp_path: Path) -> None:
    model = tiny("llama")
    folder = folder_of(model, tmp_path / "a", grids.integer(4, 32, False))
    gguf_write.write(folder, tmp_path / "a.gguf", "f32")
    found = gguf_write.read(tmp_path / "a.gguf")
    down = lm.load(folder).state_dict()["model.layers.0.mlp.down_proj.weight"].numpy()
    assert np.array_equal(found["blk.0.ffn_down.weight"], down) and len(np.unique(down[0, :32])) <= 16


def test_what_gguf_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match=r"no GGUF is written of a 'gpt2': known are llama, mistral"):
        gguf_write.write(folder_of(tiny("gpt2"), tmp_path / "b", None), tmp_path / "b.gguf")
