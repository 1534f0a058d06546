"""Dynamic int8 of the matrix products of an ONNX model: weights per channel, activations at run time."""

import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT
from tasks import progress


class Int8DynamicConfig(BaseModel):
    """Settings of the dynamic int8 quantisation."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"student": "onnx"}
    writes: ClassVar[tuple[str, str]] = ("student", "onnx")
    kind: Literal["quantize"] = Field("quantize", description="The stage's kind.")
    method: Literal["int8_dynamic"] = Field("int8_dynamic", description="The quantisation method.")
    per_channel: bool = Field(True, description="One scale a column of a weight; false loses accuracy.")
    reduce_range: bool = Field(True, description="7-bit weights, so that CPUs without VNNI do not saturate.")
    embedding: Literal["none", "int8", "int4"] = Field("int8", description="Storage of the word embedding's rows.")


def run(inputs: dict[str, Path], config: Int8DynamicConfig, out: Path, seed: int) -> dict[str, Any]:
    """Quantise the MatMul and Gemm weights and the word embedding of inputs["student"]."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from tasks.quantize.artifact import finish, quiet

    source = inputs["student"]
    progress.report(0, 2, "matrix products")
    with tempfile.TemporaryDirectory() as folder, quiet():
        quantize_dynamic(
            source / "model.onnx",
            Path(folder) / "model.onnx",
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=config.per_channel,
            reduce_range=config.reduce_range,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        proto = onnx.load(Path(folder) / "model.onnx")
    return finish(proto, config.embedding, source, out)
