"""What is refused of a recipe for a model that writes in one sentence, when it is read or before any work starts."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from flows import fields, recipe, steps
from flows.preflight import preflight
from registry.records import ShrinkError
from tasks import extras
from tasks.export import gguf
from tests.tasks.generate import decoders

ADOPT, EXPORT = {"kind": "adopt", "method": "decoder"}, {"kind": "export", "method": "gguf"}
TOP_K, TOKENS = {"kind": "label", "method": "top_k"}, {"kind": "distill", "method": "tokens"}
OWN, ROUNDED = TOP_K | {"model": "student"}, {"kind": "distill", "method": "rounded"}
RTN, GPTQ = ({"kind": "quantize", "method": method, "grid": "q4_0"} for method in ("rtn", "gptq"))
DEPTH, MERGES = {"kind": "prune", "method": "depth", "keep": 2}, {"kind": "prune", "method": "merges"}
WIDTH, GROUPED = {"kind": "prune", "method": "width"}, {"kind": "prune", "method": "grouped"}
SPARSE, CORRECT = {"kind": "prune", "method": "sparse"}, {"kind": "correct"}
W8A8 = {"kind": "quantize", "method": "w8a8"}
OF_W8A8 = {"kind": "export", "method": "compressed_tensors", "model": "w8a8"}
SHORT = {"calibration_blocks": 4, "calibration_length": 16}
LLAMA = {"kind": "quantize", "method": "llama_cpp", "type": "Q4_0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    decoders.folder(made / "teacher")
    words = " ".join(decoders.LEARNT)
    lines = [json.dumps({"text": f"{words[at:]} {words[:at]} {at}."}) for at in range(40)]
    (made / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return made


def read(*stages: dict[str, Any], **changes: Any) -> recipe.Recipe:
    content = {
        "name": "tiny",
        "task": "generate",
        "teacher": {"uri": "dir:x"},
        "data_source": {"uri": "dir:x"},
        "data": {"file": "texts.jsonl", "max_length": 48},
        "stages": [ADOPT, *stages, EXPORT],
    }
    return recipe.parse(content | changes, "tiny.yaml")


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([RTN, DEPTH], r"stage 3 \(prune/depth\) would undo what stage 2 \(quantize/rtn\) has rounded; put it before"),
        ([RTN, SPARSE], r"stage 3 \(prune/sparse\) would undo what stage 2 \(quantize/rtn\) has rounded"),
        ([TOP_K, GPTQ, TOKENS], r"stage 4 \(distill/tokens\) would undo what stage 3 \(quantize/gptq\) has rounded"),
        ([TOP_K, ROUNDED], r"stage 3 \(distill/rounded\) teaches rounded weights, which no stage made yet; put it be"),
        ([RTN, GPTQ], r"stage 3 \(quantize/gptq\) rounds anew what stage 2 \(quantize/rtn\) has rounded; leave one"),
        (
            [DEPTH, CORRECT],
            r"stage 3 \(correct\) makes the teacher anew and would discard what stage 2 \(prune/depth\)",
        ),
        ([RTN, CORRECT], r"stage 3 \(correct\) makes the teacher anew and would discard what stage 2 \(quantize/rtn\)"),
        ([LLAMA], r"stage 3 \(export/gguf\) needs student as lm, but it is gguf there; move the stage or add the one"),
        ([TOP_K, MERGES, ROUNDED], r"stage 4 \(distill/rounded\)"),
        ([OWN, MERGES, TOKENS], r"stage 4 \(distill/tokens\) learns from the teacher's pieces, which stage 3 \(prune/"),
    ],
)
def test_orders_that_cannot_work_are_refused_when_a_recipe_is_read(stages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ShrinkError, match=f"^recipe 'tiny': {said}"):
        read(*stages)


def test_a_stage_that_lacks_is_named_by_what_would_make_it() -> None:
    with pytest.raises(ShrinkError, match=r"needs labels as top_k, .* makes it, \{kind: label, method: top_k\}\.$"):
        read(TOKENS)
    with pytest.raises(ShrinkError, match=r"needs student as lm, .* makes it, \{kind: adopt, method: decoder\}\.$"):
        read(stages=[DEPTH, EXPORT])


@pytest.mark.parametrize(
    "stages",
    [
        [CORRECT, TOP_K, DEPTH, TOKENS, GPTQ, ROUNDED],
        [MERGES, OWN, DEPTH, TOKENS, RTN],  # answers in the new numbers
        [WIDTH | {"ffn": 32}, SPARSE, RTN],
        [W8A8, RTN | {"grid": "q4_1"}, OF_W8A8],  # beside the student, which is rounded otherwise
        [TOP_K, DEPTH, TOKENS, W8A8, OF_W8A8],
    ],
)
def test_orders_that_work_are_read(stages: list[dict[str, Any]]) -> None:
    assert len(read(*stages).stages) == len(stages) + 2


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([GROUPED | {"kv_heads": 3}], "kv_heads is 3, which does not divide the model's 2: give one of 1, 2."),
        ([WIDTH | {"groups": 3}], "groups is 3 but the model has 2 groups of heads: give at most that."),
        ([WIDTH | {"ffn": 65}], "ffn is 65 but the model has 64 neurons: give at most that."),
        ([WIDTH | {"hidden": 33}], "hidden is 33 but the model has 32 features: give at most that."),
        (
            [WIDTH | {"ffn": 40}, RTN],
            "grid q4_0 has groups of 32, which do not divide 40 inputs: leave such layers in half precision with "
            "`exceptions: {down_proj: none}`.",
        ),
        (
            [WIDTH | {"hidden": 16}, RTN],
            "grid q4_0 has groups of 32, which do not divide 16 inputs: choose groups of 16, or leave such layers in",
        ),
        (
            [WIDTH | {"groups": 1}, RTN],
            "grid q4_0 has groups of 32, which do not divide 16 inputs: choose groups of 16, or leave such layers in",
        ),
        ([SPARSE | {"pattern": "3:7"}], "pattern 3:7 has groups of 7, which do not divide 32 inputs: choose groups of"),
        ([DEPTH | {"keep": 4}], "keep is 4 but the model has 3 layers: give at most that."),
        ([DEPTH, DEPTH | {"keep": 3}], "keep is 3 but the model has 2 layers: give at most that."),
        (
            [DEPTH | {"keep": None, "layers": [0, 3]}],
            r"layers is \[0, 3\] but the model has 0 to 2: name some of these.",
        ),
        ([CORRECT | {"layers": [3]}], r"layers is \[3\] but the model has 0 to 2: name some of these."),
        ([CORRECT | {"length": 600}], "length is 600 tokens but the model reads 512: lower it."),
        ([GPTQ | {"calibration_length": 600}], "calibration_length is 600 tokens but the model reads 512: lower it."),
        ([TOP_K | {"k": 300}], "k is 300 but the model has 288 pieces: give at most that."),
        ([MERGES | {"pieces": 300}], "pieces is 300 but the model has 288 pieces: give at most that."),
        (
            [RTN | {"exceptions": {"up": "q8_0"}}],
            "exceptions names 'up', which no layer is called: there are model.lay",
        ),
        ([DEPTH, RTN | {"exceptions": {"layers.2.*": "q8_0"}}], r"exceptions names 'layers.2.\*', which no layer is"),
        (
            [{**RTN, "grid": None, "target": 4.5}],
            r"target is 4.5 but the smallest grids take 4.67 bits a weight: raise",
        ),
        ([W8A8 | {"calibration_length": 600}], "calibration_length is 600 tokens but the model reads 512: lower it."),
        ([W8A8], "calibration_blocks is 32 of 256 tokens but the training text has [0-9]+ bytes: lower it, or give"),
        ([GPTQ], "calibration_blocks is 32 of 256 tokens but the training text has [0-9]+ bytes: lower it, or give"),
    ],
)
def test_what_a_model_has_not_is_refused_before_any_work(folder: Path, stages: list[dict[str, Any]], said: str) -> None:
    one = read(*stages)
    with pytest.raises(ShrinkError, match=rf"^stage \d+ \([a-z0-9_/]+\): {said}"):
        preflight(one, folder / "teacher", folder)


@pytest.mark.parametrize(
    "stages",
    [
        [RTN | {"embedding": "none", "exceptions": {"layers.0.*": "none", "down_proj": "q8_0"}}],
        [WIDTH | {"ffn": 40}, RTN | {"exceptions": {"down_proj": "none"}}],
        [DEPTH, WIDTH | {"ffn": 32}, GROUPED | {"kv_heads": 1}, GPTQ | SHORT],
        [{**GPTQ, "grid": None, "target": 4.7} | SHORT],
    ],
)
def test_what_fits_passes(folder: Path, stages: list[dict[str, Any]]) -> None:
    preflight(read(*stages), folder / "teacher", folder)


def test_a_tokenizer_that_does_not_fit_its_model_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    teacher = shutil.copytree(folder / "teacher", tmp_path / "teacher")
    names = teacher / "tokenizer_config.json"
    said = json.loads(names.read_text())
    names.write_text(json.dumps(said | {"bos_token": None}))
    preflight(read(), teacher, folder)  # a text begins with the end token
    names.write_text(json.dumps(said | {"bos_token": None, "eos_token": None}))
    with pytest.raises(ShrinkError, match=r"names neither bos_token nor eos_token: name one in tokenizer_config\.json"):
        preflight(read(), teacher, folder)
    names.write_text(json.dumps(said | {"bos_token": "<none>"}))
    with pytest.raises(
        ShrinkError, match=r"^bos_token is '<none>' in tokenizer_config\.json, but tokenizer\.json has no"
    ):
        preflight(read(), teacher, folder)
    names.write_text(json.dumps(said))
    pieces = teacher / "tokenizer.json"
    more = json.loads(pieces.read_text())
    more["added_tokens"][-1]["id"] = 300  # as many pieces as before, with a gap
    pieces.write_text(json.dumps(more))
    with pytest.raises(
        ShrinkError, match=r"tokenizer\.json has 301 pieces but config\.json has vocab_size = 288: use a"
    ):
        preflight(read(), teacher, folder)


def test_an_answer_that_fills_the_context_is_refused_before_any_work(folder: Path) -> None:
    long = read(evaluate={"answer": 512})
    with pytest.raises(
        ShrinkError, match=r"^evaluate\.answer is 512 tokens but the teacher reads 512, the prompt amon"
    ):
        preflight(long, folder / "teacher", folder)


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> Path:
    """The folder of the teacher as a GGUF file alone."""
    (tmp_path / "gguf").mkdir()
    gguf.run({"model": folder / "teacher"}, gguf.GgufConfig(), tmp_path / "gguf", 0)
    (tmp_path / "gguf" / "config.json").unlink()
    preflight(read(RTN), tmp_path / "gguf", folder)
    return tmp_path / "gguf" / "model.gguf"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("block_count", 10**9, r"must have blk\.999999999\.ffn_down\.weight in the size \[64, 32\] by what is said"),
        ("feed_forward_length", 10**9, r"blk\.2\.ffn_down\.weight in the size \[1000000000, 32\] .* has \[64, 32\]"),
        ("embedding_length", 10**9, r"token_embd\.weight in the size \[1000000000, 288\]"),
        ("attention.head_count", 10**9, r"blk\.2\.attn_output\.weight in the size \[8000000000, 32\]"),
        ("context_length", 0, "says 0 for context_length: it is no language model that is known"),
    ],
)
def test_a_file_that_says_other_sizes_than_it_has_is_refused_before_any_work(
    folder: Path, file: Path, key: str, value: int, said: str
) -> None:
    data, name = bytearray(file.read_bytes()), f"llama.{key}".encode()
    struct.pack_into("<I", data, data.index(name) + len(name) + 4, value)
    file.write_bytes(data)
    with pytest.raises(ShrinkError, match=said):
        preflight(read(RTN), file.parent, folder)


def test_files_that_are_cut_off_are_refused_before_any_work(folder: Path, file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(ShrinkError, match=r"'model\.gguf' is no whole GGUF file: tensor .* does not fit into its"):
        preflight(read(RTN), file.parent, folder)
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    weights = tmp_path / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4000])
    with pytest.raises(ShrinkError, match=r"model\.safetensors"):
        preflight(read(RTN), tmp_path / "teacher", folder)


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 10**9), ("intermediate_size", 10**9)])
def test_a_folder_that_says_other_sizes_than_it_has_is_refused_before_any_work(
    folder: Path, tmp_path: Path, key: str, value: int
) -> None:
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    config = tmp_path / "teacher" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(ShrinkError, match=r"'model\.safetensors' must have model\.layers\..*: use a matching pair\."):
        preflight(read(RTN), tmp_path / "teacher", folder)


@pytest.mark.parametrize("family", decoders.FAMILIES)
def test_the_sizes_of_every_family_are_known_and_what_its_stages_do_not_take_is_refused(
    folder: Path, tmp_path: Path, family: str
) -> None:
    decoders.folder(tmp_path / "teacher", family)
    with pytest.raises(ShrinkError, match=r"^stage 2 \(prune/width\): ffn is 129 but the model has (64|128) neurons"):
        preflight(read(WIDTH | {"ffn": 129}), tmp_path / "teacher", folder)
    if family not in {"llama", "mistral", "qwen2", "qwen3"}:
        with pytest.raises(ShrinkError, match=r"^stage 2 \(export/gguf\): no GGUF is written of a '.*': known are lla"):
            preflight(read(), tmp_path / "teacher", folder)


def test_more_bits_than_the_gate_lets_pass_are_refused_before_any_work(folder: Path) -> None:
    stages = [ADOPT, RTN | {"grid": "q8_0"}, EXPORT]
    said = r"^stage 2 \(quantize/rtn\) leaves about \d+\.\d\d bits a weight but gate\.bits_per_weight_max is 8, which"
    with pytest.raises(ShrinkError, match=said):
        preflight(read(stages=stages, gate={"bits_per_weight_max": 8.0}), folder / "teacher", folder)
    preflight(read(stages=stages, gate={"bits_per_weight_max": 12.0}), folder / "teacher", folder)


def served(*stages: dict[str, Any], **changes: Any) -> recipe.Recipe:
    """A recipe that ends with what llama.cpp's quantizer makes."""
    return read(stages=[ADOPT, *stages], **changes)


