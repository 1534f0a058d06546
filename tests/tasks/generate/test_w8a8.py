"""SmoothQuant against numpy and another library's formula, what smoothing keeps and spares, and what is exported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from registry.records import ShrinkError, digest_directory
from tasks import answers, checkpoint
from tasks.export import compressed_tensors
from tasks.generate import folds, lm, rounding, runtime, w8a8, w8a8_model, walk
from tasks.kinds import EveryStage, function_of
from tasks.quantize import w8a8 as stage
from tests.tasks.generate import decoders
from tests.tasks.generate.decoders import FAMILIES, tiny
from tests.tasks.generate.folders import IDS, logits, model_folder, rows_folder

SMALL = {"calibration_blocks": 12, "calibration_length": 24, "batch": 4}
GENERATOR = torch.Generator().manual_seed(4)
SIZES = torch.ones(48)
SIZES[::12] = 60.0
INPUTS = torch.randn(200, 48, generator=GENERATOR) * SIZES
WEIGHTS = [torch.randn(count, 48, generator=GENERATOR) * 0.1 for count in (24, 32)]
TEXTS = ["the quick brown fox", "jumps over"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows_folder(tmp_path_factory.mktemp("rows") / "data")


def eight(student: Path, data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    config = EveryStage.validate_python({"kind": "quantize", "method": "w8a8", **SMALL, **settings})
    out.mkdir(parents=True, exist_ok=True)
    return function_of(config)({"student": student, "data": data}, config, out, 1)


def loud(times: float = 40.0) -> Any:
    """A tiny Llama with a few inputs of every layer that are far larger than the others."""
    model = tiny("llama")
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data[::16] *= times
    return model


def plain_rows(weight: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Rows in 8 bits, by numpy."""
    scale = np.abs(weight).max(1, keepdims=True) / 127
    scale = scale.astype(np.float16).astype(np.float64)
    return np.asarray(np.clip(np.rint(weight / scale), -127, 127) * scale)


