"""Static int8 of the matrix products of an ONNX model: the ranges of the activations come from calibration texts.

Where `int8_dynamic` measures every input at run time, this one fixes the ranges beforehand (Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference"); what other runtimes and
accelerators want. Products alone are quantised: with sums and softmax too, an encoder loses a tenth of its accuracy.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError
from tasks import progress


class Int8StaticConfig(BaseModel):
    """Settings of the static int8 quantisation."""

    model_config = STRICT
    reads: ClassVar[dict[str, str]] = {"student": "onnx", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("student", "onnx")
    kind: Literal["quantize"] = Field("quantize", description="The stage's kind.")
    method: Literal["int8_static"] = Field("int8_static", description="The quantisation method.")
    calibration_rows: int = Field(256, ge=1, description="Training texts that the activations' ranges come from.")
    per_channel: bool = Field(True, description="One scale a column of a weight; false loses accuracy.")
    reduce_range: bool = Field(True, description="7-bit weights, so that CPUs without VNNI do not saturate.")
    embedding: Literal["none", "int8", "int4"] = Field("int8", description="Storage of the word embedding's rows.")


def run(inputs: dict[str, Path], config: Int8StaticConfig, out: Path, seed: int) -> dict[str, Any]:
    """Calibrate on training texts, quantise the MatMul and Gemm nodes and the word embedding of inputs["student"].

    Raises ShrinkError when there are fewer training texts than calibration_rows.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from tasks import data
    from tasks.quantize.artifact import finish, quiet

    source = inputs["student"]
    rows = data.read_rows(inputs["data"], "train")
    if len(rows) < config.calibration_rows:
        raise ShrinkError(
            f"calibration_rows of quantize/int8_static is {config.calibration_rows} but the data has {len(rows)} "
            "training texts; lower it."
        )
    texts = [row["text"] for row in rows[: config.calibration_rows]]
    progress.report(0, 2, "calibrating")
    with tempfile.TemporaryDirectory() as folder, quiet():
        quantize_static(
            source / "model.onnx",
            Path(folder) / "model.onnx",
            Calibration(source, texts),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=config.per_channel,
            reduce_range=config.reduce_range,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            extra_options={"MatMulConstBOnly": True},  # attention's own products stay in float, as in int8_dynamic
        )
        proto = onnx.load(Path(folder) / "model.onnx")
    return finish(proto, config.embedding, source, out)


class Calibration:
    """One text after the other, unpadded, as ONNX Runtime's calibrator asks for them (it wants an object)."""

    def __init__(self, model: Path, texts: list[str]) -> None:
        from tasks import runtime

        self.waiting: Iterator[dict[str, Any]] = (runtime.feeds([ids]) for ids in runtime.encode(model, texts))

    def get_next(self) -> dict[str, Any] | None:
        """The inputs of the next text, None after the last."""
        return next(self.waiting, None)
