"""The stage export/gguf: its folder, its bytes, and what it refuses before it writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.records import ShrinkError, digest_directory
from tasks.export import gguf
from tasks.generate import gguf_fit, gguf_read, grids, lm, runtime
from tasks.kinds import EveryStage
from tests.tasks.generate.decoders import FAMILIES, tiny
from tests.tasks.generate.test_gguf_write import folder_of


def export(source: Path, out: Path, **fields: Any) -> dict[str, Any]:
    """Run the stage as a recipe would name it."""
    config = EveryStage.validate_python({"kind": "export", "method": "gguf"} | fields)
    assert isinstance(config, gguf.GgufConfig)
    out.mkdir()
    return gguf.run({"model": source}, config, out, 0)


def test_the_folder_holds_the_file_and_says_what_it_is_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    source = folder_of(tiny("llama"), tmp_path / "lm", grids.GGUF["q4_0"])
    measured = export(source, tmp_path / "a")
    export(source, tmp_path / "b")
    assert sorted(one.name for one in (tmp_path / "a").iterdir()) == ["config.json", runtime.MODEL]
    assert digest_directory(tmp_path / "a") == digest_directory(tmp_path / "b")
    said = json.loads((tmp_path / "a" / "config.json").read_text())
    model = lm.load(source)
    linears = sum(one.numel() for name, one in model.named_parameters() if "_proj" in name)
    norms = sum(one.numel() for one in model.parameters() if one.ndim == 1)
    bits = (4.5 * linears + 16 * 64 * 32 + 32 * norms) / (linears + 64 * 32 + norms)
    assert said == {"task": "generate", "context": 64, "bits_per_weight": pytest.approx(bits, abs=1e-4)}
    assert measured == {"gguf_bytes": (tmp_path / "a" / runtime.MODEL).stat().st_size} | {
        "bits_per_weight": said["bits_per_weight"]
    }


@pytest.mark.parametrize("family", gguf_fit.FAMILIES)
def test_full_precision_comes_back_as_it_was(tmp_path: Path, family: str) -> None:
    source = folder_of(tiny(family), tmp_path / "lm", None)
    export(source, tmp_path / "g", plain="f32")
    wanted, (found, _) = lm.load(source), gguf_read.model_and_tokenizer(tmp_path / "g" / runtime.MODEL)
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():
        assert torch.equal(found(input_ids=ids).logits, wanted(input_ids=ids).logits)


def test_numbers_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = 1e5
    source = folder_of(model, tmp_path / "lm", None)
    with pytest.raises(ShrinkError, match=r"layers\.1\.mlp\.up_proj\.weight' is too large for half precision: set pl"):
        export(source, tmp_path / "a")
    export(source, tmp_path / "b", plain="f32")


@pytest.mark.parametrize("family", [one for one in FAMILIES if one not in gguf_fit.FAMILIES])
def test_families_are_refused_by_their_config_alone(tmp_path: Path, family: str) -> None:
    source = folder_of(tiny(family), tmp_path / "lm", None)
    (source / "model.safetensors").unlink()
    with pytest.raises(ShrinkError, match=r"no GGUF is written of a '\w+': known are llama, mistral"):
        gguf_fit.check(source)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type yarn"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "rope_type linear"),
        ({"sliding_window": 16}, "sliding_window 16"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    source = folder_of(tiny("llama"), tmp_path / "lm", None)
    gguf_fit.check(source)
    config = json.loads((source / "config.json").read_text()) | fields
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ShrinkError, match=f"no GGUF is written of this llama: {said} is not known there"):
        gguf_fit.check(source)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one["model"].update(type="Unigram"), "of a Unigram tokenizer"),
        (lambda one: one.update(pre_tokenizer={"type": "Whitespace"}), "its pre_tokenizer is none of gpt-2"),
        (lambda one: one.update(pre_tokenizer=None), "its pre_tokenizer is none of gpt-2"),
        (lambda one: one["model"].update(ignore_merges=True), "its pre_tokenizer is none of gpt-2"),
        (lambda one: one.update(normalizer={"type": "NFC"}), "knows no normalizer"),
        (lambda one: one["model"].update(end_of_word_suffix="</w>"), "knows no end_of_word_suffix"),
        (lambda one: one["model"].update(unk_token="<|endoftext|>"), "knows no unk_token"),
        (lambda one: one["added_tokens"][0].update(rstrip=True), r"knows no <\|endoftext\|>"),
    ],
)
def test_tokenizers_that_llama_cpp_would_not_follow_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    source = folder_of(tiny("llama"), tmp_path / "lm", None)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    change(tokenizer)
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ShrinkError, match=said):
        gguf_fit.check(source)


def test_a_window_that_a_qwen_does_not_use_is_none(tmp_path: Path) -> None:
    source = folder_of(tiny("qwen2"), tmp_path / "lm", None)
    config = json.loads((source / "config.json").read_text()) | {"sliding_window": 16, "use_sliding_window": False}
    (source / "config.json").write_text(json.dumps(config))
    gguf_fit.check(source)
    (source / "config.json").write_text(json.dumps(config | {"use_sliding_window": True}))
    with pytest.raises(ShrinkError, match="no GGUF is written of this qwen2: sliding_window 16 is not known there"):
        gguf_fit.check(source)


def test_a_gguf_source_is_asked_by_its_own_keys(tmp_path: Path) -> None:
    export(folder_of(tiny("llama"), tmp_path / "lm", None), tmp_path / "g")
    gguf_fit.check(tmp_path / "g")
    data = (tmp_path / "g" / runtime.MODEL).read_bytes()
    (tmp_path / "g" / runtime.MODEL).write_bytes(data.replace(b"gpt-2", b"gpt-4"))
    with pytest.raises(ShrinkError, match="its tokenizer gpt2/gpt-4 is none of"):
        gguf_fit.check(tmp_path / "g")


def test_names_of_blocks_are_those_of_the_grids() -> None:
    assert set(gguf_fit.BLOCKS) == set(grids.GGUF)