def plain_tokens(inputs: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Tokens in 8 bits, one by one, by numpy."""
    found = np.zeros_like(inputs)
    for number, one in enumerate(inputs):
        scale = np.abs(one).max() / 127.5
        if scale:
            found[number] = np.clip(np.rint(one / scale), -128, 127) * scale
    return found


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8])
def test_factors_and_roundings_are_those_of_the_paper(alpha: float) -> None:
    inputs, weights = INPUTS.double().numpy(), [one.double().numpy() for one in WEIGHTS]
    wanted = np.abs(inputs).max(0) ** alpha / np.abs(np.concatenate(weights)).max(0) ** (1 - alpha)
    found = w8a8.factors(INPUTS.abs().amax(0), WEIGHTS, alpha)
    assert np.allclose(found.numpy(), wanted, rtol=1e-5)
    smooth = INPUTS.double() / found
    assert np.allclose(w8a8.by_token(smooth).numpy(), plain_tokens(smooth.numpy()))
    for one in WEIGHTS:
        assert np.allclose(w8a8.rounded(one * found).value().numpy(), plain_rows((one * found).double().numpy()))


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8])
def test_factors_are_those_of_llm_compressor_but_for_one_number(alpha: float) -> None:
    """Its SmoothQuantModifier takes max - min of an input, and twice the largest weight."""
    both = torch.cat([INPUTS, -INPUTS])  # as large below 0 as above
    columns = 2.0 * torch.cat([one.abs().amax(0, keepdim=True) for one in WEIGHTS]).amax(0)
    theirs = (both.amax(0) - both.amin(0)).pow(alpha) / columns.pow(1 - alpha)
    assert torch.allclose(theirs, w8a8.factors(both.abs().amax(0), WEIGHTS, alpha) * 2 ** (2 * alpha - 1))


def test_inputs_and_tokens_that_are_0_stay_so() -> None:
    sizes = INPUTS.abs().amax(0)
    sizes[3] = 0
    dead = [one.clone() for one in WEIGHTS]
    for one in dead:
        one[:, 7] = 0
    found = w8a8.factors(sizes, dead, 0.5)
    assert found[3] == found[7] == 1 and torch.isfinite(found).all()
    tokens = w8a8.by_token(torch.cat([torch.zeros(1, 48), INPUTS[:2]]))
    assert torch.equal(tokens[0], torch.zeros(48)) and torch.isfinite(tokens).all()
    assert torch.equal(w8a8.rounded(torch.zeros(3, 48)).value(), torch.zeros(3, 48))


def test_outliers_that_were_moved_cost_less() -> None:
    def error(factor: Tensor) -> float:
        apart = [
            w8a8.by_token(INPUTS / factor) @ w8a8.rounded(one * factor).value().T - INPUTS @ one.T for one in WEIGHTS
        ]
        return float(torch.cat(apart, 1).square().sum())

    assert error(w8a8.factors(INPUTS.abs().amax(0), WEIGHTS, 0.5)) < 0.2 * error(torch.ones(48))


@pytest.mark.parametrize("family", FAMILIES)
def test_smoothing_leaves_what_a_layer_of_every_family_gives(family: str) -> None:
    model = tiny(family)
    for weight in model.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, 0.5, 0.3, generator=torch.Generator().manual_seed(1))
    hidden, caught = walk.start(model, IDS, 4)
    layer = walk.layers_of(model)[0]

    def give() -> Tensor:
        return walk.given(layer, hidden[0], caught[0])

    before, sizes = give(), walk.largest(layer, hidden, caught[0])
    linears = walk.linears_of(layer)
    kept = {name: walk.weight_of(one).clone() for name, one in linears.items()}
    rounded = stage.smoothed(layer, sizes, give, 0.5)
    assert float((give() - before).norm() / before.norm()) < 1e-4
    moved = [name for name, one in linears.items() if not torch.equal(walk.weight_of(one), kept[name])]
    assert len(moved) >= 2 and set(rounded) == set(linears)
    now = walk.largest(layer, hidden, caught[0])
    name = next(iter(sizes))
    assert float(now[name].max() / now[name].median()) < float(sizes[name].max() / sizes[name].median())


def test_the_largest_sizes_are_those_of_all_batches() -> None:
    model, read = tiny("llama"), list[Tensor]()
    hidden, caught = walk.start(model, IDS, 2)
    layer: Any = walk.layers_of(model)[0]
    sizes = walk.largest(layer, hidden, caught[0])
    layer.mlp.down_proj.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    torch.testing.assert_close(sizes["mlp.down_proj"], read[0].abs().flatten(0, 1).amax(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_rounded_and_read_again(tmp_path: Path, data: Path, family: str) -> None:
    student, out = model_folder(tmp_path / "student", family), tmp_path / "out"
    measured = eight(student, data, out)
    with torch.no_grad():
        before, after = logits(student), runtime.loaded(out)[0](input_ids=IDS, use_cache=False).logits
    assert 0 < float((before - after).norm() / before.norm()) < 0.25
    stored = load_file(out / "model.safetensors")
    inside = rounding.linears(lm.load(student))
    assert {name for name in stored if name.endswith(".codes")} == {f"{name}.codes" for name in inside}
    for name, one in inside.items():
        shape = walk.weight_of(one).shape
        assert stored[f"{name}.codes"].shape == shape and stored[f"{name}.scale"].shape == (shape[0], 1)
    assert set(measured["weights"]) == {"int8_row", "none"} and 8 < measured["bits_per_weight"] < 16


def test_smoothing_helps_a_model_with_outliers(tmp_path: Path, data: Path) -> None:
    student, apart = model_folder(tmp_path / "student", model=loud()), {}
    before = logits(student)
    for smoothing in (0, 0.5):
        out = tmp_path / str(smoothing)
        eight(student, data, out, smoothing=smoothing)
        with torch.no_grad():
            after = w8a8_model.load(out)(input_ids=IDS, use_cache=False).logits
        apart[smoothing] = float((after - before).norm() / before.norm())
        assert json.loads((out / "w8a8.json").read_text())["smoothing"] == smoothing
    assert apart[0.5] < 0.75 * apart[0], apart


def test_what_layers_read_is_rounded_too(tmp_path: Path, data: Path) -> None:
    """The reference against a model of plain torch whose linears are replaced one by one."""
    student, out = model_folder(tmp_path / "student", model=loud()), tmp_path / "out"
    eight(student, data, out)
    model: Any = lm.load(out)

    class Eight(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            flat = torch.tensor(plain_tokens(input.flatten(0, -2).numpy()))
            return torch.nn.functional.linear(flat.view_as(input), self.weight)

    for layer in model.model.layers:
        for linear in walk.linears_of(layer).values():
            linear.__class__ = Eight
    with torch.no_grad():
        wanted = model(input_ids=IDS, use_cache=False).logits
        found = w8a8_model.load(out)(input_ids=IDS, use_cache=False).logits
        weights_alone = lm.load(out)(input_ids=IDS, use_cache=False).logits
    assert float((found - wanted).abs().max()) < 0.1 * float((found - weights_alone).abs().max())


def test_killed_in_a_layer_it_goes_on_there_with_the_same_digest(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = model_folder(tmp_path / "student", model=loud())
    eight(student, data, tmp_path / "whole")
    eight(student, data, tmp_path / "twice")
    assert digest_directory(tmp_path / "twice") == digest_directory(tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "place", (tmp_path, "key"))
    smoothed, called = stage.smoothed, iter(range(100))

    def cut(*arguments: Any) -> Any:
        if next(called) == 2:
            raise KeyboardInterrupt
        return smoothed(*arguments)

    monkeypatch.setattr(stage, "smoothed", cut)
    with pytest.raises(KeyboardInterrupt):
        eight(student, data, tmp_path / "cut")
    eight(student, data, tmp_path / "again")
    assert next(called) == 4
    assert digest_directory(tmp_path / "again") == digest_directory(tmp_path / "whole")


def test_a_layer_that_would_give_something_else_is_only_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loud()
    hidden, caught = walk.start(model, IDS, 4)
    layer = walk.layers_of(model)[0]
    sizes = walk.largest(layer, hidden, caught[0])
    kept = {name: one.clone() for name, one in layer.state_dict().items()}
    monkeypatch.setattr(folds, "divide", lambda maker, factor: None)
    rounded = stage.smoothed(layer, sizes, lambda: walk.given(layer, hidden[0], caught[0]), 0.5)
    assert all(torch.equal(value, kept[name]) for name, value in layer.state_dict().items())
    for name, one in rounded.items():
        assert float((one.value() - kept[f"{name}.weight"]).abs().max()) <= float(one.scale.max()) * 0.51


def test_what_cannot_be_is_refused(tmp_path: Path, data: Path) -> None:
    student = model_folder(tmp_path / "student")
    config = EveryStage.validate_python({"kind": "quantize", "method": "rtn", "grid": "q4_0"})
    function_of(config)({"student": student, "data": data}, config, tmp_path / "rounded", 0)
    with pytest.raises(ShrinkError, match="quantize/w8a8 would undo the rounding of the student's weights: put it be"):
        eight(tmp_path / "rounded", data, tmp_path / "out")
    with pytest.raises(ShrinkError, match="the model's layers are no rows of 8 bits: give what a stage quantize/w8a8"):
        w8a8_model.load(tmp_path / "rounded")
    for smoothing in (-0.1, 1.0):
        with pytest.raises(ValueError, match="smoothing"):
            EveryStage.validate_python({"kind": "quantize", "method": "w8a8", "smoothing": smoothing})


def exported(at: Path, data: Path, family: str = "llama") -> tuple[Path, Path]:
    """A tiny decoder in 8 bits, and compressed-tensors of it."""
    pytest.importorskip("compressed_tensors", reason="the extra compressed-tensors is not installed")
    source, out = at / "eight", at / "out"
    eight(decoders.folder(at / "whole", family), data, source)
    out.mkdir()
    config = compressed_tensors.CompressedTensorsConfig(model="w8a8")
    compressed_tensors.run({"w8a8": source}, config, out, 0)
    return source, out


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_library_answers_as_the_reference_does(tmp_path: Path, data: Path, family: str) -> None:
    source, out = exported(tmp_path, data, family)
    reference, runtime = answers.in_clean_process("w8a8", source, TEXTS)
    found, library = answers.in_clean_process("compressed_tensors", out, TEXTS)
    assert runtime.startswith("transformers ") and library.startswith("compressed-tensors ")
    model, tokenizer = lm.load(source), lm.load_tokenizer(source)  # which reads inputs as they are
    with torch.no_grad():
        without = [model(**tokenizer(one, return_tensors="pt")).logits[0].numpy() for one in TEXTS]
    assert np.abs(found - reference).max() < 0.05 * np.abs(np.concatenate(without) - reference).max()


def test_the_file_says_what_a_server_must_do(tmp_path: Path, data: Path) -> None:
    source, out = exported(tmp_path, data)
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    (group,) = said["config_groups"].values()
    assert said["format"] == "int-quantized" and said["ignore"] == ["lm_head"] and len(group["targets"]) == 21
    assert group["weights"] == {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    tokens = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    assert group["input_activations"] == tokens
    stored, (codes, _) = load_file(out / "model.safetensors"), lm.integers(source)
    for name, one in codes.items():
        assert torch.equal(stored[name], one.codes) and stored[name].dtype == torch.int8
        assert stored[name.replace(".weight", ".weight_scale")].shape == (len(one.codes), 1)
    assert stored["model.embed_tokens.weight"].dtype == torch.float16
