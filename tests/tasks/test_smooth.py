"""SmoothQuant on a graph: the same answers in full precision, factors as the paper has them, fewer errors in int8."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from registry.records import ShrinkError, digest_directory
from tasks import runtime
from tasks.export import onnx as export
from tasks.quantize import int8_dynamic, int8_static, smooth
from tests.tasks.test_onnx_stages import sentences, write_rows, write_torch

TEXTS = [text for text, _ in sentences(24, 8)]


def made(module: Any, config: Any, inputs: dict[str, Path], out: Path) -> Path:
    out.mkdir()
    module.run(inputs, config, out, 0)
    return out


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student whose norms make four channels thirty times as large as the others, as trained encoders have them."""
    from safetensors.numpy import load_file, save_file

    root = tmp_path_factory.mktemp("smooth")
    found = {"data": write_rows(root / "data"), "torch": write_torch(root / "torch", 0)}
    path = found["torch"] / "model.safetensors"
    weights = load_file(path)
    for name, weight in weights.items():
        if name.endswith("LayerNorm.weight"):
            weight[[3, 17, 40, 41]] *= 30
    save_file(weights, path, metadata={"format": "pt"})
    found["student"] = made(export, export.OnnxConfig(tolerance=1), {"model": found["torch"]}, root / "onnx")
    return found


def test_full_precision_stays_and_the_factors_are_the_papers(at: dict[str, Path], tmp_path: Path) -> None:
    config = smooth.SmoothConfig(alpha=0.3, calibration_rows=20)
    out = made(smooth, config, at, tmp_path / "a")
    before, after = (runtime.predict(place, TEXTS) for place in (at["student"], out))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())
    assert digest_directory(made(smooth, config, at, tmp_path / "b")) == digest_directory(out)
    old, new = (onnx.load(place / "model.onnx").graph for place in (at["student"], out))
    muls = [node for node in new.node if node.name.endswith("_smooth")]
    assert len(muls) == 2 * 4 + 1  # query, key and value share one; attention output, both of the FFN; the head
    held = {tensor.name: numpy_helper.to_array(tensor) for graph in (old, new) for tensor in graph.initializer}
    proto = onnx.load(at["student"] / "model.onnx")
    groups = smooth.products(proto)
    texts = [text for text, _ in sentences(60, 0)][:20]  # those of the train rows
    for mul in muls:
        given, by = mul.input[0], held[mul.input[1]]
        seen = smooth.largest(proto, [given], at["student"], texts)[given]
        rows = np.max([np.abs(product.weight).max(axis=1) for product in groups[given]], axis=0)
        np.testing.assert_allclose(1 / by, seen**0.3 / rows**0.7, rtol=1e-4)
    shared = [node for node in new.node if node.op_type == "MatMul" and node.input[0] == muls[0].output[0]]
    assert len(shared) == 3


@pytest.mark.parametrize("static", [True, False])
def test_int8_loses_less_behind_it(static: bool, at: dict[str, Path], tmp_path: Path) -> None:
    module: Any = int8_static if static else int8_dynamic
    config: Any = int8_static.Int8StaticConfig(calibration_rows=40) if static else int8_dynamic.Int8DynamicConfig()
    plain = made(module, config, at, tmp_path / "plain")
    moved = made(smooth, smooth.SmoothConfig(calibration_rows=40), at, tmp_path / "moved")
    smoothed = made(module, config, {**at, "student": moved}, tmp_path / "smoothed")
    whole = runtime.predict(at["student"], TEXTS)
    lost = [float(np.abs(runtime.predict(place, TEXTS, 1) - whole).mean()) for place in (plain, smoothed)]
    assert lost[1] < 0.7 * lost[0]


def test_too_few_texts_and_a_quantized_graph_are_refused(at: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match="calibration_rows of quantize/smooth is 61 but the data has 60"):
        made(smooth, smooth.SmoothConfig(calibration_rows=61), at, tmp_path / "a")
    small = made(int8_dynamic, int8_dynamic.Int8DynamicConfig(), at, tmp_path / "b")
    with pytest.raises(ShrinkError, match="no product is in full precision any more; put it before"):
        made(smooth, smooth.SmoothConfig(calibration_rows=9), {**at, "student": small}, tmp_path / "c")


def test_a_channel_that_never_says_anything_is_left_alone() -> None:
    weight = np.array([[2.0, -1.0], [0.0, 0.0], [0.5, 3.0]], np.float32)
    group = [smooth.Product(None, "w", weight)]
    found = smooth.factors(np.array([4.0, 5.0, 0.0], np.float32), group, 0.5)
    np.testing.assert_allclose(found, [np.sqrt(4.0 / 2.0), 1, 1], rtol=1e-6)