def test_llama_cpps_quantizer_ends_a_recipe_and_is_compared_with_what_it_was_made_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: True)
    for between, source in ((DEPTH, "lm"), (EXPORT, "gguf")):
        one = served(between, LLAMA | SHORT, evaluate={"runtime": "llama_cpp"})
        preflight(one, folder / "teacher", folder)
        made = steps.steps_of(one)
        quantized = next(step for step in made.steps if step.config.kind == "quantize")
        assert made.judged["student"] == quantized.name
        compared = [step.config for step in made.steps if step.inputs.get("export") == quantized.name]
        assert [getattr(config, "export", None) for config in compared] == ["gguf", "llama_cpp"]
        assert [getattr(config, "source", None) for config in compared] == [source] * 2
        assert not any(getattr(config, "exact", True) for config in compared), (
            "what rounding costs is told, not refused"
        )


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([RTN, LLAMA], r"recipe 'tiny': stage 3 \(quantize/llama_cpp\) rounds anew what stage 2 \(quantize/rtn\) has"),
        ([LLAMA, LLAMA], r"recipe 'tiny': stage 3 \(quantize/llama_cpp\) rounds anew what stage 2 \(quantize/llama_cp"),
        ([RTN, EXPORT, LLAMA], r"recipe 'tiny': stage 4 \(quantize/llama_cpp\) rounds anew what stage 2 \(quantize/rt"),
        ([LLAMA, CORRECT, EXPORT], r"recipe 'tiny': stage 3 \(correct\) makes the teacher anew and would discard what"),
        ([LLAMA | {"type": "Q9_K"}], r"type' = 'Q9_K'; did you mean 'Q\d_K'\?"),
        ([LLAMA | {"type": "tiny"}], r"type' = 'tiny'; it may be: Q2_K, Q3_K_M, IQ4_XS, IQ4_NL, Q4_0, Q4_K_S, Q4_K_M"),
        (
            [LLAMA | {"type": "Q4_K_M"}],
            r"^stage 2 \(quantize/llama_cpp\): type Q4_K_M has blocks of 256, which divide ",
        ),
        ([WIDTH | {"ffn": 40}, LLAMA], r"^stage 3 \(quantize/llama_cpp\): type Q4_0 has blocks of 32 at least, which "),
        ([LLAMA], r"^stage 2 \(quantize/llama_cpp\): calibration_blocks is 32 of 256 tokens but the training text has"),
    ],
)
def test_what_llama_cpps_quantizer_cannot_make_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stages: list[dict[str, Any]], said: str
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: True)
    with pytest.raises(ShrinkError, match=said):
        preflight(served(*stages), folder / "teacher", folder)


def test_a_quantizer_that_is_not_installed_is_refused_with_its_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    one = served(LLAMA | {"importance": False})  # which reads no text
    with pytest.raises(
        ShrinkError,
        match=r"^stage 2 \(quantize/llama_cpp\): llama_cpp is not installed: `pip install 'shrinking-frontier\[llama-",
    ):
        preflight(one, folder / "teacher", folder)
    monkeypatch.setattr(extras, "find_spec", lambda name: True)
    preflight(one, folder / "teacher", folder)


@pytest.mark.parametrize("method", ["packed", "compressed_tensors"])
def test_an_export_that_stands_beside_says_what_is_served_and_where_it_lies(method: str) -> None:
    about = fields.describe(f"export/{method}")[0]["about"]
    assert "beside what is served and judged, which is the recipe's other export" in about and ".shrink/runs" in about
