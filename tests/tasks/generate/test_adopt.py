"""Decoders taken up from a GGUF file and from a folder: the same logits, sizes read without loading."""

import json
from pathlib import Path

import pytest
import torch

from registry.records import ShrinkError, digest_directory
from tasks.generate import adopt, gguf_write, header, lm
from tests.tasks.generate import decoders
from tests.tasks.generate.decoders import tiny
from tests.tasks.generate.test_gguf_write import folder_of

IDS = torch.tensor([[3, 9, 27, 17, 5]])


def taken(source: Path, out: Path, layers: int | None = None) -> Path:
    """What the stage leaves of a source."""
    out.mkdir(parents=True)
    adopt.run({"teacher": source}, adopt.AdoptDecoderConfig(keep_layers=layers), out, 0)
    return out


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A folder that holds one GGUF file of a tiny decoder; its own folder lies beside as `m`."""
    folder_of(tiny("llama"), tmp_path / "m", None)
    (tmp_path / "g").mkdir()
    gguf_write.write(tmp_path / "m", tmp_path / "g" / "tiny.gguf")
    return tmp_path / "g"


def test_a_gguf_file_gives_its_model_and_the_same_bytes_each_time(file: Path, tmp_path: Path) -> None:
    first, second = taken(file, tmp_path / "one"), taken(file, tmp_path / "two")
    assert digest_directory(first) == digest_directory(second)
    logits = lm.load(first)(input_ids=IDS).logits
    torch.testing.assert_close(logits, lm.load(tmp_path / "m")(input_ids=IDS).logits, rtol=1e-2, atol=1e-2)
    tokenizer = lm.load_tokenizer(first)
    assert tokenizer.eos_token_id == 1 and tokenizer.bos_token_id == 0
    assert str(tmp_path) not in (first / "tokenizer_config.json").read_text() + (first / "config.json").read_text()


def test_a_folder_of_transformers_is_taken_as_it_is_and_cut(tmp_path: Path) -> None:
    folder = folder_of(tiny("qwen2"), tmp_path / "m", None)
    whole = lm.load(taken(folder, tmp_path / "whole"))
    torch.testing.assert_close(whole(input_ids=IDS).logits, lm.load(folder)(input_ids=IDS).logits)
    cut = lm.load(taken(folder, tmp_path / "cut", 2))
    assert cut.config.num_hidden_layers == 2 and len(cut.model.layers) == 2


def test_sizes_are_read_without_loading(file: Path, tmp_path: Path) -> None:
    model = lm.load(tmp_path / "m")
    for source in (file, tmp_path / "m"):
        seen = header.look(source)
        assert seen.parameters == sum(one.numel() for one in model.parameters())
        assert (seen.layers, seen.context, seen.pieces, seen.tables) == (3, 64, 64, 64 * 32)


def test_what_is_no_teacher_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShrinkError, match=r"neither a GGUF file nor config\.json"):
        adopt.gguf_of(tmp_path / "empty")
    (file / "other.gguf").write_bytes((file / "tiny.gguf").read_bytes()[:-100])
    with pytest.raises(ShrinkError, match="has 2 GGUF files"):
        adopt.gguf_of(file)
    (file / "tiny.gguf").unlink()
    with pytest.raises(ShrinkError, match="is no whole GGUF file"):
        header.look(file)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    folder = folder_of(model, tmp_path / "m", None)
    with pytest.raises(ShrinkError, match=r"weight model\.layers\.1\.mlp\.up_proj\.weight is not finite"):
        taken(folder, tmp_path / "out")


def test_a_class_that_reads_other_tokens_than_the_tokenizer_file_is_refused(tmp_path: Path) -> None:
    decoders.folder(tmp_path / "m")
    taken(tmp_path / "m", tmp_path / "fits")
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(ShrinkError, match=r"^tokenizer_class is Llama\w+, with which transformers reads other tokens"):
        taken(tmp_path / "m", tmp_path / "other")
