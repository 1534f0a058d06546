"""MatMulNBits: what ONNX Runtime reads back in a clean process answers as the integers mean, with a cache too."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import AutoModelForCausalLM

from benchmarks import readers
from flows import steps
from flows.recipe import Recipe
from registry.records import ShrinkError
from tasks import answers, compare
from tasks.export.matmul_nbits import MatmulNbitsConfig, run
from tasks.generate import choices, grids, lm, nbits, nbits_fit, onnx_reader, runtime
from tests.tasks.generate import decoders, folders

TEXTS = ["the quick brown fox", "jumps over the lazy dog and the evil queen"]
EVERY = (
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "int2_g16",
    "int3_g32_zero",
    "int4_g16_zero",
    "int6_g16",
    "int8_g32_zero",
)
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def rounded(at: Path, chosen: dict[str, str], family: str = "llama", **sizes: Any) -> Path:
    """A tiny decoder whose weights lie on the grids that are named by a part of their names."""
    whole = decoders.folder(at / "whole", family)
    config = decoders.config_of(family, **{"vocab_size": 288, "max_position_embeddings": 512, "head_dim": 16, **sizes})
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=0.0 if weight.ndim > 1 else 1.0, std=0.3)
    known, found = {}, {}
    for name, weight in lm.own_weights(model).items():
        for part, grid in chosen.items():
            if part in name and weight.ndim > 1:
                known[name] = grids.named(grid)
                found[name] = grids.nearest(weight, known[name])
    lm.save(at / "rounded", model, whole, found, known)
    return at / "rounded"


def exported(source: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    return run({"student": source}, MatmulNbitsConfig(**settings), out, 0)


def apart(source: Path, out: Path) -> float:
    """How far the graph's logits are from those of transformers with the same rounded weights, over the largest."""
    expected = answers.answers("lm", source, TEXTS)
    found = answers.answers("matmul_nbits", out, TEXTS)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("grid", EVERY)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_are_those_of_the_rounded_weights(tmp_path: Path, grid: str, tied: bool) -> None:
    source = rounded(tmp_path, {"proj": grid, "embed": grid, "head": grid}, tie_word_embeddings=tied)
    exported(source, tmp_path / "out")
    assert apart(source, tmp_path / "out") < 2e-5


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("mistral", {"sliding_window": 6}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1}),
        ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, **LLAMA3}}),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
    ],
    ids=["mistral, a window", "qwen2", "qwen3, windows", "llama, biases", "llama3's rotation", "yarn"],
)
def test_families_and_what_is_plain(tmp_path: Path, family: str, sizes: dict[str, Any]) -> None:
    """Some layers and the tables are not rounded here: halves in the graph, and in what it is held against."""
    source = rounded(tmp_path, {"mlp": "q4_1", "k_proj": "q8_0"}, family, **sizes)
    exported(source, tmp_path / "out")
    halved = {name: one.half().float() for name, one in lm.load(source).state_dict().items() if one.ndim > 1}
    model = lm.load(source)
    model.load_state_dict(model.state_dict() | {n: v for n, v in halved.items() if n not in lm.integers(source)[0]})
    with torch.no_grad():
        opened = runtime.open_model(tmp_path / "out", "onnxruntime")
        ids = opened.ids(TEXTS[1])
        expected = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
    assert len(ids) > 12, "more than the windows"
    assert np.abs(opened.logits(ids) - expected).max() < 2e-5 * np.abs(expected).max()


def test_a_text_is_read_whole_whatever_the_tokenizer_file_says_of_padding_and_cutting(tmp_path: Path) -> None:
    source = rounded(tmp_path, {"proj": "q4_0", "embed": "q8_0"})
    path = source / "tokenizer.json"
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation": cut}))
    exported(source, tmp_path / "out")
    plain, graph = runtime.open_model(source, "transformers"), runtime.open_model(tmp_path / "out", "onnxruntime")
    assert graph.ids(TEXTS[1]) == plain.ids(TEXTS[1]) and len(graph.ids(TEXTS[1])) > 3


