"""Moves outliers of the activations into the weights before an int8 stage; in full precision nothing changes.

SmoothQuant (Xiao et al. 2023, "SmoothQuant: Accurate and efficient post-training quantization for large language
models", equation 4): channel j of a product's input is divided by s[j] = max|X[j]| ** alpha / max|W[j]| ** (1 - alpha)
and row j of the weight multiplied by it, so that a channel that is often large no longer sets the scale for all.

The paper folds the division into the layer norm before the product. Behind a norm that also feeds the residual, as in
BERT, that would change the residual, and behind a GELU it is not exact either: so every product's input gets a Mul node
of its own (query, key and value share one), which is exact everywhere and costs one pass over the activations.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError
from tasks import progress

Array = NDArray[np.float32]
CHECKED = 16  # texts whose logits are compared
TOLERANCE = 1e-4  # of those logits, relative to the largest; float32 alone gives about 1e-6


class SmoothConfig(BaseModel):
    """Settings of the smoothing that goes before an int8 quantisation."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"student": "onnx", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "onnx")
    kind: Literal["quantize"] = Field("quantize", description="The stage's kind.")
    method: Literal["smooth"] = Field("smooth", description="The quantisation method.")
    alpha: float = Field(0.5, gt=0, lt=1, description="How much of the outliers moves: near 0 hardly any, near 1 all.")
    calibration_rows: int = Field(256, ge=1, description="Training texts that the activations' sizes come from.")


class Product(NamedTuple):
    """A product of the graph: its node, the weight's name and the weight as [inputs, outputs]."""

    node: Any
    name: str
    weight: Array


def run(inputs: dict[str, Path], config: SmoothConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the student with smoothed products; measured: products, largest factor, largest difference of a logit.

    Raises ShrinkError when there are fewer training texts than calibration_rows or no product in full precision.
    """
    import onnx

    from tasks import data, runtime
    from tasks.export.onnx import copy_sidecars, prune_initializers, save

    source = inputs["student"]
    rows = data.read_rows(inputs["data"], "train")
    if len(rows) < config.calibration_rows:
        raise ShrinkError(
            f"calibration_rows of quantize/smooth is {config.calibration_rows} but the data has {len(rows)} "
            "training texts; lower it."
        )
    texts = [row["text"] for row in rows[: config.calibration_rows]]
    proto = onnx.load(source / "model.onnx")
    groups = products(proto)
    if not groups:
        raise ShrinkError("quantize/smooth: no product is in full precision any more; put it before the quantisation.")
    progress.report(0, 2, "calibrating")
    sizes = largest(proto, list(groups), source, texts)
    worst = max(rewrite(proto, group, factors(sizes[name], group, config.alpha)) for name, group in groups.items())
    prune_initializers(proto)
    save(proto, out / "model.onnx")
    copy_sidecars(source, out)
    before, after = (runtime.predict(at, texts[:CHECKED]) for at in (source, out))
    apart = float(np.abs(after - before).max())
    if not apart <= TOLERANCE * max(1.0, float(np.abs(before).max())):
        raise RuntimeError(f"the smoothed graph differs from the one before by {apart:.2g}")
    progress.report(2, 2, f"{len(groups)} inputs, largest difference {apart:.1e}")
    return {"smoothed_inputs": len(groups), "largest_factor": worst, "max_difference": apart}


def products(proto: Any) -> dict[str, list[Product]]:
    """{input: its products with a constant float matrix}, in the graph's order."""
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.data_type == tensor.FLOAT}
    found: dict[str, list[Product]] = {}
    for node in proto.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in held and len(held[node.input[1]].dims) == 2:
            weight = numpy_helper.to_array(held[node.input[1]])
            weight = weight.T if transposed(node) else weight
            found.setdefault(node.input[0], []).append(Product(node, node.input[1], weight))
    return found


def transposed(node: Any) -> bool:
    """Whether a Gemm holds its weight as [outputs, inputs]."""
    return any(item.name == "transB" and item.i for item in node.attribute)


def largest(proto: Any, names: list[str], source: Path, texts: list[str]) -> dict[str, Array]:
    """By value of the graph, the largest size of each channel [d] over all tokens of the texts, one text a call."""
    import onnx
    import onnxruntime

    from tasks import runtime

    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, Array] = {}
    for ids in runtime.encode(source, texts):
        for name, value in zip(names, session.run(names, runtime.feeds([ids])), strict=True):
            size = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, size), size)
    return found


def factors(sizes: Array, group: list[Product], alpha: float) -> Array:
    """What each channel [d] of an input is divided by; 1 where channel or weights are all zero."""
    weights = np.stack([np.abs(product.weight).max(axis=1) for product in group]).max(axis=0)
    used = (sizes > 0) & (weights > 0)
    found = np.power(sizes, alpha, where=used, out=np.ones_like(sizes))
    return np.asarray(found / np.power(weights, 1 - alpha, where=used, out=np.ones_like(sizes)), np.float32)


def rewrite(proto: Any, group: list[Product], divisors: Array) -> float:
    """Divide the common input of some products and multiply their weights, in place; the largest divisor."""
    from onnx import helper, numpy_helper

    given = group[0].node.input[0]
    smooth = f"{given}_smooth"
    proto.graph.initializer.append(numpy_helper.from_array(1 / divisors, f"{smooth}_by"))
    first = min(list(proto.graph.node).index(product.node) for product in group)
    proto.graph.node.insert(first, helper.make_node("Mul", [given, f"{smooth}_by"], [smooth], name=smooth))
    for product in group:
        weight = product.weight * divisors[:, None]
        stored = np.ascontiguousarray(weight.T if transposed(product.node) else weight)
        name = f"{product.name}_{smooth}"  # of its own: layers may share a weight and differ in their inputs
        if name not in {tensor.name for tensor in proto.graph.initializer}:
            proto.graph.initializer.append(numpy_helper.from_array(stored, name))
        product.node.input[0], product.node.input[1] = smooth, name
    return float(divisors.max())
