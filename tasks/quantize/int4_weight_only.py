"""Weight-only int4 of the matrix products of an ONNX model: small files, activations stay float or int8."""

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT
from tasks import progress


class Int4WeightOnlyConfig(BaseModel):
    """Settings of the 4-bit weight-only quantisation."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"student": "onnx"}
    writes: ClassVar[tuple[str, str]] = ("student", "onnx")
    kind: Literal["quantize"] = Field("quantize", description="The stage's kind.")
    method: Literal["int4_weight_only"] = Field("int4_weight_only", description="The quantisation method.")
    block_size: Literal[16, 32, 64, 128] = Field(32, description="Weights that share one scale.")
    symmetric: bool = Field(True, description="No zero points; false costs half a byte a block and fits better.")
    accuracy_level: Literal[1, 4] = Field(4, description="Arithmetic inside the product: 4 = int8, 1 = float32.")
    embedding: Literal["none", "int8", "int4"] = Field("int8", description="Storage of the word embedding's rows.")


def run(inputs: dict[str, Path], config: Int4WeightOnlyConfig, out: Path, seed: int) -> dict[str, Any]:
    """Quantise the MatMul weights to 4 bits and the word embedding of inputs["student"]."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    from tasks.quantize.artifact import finish

    source = inputs["student"]
    progress.report(0, 2, "matrix products")
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.ERROR)
    quantizer = MatMulNBitsQuantizer(
        onnx.load(source / "model.onnx"),
        block_size=config.block_size,
        is_symmetric=config.symmetric,
        accuracy_level=config.accuracy_level,
    )
    quantizer.process()
    return finish(quantizer.model.model, config.embedding, source, out)
