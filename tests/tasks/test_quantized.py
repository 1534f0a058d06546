"""Quantization-aware distillation: its grids against ONNX Runtime's own, whole models, the stage, a cut training."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tasks import data, finetune, label, models, runtime
from tasks.distill import quantized
from tasks.export import onnx as export
from tasks.kinds import EveryStage, function_of
from tasks.prune import low_rank
from tasks.quantize import embedding
from tests import kills
from tests.tasks.test_torch_stages import make_model, make_texts, make_tokenizer

Array = np.ndarray[Any, Any]
TARGETS: list[dict[str, Any]] = [
    {"method": "int8_dynamic", "embedding": "int4"},
    {"method": "int8_dynamic", "embedding": "int8", "reduce_range": False},
    {"method": "int8_dynamic", "embedding": "none", "per_channel": False},
    {"method": "int4_weight_only", "embedding": "int4", "block_size": 64},
    {"method": "int4_weight_only", "embedding": "int8", "block_size": 128, "accuracy_level": 1},
    {"method": "int4_weight_only", "embedding": "none", "block_size": 32, "symmetric": False},
]


def config_of(target: dict[str, Any]) -> Any:
    return EveryStage.validate_python({"kind": "quantize", **target})


def named(target: dict[str, Any]) -> str:
    return "-".join(map(str, target.values()))


def one_product(weight: Array, target: dict[str, Any], folder: Path) -> Callable[[Array], Array]:
    """An ONNX graph of one product [b, t, inputs] @ [inputs, outputs], quantized by a stage's own function."""
    ends = [("x", ["b", "t", weight.shape[0]]), ("y", ["b", "t", weight.shape[1]])]
    given, found = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph([node], "g", [given], [found], [numpy_helper.from_array(weight, "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    source, out = folder / "source", folder / "out"
    source.mkdir()
    out.mkdir()
    export.save(proto, source / "model.onnx")
    for name in ("tokenizer.json", "config.json"):
        (source / name).write_text("{}")
    config = config_of(target | {"embedding": "none"})
    function_of(config)({"student": source}, config, out, 0)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda values: np.asarray(session.run(None, {"x": values})[0])


@pytest.mark.parametrize("inputs", [128, 100])
@pytest.mark.parametrize("target", TARGETS, ids=named)
def test_weights_and_inputs_fall_on_the_grid_of_the_quantize_stage(
    target: dict[str, Any], inputs: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(inputs)
    weight = rng.normal(size=(inputs, 24)).astype(np.float32) * rng.uniform(0.01, 3, 24).astype(np.float32)
    weight[:, 0], weight[:, 1], weight[:, 2] = 0, np.abs(weight[:, 1]), -np.abs(weight[:, 2])
    product = one_product(weight, target, tmp_path)
    weights, values = quantized.grids_of(config_of(target))
    on_grid = weights(torch.tensor(weight.T)).numpy()
    assert np.abs(on_grid - weight.T).max() > 1e-3
    unit = np.eye(inputs, dtype=np.float32)[None]  # one number a row is on every grid of inputs: shows the weights
    np.testing.assert_allclose(product(unit)[0].T, on_grid, rtol=1e-6, atol=1e-6)
    for shift in (0.0, 2.0, -9.0):
        some = (rng.normal(size=(2, 5, inputs)) + shift).astype(np.float32)
        mine = values(torch.tensor(some)).numpy() @ on_grid.T
        lost, noise = np.abs(some @ on_grid.T - mine).max(), 2e-6 * np.abs(mine).max()
        assert np.abs(product(some) - mine).max() < 0.05 * lost + noise
        assert lost > 20 * noise or target.get("accuracy_level") == 1


@pytest.mark.parametrize("width", [64, 48, 6])
def test_embedding_vectors_fall_on_the_grid_of_the_stored_rows(width: int) -> None:
    rng = np.random.default_rng(width)
    table = rng.standard_t(3, size=(200, width)).astype(np.float32)
    table[3] = 0
    values, scale = embedding.quantize_rows(table)
    rows = torch.tensor(table)[None]
    stored = values.astype(np.float32) * scale.astype(np.float32)
    np.testing.assert_array_equal(quantized.grid_of_rows("int8", width)(rows)[0].numpy(), stored)
    packed = embedding.quantize_groups(table, embedding.group_of(width))
    found = quantized.grid_of_rows("int4", width)(rows)[0].numpy()
    np.testing.assert_array_equal(found, embedding.dequantize_groups(*packed))


def test_gradients_pass_the_rounding_as_if_it_were_not_there() -> None:
    linear = nn.Linear(32, 4)
    given = torch.randn(2, 3, 32, requires_grad=True)
    weights, inputs = quantized.grids_of(config_of(TARGETS[3]))
    found = quantized.product(linear, weights, inputs, given)
    found.square().sum().backward()
    assert linear.weight.grad is not None and given.grad is not None
    rounded = weights(linear.weight.detach()), inputs(given.detach())
    wanted = nn.functional.linear(rounded[1], rounded[0], linear.bias.detach())
    torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=0)
    back = 2 * wanted  # d(sum of squares): the chain rule, with the rounding's own derivative taken as 1
    torch.testing.assert_close(given.grad, back @ rounded[0])
    torch.testing.assert_close(linear.weight.grad, back.flatten(0, 1).T @ rounded[1].flatten(0, 1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data, a tuned teacher and its answers, and that teacher with a factorised embedding."""
    names = ("source", "data", "start", "teacher", "labels", "narrow")
    at = {name: tmp_path_factory.mktemp(name) for name in names}
    lines = [f"{number}\t{mean}\t{text}" for number, (text, mean) in enumerate(make_texts(240, 1), start=1)]
    (at["source"] / "rated.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    split = data.DataConfig(file="rated.txt", format="rated", max_length=32)
    data.run({"source": at["source"]}, split, at["data"], 0)
    models.save(at["start"], make_model(), make_tokenizer(), models.Head(labels=("a", "b"), max_length=32))
    tuned = finetune.FinetuneConfig(tuned_layers=2, epochs=4, lr=5e-3, batch_size=8)
    finetune.run({"teacher": at["start"], "data": at["data"]}, tuned, at["teacher"], 0)
    label.run({**at, "floor": at["data"]}, label.LabelConfig(transfer=False), at["labels"], 0)
    at["student"] = at["teacher"]
    low_rank.run(at, low_rank.PruneLowRankConfig(rank=24), at["narrow"], 0)
    return at


def deployed(student: Path, target: dict[str, Any], folder: Path) -> Path:
    """The student, exported and quantized."""
    whole, small = folder / "whole", folder / "small"
    whole.mkdir(parents=True)
    small.mkdir()
    export.run({"model": student}, export.OnnxConfig(), whole, 0)
    config = config_of(target)
    function_of(config)({"student": whole}, config, small, 0)
    return small


def as_if(student: Path, target: dict[str, Any] | None, feeds: dict[str, Array]) -> Array:
    """A torch student's logits, rounding to the target's grids."""
    model, _, _ = models.load(student)
    if target is not None:
        quantized.attach(model, config_of(target))
    with torch.inference_mode():
        return np.asarray(model(*(torch.tensor(feeds[name]) for name in ("input_ids", "attention_mask"))))


@pytest.mark.parametrize("student", ["student", "narrow"])
@pytest.mark.parametrize("target", TARGETS, ids=named)
def test_the_rounding_model_answers_as_the_quantized_graph(
    target: dict[str, Any], student: str, made: dict[str, Path], tmp_path: Path
) -> None:
    small = deployed(made[student], target, tmp_path)
    feeds = runtime.feeds(runtime.encode(small, [text for text, _ in make_texts(16, 7)]))
    real = np.asarray(runtime.session(small).run(None, feeds)[0])
    whole, fake = as_if(made[student], None, feeds), as_if(made[student], target, feeds)
    lost = np.abs(real - whole).max()
    assert np.abs(fake - real).max() < (1e-5 if target.get("accuracy_level") == 1 else 0.2 * lost)


QUICK: dict[str, Any] = {"epochs": 6, "lr": 2e-3, "batch_size": 8, "transfer": False, "labels_weight": 0.0}
COARSE: dict[str, Any] = {"method": "int4_weight_only", "block_size": 128, "embedding": "int4"}


def taught(made: dict[str, Path], out: Path, **settings: Any) -> dict[str, Any]:
    """What distill/quantized measured."""
    out.mkdir()
    config = quantized.DistillQuantizedConfig.model_validate({**QUICK, "target": COARSE, **settings})
    return quantized.run(made, config, out, 0)


def apart(made: dict[str, Path], small: Path) -> float:
    """Mean squared distance of a deployed student's logits from the teacher's on the training texts."""
    from safetensors.numpy import load_file

    texts = [row["text"] for row in data.read_rows(made["data"], "train")]
    wanted = load_file(made["labels"] / "logits.safetensors")["train"]
    return float(((runtime.predict(small, texts) - wanted) ** 2).mean())


def test_what_the_grid_cost_is_learnt_back_and_survives_the_quantization(made: dict[str, Path], tmp_path: Path) -> None:
    measured = taught(made, tmp_path / "aware")  # the teacher itself: in full precision nothing is left to learn
    names = set(models.load(made["teacher"])[0].state_dict())
    assert set(models.load(tmp_path / "aware")[0].state_dict()) == names  # full precision, in an ordinary artifact
    aware = deployed(tmp_path / "aware", COARSE, tmp_path / "one")
    rounded = deployed(made["teacher"], COARSE, tmp_path / "two")
    assert apart(made, aware) < 0.5 * apart(made, rounded)
    held = data.read_rows(made["data"], "validation")
    guesses = runtime.predict(aware, [row["text"] for row in held], batch=len(held)).argmax(1)
    assert float(np.mean(guesses == [row["label"] for row in held])) == measured["validation_accuracy"]


@pytest.mark.parametrize("target", [COARSE, {"method": "int8_dynamic"}], ids=named)
def test_cut_off_and_gone_on_with_it_ends_with_the_same_student(
    target: dict[str, Any], made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = taught(made, tmp_path / "one", target=target, epochs=3)
    whole = 3 * math.ceil(len(data.read_rows(made["data"], "train")) / 8)
    kills.goes_on_to_the_same_bytes(
        monkeypatch,
        tmp_path / "one",
        measured,
        lambda out: taught(made, out, target=target, epochs=3),
        at=10,
        whole=whole,
    )


def test_a_target_may_be_its_methods_name() -> None:
    config = quantized.DistillQuantizedConfig.model_validate({"target": "int4_weight_only"})
    assert config.target == config_of({"method": "int4_weight_only"})