def test_the_cache_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token that is written is the likeliest without a cache; buffers are made anew for a longer text."""
    monkeypatch.setattr(onnx_reader, "SMALLEST", 4)
    source = rounded(tmp_path, {"proj": "q4_0", "embed": "q8_0"})
    exported(source, tmp_path / "out")
    opened = runtime.open_model(tmp_path / "out", "onnxruntime")
    ids = opened.ids(TEXTS[0])
    written = list(opened.stream(ids, 40))
    whole = runtime.open_model(source, "transformers")
    assert written == list(whole.stream(ids, 40)) and len(written) > 5
    again = opened.logits([*ids, *written])
    assert again[len(ids) - 1 : -1].argmax(1).tolist() == written
    reader = onnx_reader.Reader(tmp_path / "out", 1, 512)
    reader.begin(len(ids) + len(written))
    rows = [reader.read(part, 0) for part in (ids[:3], ids[3:], *([one] for one in written))]
    assert np.abs(np.concatenate(rows) - again).max() < 1e-4 * np.abs(again).max()
    with pytest.raises(ShrinkError, match="the prompt has 600 tokens but the model reads 512: shorten it"):
        list(opened.stream([3] * 600, 1))


@pytest.mark.parametrize("grid", EVERY)
def test_activations_of_8_bits_are_near(tmp_path: Path, grid: str) -> None:
    source = rounded(tmp_path, {"proj": grid, "embed": grid})
    told = exported(source, tmp_path / "out", activations="int8")
    assert (0 if grid == "int2_g16" else 1e-5) < apart(source, tmp_path / "out") < 0.2
    proto = onnx.load(tmp_path / "out" / "model.onnx")
    assert all(
        {one.name: one.i for one in node.attribute}["accuracy_level"] == 4
        for node in proto.graph.node
        if node.op_type == "MatMulNBits"
    )
    assert told["bits_per_weight"] > choices.bits_of(grid) - 0.01


def test_the_bytes_depend_on_the_weights_alone_and_nothing_is_held_twice(tmp_path: Path) -> None:
    source = rounded(tmp_path, {"proj": "q4_0", "embed": "q5_1"})
    told = [exported(source, tmp_path / name) for name in ("one", "another")]
    files = [(tmp_path / name / "model.onnx").read_bytes() for name in ("one", "another")]
    assert files[0] == files[1] and str(tmp_path).encode() not in files[0]
    held = onnx.load_from_string(files[0]).graph.initializer
    weights = {one.name: numpy_helper.to_array(one).nbytes for one in held}
    codes, known = lm.integers(source)
    expected = sum(one.codes.numel() * choices.nbits_of(known[name].name, True) / 8 for name, one in codes.items())
    found = sum(size for name, size in weights.items() if "_proj" in name or "embed" in name)
    assert expected <= found < 1.01 * expected, "but for half a byte at the end of a row of zeros"
    assert told[0]["packed_weights"] == sum(one.codes.numel() for one in codes.values())


def test_bytes_hold_what_integers_say(tmp_path: Path) -> None:
    """An independent unpacking: two numbers of four bits a byte, the lower first, 8 in the middle."""
    source = rounded(tmp_path, {"proj": "q4_0"})
    exported(source, tmp_path / "out")
    held = {one.name: one for one in onnx.load(tmp_path / "out" / "model.onnx").graph.initializer}
    for name, one in lm.integers(source)[0].items():
        found = numpy_helper.to_array(held[f"{name}.codes.0"]).reshape(len(one.codes), -1)
        apart = np.stack([found & 15, found >> 4], axis=-1).reshape(len(found), -1).astype(int) - 8
        assert (apart == one.codes.numpy()).all()


@pytest.mark.parametrize("low", [-128, -16])
def test_two_planes_of_4_bits_are_8(low: int) -> None:
    codes = np.arange(low, low + 32, dtype=np.int16)[None]
    high, rest = nbits.planes_of(codes, None, 8, 32, split=True)
    values = [np.stack([one.codes & 15, one.codes >> 4], axis=-1).reshape(1, -1).astype(int) for one in (high, rest)]
    assert high.zeros is None and rest.zeros is not None and not rest.zeros.any()
    assert (16 * (values[0] - 8) + values[1] == codes).all()


def test_what_the_graph_cannot_be_built_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match="no layer of the student is rounded: put a quantize stage before"):
        exported(rounded(tmp_path, {}), tmp_path / "out")
    with pytest.raises(ShrinkError, match="lies on int4_g8, whose groups of 8 are no multiple of 16 as MatMulNBits"):
        exported(rounded(tmp_path / "odd", {"k_proj": "int4_g8"}), tmp_path / "odd" / "out")
    for config, said in (
        (decoders.config_of("gemma"), "does not build a 'gemma': known are llama, mistral, qwen2, qwen3; choose"),
        (decoders.config_of("llama", head_dim=24), "this llama: it has heads of 24 numbers, no multiple of 16; choose"),
        (decoders.config_of("llama", head_dim=16, hidden_act="gelu"), "this llama: it has hidden_act gelu; choose"),
    ):
        with pytest.raises(ShrinkError, match=said):
            nbits_fit.check_config(config.to_dict())
    said = str(nbits_fit.too_large(2.1e9))
    assert "would have 2.1 GB but one ONNX file holds less than 2: choose export/gguf" in said


def test_texts_and_chats_become_what_transformers_makes_of_them(tmp_path: Path) -> None:
    source = rounded(tmp_path, {"proj": "q4_0"})
    exported(source, tmp_path / "out")
    one, other = runtime.open_model(tmp_path / "out", "onnxruntime"), runtime.open_model(source, "transformers")
    said = [{"role": "user", "content": TEXTS[0]}]
    assert one.context == other.context and one.chat(said) == other.chat(said)
    for text in (*TEXTS, "na\u00efve \u4e2d\u6587 <|im_end|> the"):
        assert one.ids(text) == other.ids(text) and one.text(one.ids(text)) == other.text(other.ids(text))


def test_a_clean_process_needs_no_torch(tmp_path: Path) -> None:
    exported(rounded(tmp_path, {"proj": "q4_0"}), tmp_path / "out")
    code = (
        "import sys; from pathlib import Path; from tasks.generate.runtime import open_model; "
        "one = open_model(Path(sys.argv[1]), 'onnxruntime'); print(len(list(one.stream(one.ids('the fox'), 3)))); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False" and 0 < int(done.stdout.split()[0]) <= 3
    found, library = answers.in_clean_process("matmul_nbits", tmp_path / "out", TEXTS)
    assert library.startswith("onnxruntime ") and found.shape[1] == 288


def test_the_comparison_reads_it_back(tmp_path: Path) -> None:
    """As behind the stage of a run: float activations must decide like their source, those of 8 bits need not."""
    source, data = rounded(tmp_path, {"proj": "q5_0", "embed": "q5_1"}), folders.rows_folder(tmp_path / "data")
    for kind, exact in (("float", True), ("int8", False)):
        config = MatmulNbitsConfig.model_validate({"activations": kind})
        (told,) = steps.comparisons(config, True, cast(Recipe, SimpleNamespace(task="generate")))
        assert told.exact is exact and told.export == "matmul_nbits" and not told.needs
        exported(source, tmp_path / kind, activations=kind)
        (tmp_path / f"{kind}-compared").mkdir()
        inputs = {"source": source, "export": tmp_path / kind, "data": data}
        seen = compare.run(inputs, told, tmp_path / f"{kind}-compared", 0)
        assert seen["unit"] == "token" and seen["runtime"].startswith("onnxruntime ")
        assert (seen["agreement"] == 1 and seen["largest"] < 1e-3) is exact


def test_the_benchmark_has_every_reader_of_one_student(tmp_path: Path) -> None:
    """Heads are turned otherwise in GGUF, which is held against transformers, too, where llama.cpp is installed."""
    source = rounded(tmp_path, {"proj": "q4_1", "embed": "q5_1"})
    subjects = readers.exported(source, tmp_path / "made")
    sizes = {name: readers.size_of(name, one) for name, one in subjects.items()}
    assert sizes[readers.WHOLE] > max(sizes[readers.EXACT], sizes[readers.NEAR]) > 0 and len(sizes) == 4
    asked = {name: one for name, one in subjects.items() if name != readers.FILE}
    found = readers.agreement(asked, TEXTS)
    assert found[readers.EXACT]["agreement"] == 1 and found[readers.EXACT]["largest"] < 1e-3
    assert found[readers.NEAR]["largest"] > found[readers.EXACT]["largest"]
    rates = {f"{kind}_{count}": 1.0 for kind in ("read", "write") for count in readers.THREADS}
    rows = {name: {"bytes": sizes[name], "peak_rss_mb": None, **told, **rates} for name, told in found.items()}
    assert len(readers.shown(rows).splitlines()) == 2 + len(rows)
