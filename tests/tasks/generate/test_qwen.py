"""Qwen2 and Qwen3 as GGUF: biases, norms of queries and keys, rows in their own order, and the tokenizer's ids."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from registry.records import ShrinkError
from tasks.export import gguf
from tasks.generate import adopt, gguf_fit, gguf_tokenizer, grids, header, lm, runtime
from tasks.kinds import EveryStage, function_of
from tests.tasks.generate.decoders import tiny

RUNTIMES: tuple[runtime.Runtime, ...] = (
    ("transformers", "llama_cpp") if find_spec("llama_cpp") else ("transformers",)  # the second is an extra
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "It's 12,345 o'clock; WE'LL see\r\n\r\n\tthe  end…",
    "e\u0301te\u0301 naïve Å \u1100\u1161\u11a8",  # composed first
    "日本語のテキスト 한국어 русский ١٢٣ ½",
    "no special <think>one< |think|>",
    "   leading,   many    blanks \n \n ",
    "🙂🏽‍♀️ def f(x):\n    return x**2  # ok",
    "'S 'RE don'T",
    "\u00a0\u200b\ufeff",
]
TEMPLATE = "{% for one in messages %}<|im_start|>{{ one['role'] }}\n{{ one['content'] }}<|im_end|>\n{% endfor %}"


def tokenizer(folder: Path) -> int:
    """A small tokenizer that cuts as Qwen's does; how many pieces it has."""
    made = Tokenizer(models.BPE())
    made.normalizer, made.decoder = normalizers.NFC(), decoders.ByteLevel()
    said = json.loads(made.to_str()) | {"pre_tokenizer": gguf_tokenizer.PRETOKENIZERS["qwen2"]}
    made = Tokenizer.from_str(json.dumps(said))
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    fast.add_tokens(["<think>"])  # not special, taken whole
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


def folder_of(folder: Path, family: str, **sizes: Any) -> Path:
    """A tiny Qwen whose biases and norms are not those that a fresh one has, with rows behind its pieces."""
    folder.mkdir(parents=True)
    model = tiny(family, vocab_size=tokenizer(folder) + 5, max_position_embeddings=512, **sizes)
    generator = torch.Generator().manual_seed(7)
    for value in model.parameters():
        if value.ndim == 1:
            value.data += 0.3 * torch.randn(value.shape, generator=generator)
        else:
            value.data *= 0.5
    lm.save(folder, model, folder, {}, {})
    return folder


def exported(folder: Path, out: Path, plain: str = "f32") -> Path:
    """The GGUF folder of a folder."""
    out.mkdir()
    gguf.run({"model": folder}, gguf.GgufConfig.model_validate({"plain": plain}), out, 0)
    return out


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
        ("qwen3", {"head_dim": 16}),  # heads wider than their share
        ("qwen3", {"tie_word_embeddings": False}),
    ],
)
def test_a_file_says_what_its_folder_says_in_both_runtimes(tmp_path: Path, family: str, sizes: dict[str, Any]) -> None:
    folder = folder_of(tmp_path / "lm", family, **sizes)
    made = exported(folder, tmp_path / "gguf")
    whole = runtime.open_model(folder, "transformers")
    assert gguf_fit.weights_by_block(made / runtime.MODEL).keys() == {"F32"}
    names = header.look(tmp_path / "gguf")
    assert names.family == family and names.parameters == header.look(folder).parameters
    for by in RUNTIMES:
        opened = runtime.open_model(made, by)
        for text in TEXTS:
            assert opened.ids(text) == whole.ids(text), (by, text)
        messages = [{"role": "user", "content": text} for text in TEXTS]
        assert opened.chat(messages) == whole.chat(messages)
        ids = whole.chat(messages)
        near = 0.0 if by == "transformers" else 2e-2  # llama.cpp's keys and values are in half precision
        assert np.abs(opened.logits(ids) - whole.logits(ids)).max() <= near * np.abs(whole.logits(ids)).max()


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_file_is_taken_up_as_its_folder_was(tmp_path: Path, family: str) -> None:
    folder = folder_of(tmp_path / "lm", family)
    adopt.take(exported(folder, tmp_path / "gguf"), tmp_path / "taken")
    wanted, found = lm.load(folder).state_dict(), lm.load(tmp_path / "taken").state_dict()
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], one) for name, one in wanted.items())
    own, back = lm.load_tokenizer(folder), lm.load_tokenizer(tmp_path / "taken")
    for text in TEXTS:
        assert back(text, add_special_tokens=False) == own(text, add_special_tokens=False), text
    gguf_fit.check(tmp_path / "taken")  # and can be written again


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_rounded_ones_keep_their_integers(tmp_path: Path, family: str) -> None:
    folder = folder_of(tmp_path / "lm", family)
    config = EveryStage.validate_python({"kind": "quantize", "method": "rtn", "grid": "q4_0"})
    (tmp_path / "rounded").mkdir()
    function_of(config)({"student": folder, "data": tmp_path}, config, tmp_path / "rounded", 0)
    made = exported(tmp_path / "rounded", tmp_path / "gguf")
    integers, known = lm.integers(tmp_path / "rounded")
    assert {one.name for one in known.values()} == {"q4_0", "q8_0"} and grids.GGUF["q4_0"] in known.values()
    back, _ = runtime.loaded(made)
    for name, one in integers.items():
        assert torch.equal(back.get_parameter(name), one.value()), name


def test_a_tokenizer_that_does_not_compose_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "lm", "qwen2")
    said = json.loads((folder / "tokenizer.json").read_text())
    for other in (None, {"type": "NFKC"}):
        (folder / "tokenizer.json").write_text(json.dumps(said | {"normalizer": other}))
        with pytest.raises(ShrinkError, match=r"llama\.cpp knows no other normalizer than NFC with qwen2; choose"):
            gguf_fit.check(folder)
