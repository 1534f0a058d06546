"""Decoders that cannot be are refused by their headers: shapes, layers, pieces, heads, angles, kinds of numbers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.records import ShrinkError
from tasks.export import gguf
from tasks.generate import gguf_check, header, lm, shapes
from tests.tasks.generate import decoders

Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize("family", decoders.FAMILIES)
def test_every_weight_of_every_family_is_known_by_name_and_shape(tmp_path: Path, family: str) -> None:
    folder = decoders.folder(tmp_path, family)
    config = json.loads((folder / "config.json").read_text())
    model = lm.load(folder)
    own = {name: tuple(value.shape) for name, value in lm.own_weights(model).items()}
    wanted = shapes.wanted(header.of_folder(folder), config)
    assert wanted.items() <= own.items()
    left = set(own) - set(wanted)
    assert left <= {"transformer.wpe.weight", "model.decoder.embed_positions.weight", "lm_head.bias"}


def test_a_llamas_biases_and_head_are_known(tmp_path: Path) -> None:
    folder = decoders.folder(tmp_path)
    sizes = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False, "vocab_size": 288}
    model = decoders.tiny("llama", **sizes)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    own = {name: tuple(value.shape) for name, value in lm.own_weights(model).items()}
    assert shapes.wanted(header.of_folder(folder), config) == own


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = decoders.folder(tmp_path_factory.mktemp("possible") / "llama")
    header.look(folder)
    return folder


def told(**changes: Any) -> Callable[[Path], None]:
    """Change what config.json says."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def held(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    """Change what model.safetensors holds."""

    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return changed


def longer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    said = json.loads(file.read_text())
    said["model"]["vocab"]["one too many"] = 288
    file.write_text(json.dumps(said))


DOWN, NORM = "model.layers.1.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing layer": (
        held(lambda one: [one.pop(name) for name in list(one) if ".layers.1." in name]),
        r"must have model\.layers\.1\.mlp\.gate_proj\.weight in the size \[64, 32\].* it has no such weight",
    ),
    "missing norm": (held(lambda one: one.pop(NORM)), rf"must have {NORM} in the size \[32\].* it has no such weight"),
    "missing end": (
        held(lambda one: one.pop("model.norm.weight")),
        r"must have model\.norm\.weight in the size \[32\]",
    ),
    "other size": (
        held(lambda one: one.update({QUERY: torch.zeros(16, 32)})),
        r"q_proj\.weight in the size \[32, 32\].*16",
    ),
    "turned": (
        held(lambda one: one.update({DOWN: one[DOWN].T.contiguous()})),
        r"down_proj\.weight in .*\[32, 64\].*64, 32",
    ),
    "integers": (
        held(lambda one: one.update({DOWN: one[DOWN].to(torch.int8)})),
        rf"holds {DOWN} as I8: save the model as",
    ),
    "more layers": (
        told(num_hidden_layers=2),
        r"num_hidden_layers = 2 but model\.safetensors has 3: use a matching pair",
    ),
    "fewer layers": (told(num_hidden_layers=4), r"must have model\.layers\.3\.mlp\.down_proj\.weight"),
    "no head": (told(tie_word_embeddings=False), r"must have lm_head\.weight in the size \[288, 32\]"),
    "heads": (
        told(num_key_value_heads=3),
        r"num_attention_heads = 4, which its num_key_value_heads = 3 does not divide",
    ),
    "width": (
        told(num_attention_heads=5, num_key_value_heads=5, head_dim=None),
        r"hidden_size = 32, which its num_att",
    ),
    "angles": (
        told(rope_parameters={"rope_type": "default", "rope_theta": 0}),
        r"rope_theta = 0 but needs a number above",
    ),
    "old angles": (told(rope_theta=-1.0), r"rope_theta = -1\.0 but needs a number above 0: give a decoder's own"),
    "pieces": (longer, r"tokenizer\.json has 289 pieces but config\.json has vocab_size = 288: use a matching pair"),
    "gptq": (
        told(quantization_config={"quant_method": "gptq"}),
        r"already quantized by gptq; give the one that it was m",
    ),
    "awq": (told(quantization_config={"quant_method": "awq"}), r"the model is already quantized by awq; give the one"),
    "encoder": (
        told(model_type="bert"),
        r"model_type is 'bert', which has an encoder, and task generate takes a decoder",
    ),
    "two halves": (told(model_type="t5", is_encoder_decoder=True), r"model_type is 't5', which has an encoder"),
    "tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("[]"),
        r"tokenizer\.json in the model folder is no",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_impossible_folder_is_one_sentence(teacher: Path, tmp_path: Path, case: str) -> None:
    spoil, said = BAD[case]
    shutil.copytree(teacher, tmp_path / "m")
    spoil(tmp_path / "m")
    with pytest.raises(ShrinkError, match=said) as caught:
        header.look(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_a_gguf_file_has_every_weight_and_possible_heads_and_angles(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf.run({"model": teacher}, gguf.GgufConfig(), tmp_path, 0)
    seen = gguf_check.check(tmp_path / "model.gguf")
    decoder = header.of_gguf(tmp_path / "model.gguf")
    assert shapes.of_gguf(decoder) == seen.tensors
    lacking = {name: shape for name, shape in seen.tensors.items() if name != "blk.0.ffn_up.weight"}
    for changed, said in (
        (seen._replace(tensors=lacking), r"must have blk\.0\.ffn_up\.weight in the size \[32, 64\]"),
        (seen._replace(keys=seen.keys | {"llama.rope.freq_base": 0.0}), r"llama\.rope\.freq_base = 0\.0 but needs"),
        (seen._replace(keys=seen.keys | {"llama.attention.head_count_kv": 3}), r"head_count_kv = 3 does not divide"),
        (seen._replace(keys=seen.keys | {"general.architecture": "nomic-bert"}), r"holds a 'nomic-bert', which has an"),
    ):
        monkeypatch.setattr(gguf_check, "check", lambda path, changed=changed: changed)
        with pytest.raises(ShrinkError, match=said):
            header.of_gguf(tmp_path / "model.gguf")
