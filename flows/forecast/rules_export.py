"""What a stage leaves and takes that exports a student or quantises it."""

from flows.forecast.amounts import BARE, EXPORTER, GRAPH, ONNX, SLACK, Bits, Forecast, Made, onnx_made
from flows.forecast.counted import Counted
from tasks.export.executorch import ExecutorchConfig
from tasks.export.onnx import OnnxConfig
from tasks.export.openvino import OpenvinoConfig
from tasks.export.packed import PackedConfig
from tasks.kinds import ExportEncoders, QuantizeGraphs
from tasks.quantize.int4_weight_only import Int4WeightOnlyConfig
from tasks.quantize.int8_dynamic import Int8DynamicConfig
from tasks.quantize.int8_static import Int8StaticConfig
from tasks.quantize.smooth import SmoothConfig

Exports = ExportEncoders | QuantizeGraphs


def foretell(config: Exports, student: Made, counted: Counted) -> Forecast:
    """The forecast of a stage that works on this student."""
    assert student.shape is not None
    match config:
        case OnnxConfig():
            made = onnx_made(student.shape, student.tokenizer)
            ram = EXPORTER + SLACK * 3.2 * made.bytes / 1e6
            return Forecast(made=made, work=3.8 + 0.25 * student.shape.layers, ram_mb=ram, parallel=False)
        case OpenvinoConfig():
            made = student.model_copy(update={"format": "openvino"})
            return Forecast(made=made, work=2, ram_mb=2 * ONNX + 3 * made.bytes / 1e6, parallel=False)
        case ExecutorchConfig():
            made = student.model_copy(update={"format": "executorch"})
            return Forecast(made=made, work=15, ram_mb=EXPORTER + SLACK * 4 * made.bytes / 1e6, parallel=False)
        case PackedConfig():
            made = student.model_copy(update={"format": "packed"})
            return Forecast(made=made, work=0.5, ram_mb=BARE + 4 * made.bytes / 1e6, parallel=False)
        case SmoothConfig():
            return smoothed(config, student, counted)
        case Int8DynamicConfig() | Int8StaticConfig() | Int4WeightOnlyConfig():
            return quantised(config, student, counted)


def quantised(
    config: Int8DynamicConfig | Int8StaticConfig | Int4WeightOnlyConfig, student: Made, counted: Counted
) -> Forecast:
    """Bytes a weight of the format, scales included; the table is kept as the stage says."""
    assert student.shape is not None
    table = student.table if config.embedding == "none" else config.embedding
    bits: Bits = "int4" if isinstance(config, Int4WeightOnlyConfig) else "int8"
    block = getattr(config, "block_size", 0)
    made = onnx_made(student.shape, student.tokenizer, bits, table, block, getattr(config, "symmetric", True))
    work, ram = 0.5 + student.bytes * 1e-8, ONNX + 3.6 * student.bytes / 1e6
    if isinstance(config, Int8StaticConfig):
        _, tokens, squares = counted.of("train")
        part = config.calibration_rows / max(1, counted.splits["train"].rows)
        work += 1 + part * student.shape.macs(tokens, squares) / GRAPH
        ram += 4e-6 * part * tokens * student.shape.layers * (5 * student.shape.width + student.shape.ffn)
    return Forecast(made=made, work=work, ram_mb=ram, parallel=False)


def smoothed(config: SmoothConfig, student: Made, counted: Counted) -> Forecast:
    """A factor for every input of a product; the inputs of all texts are looked at one text after the other."""
    shape = student.shape
    assert shape is not None
    part = config.calibration_rows / max(1, counted.splits["train"].rows)
    size = student.bytes + 4 * shape.layers * (2 * shape.width + shape.inner + shape.ffn)
    work = 1.5 + part * shape.macs(*counted.of("train")[1:]) / GRAPH
    made = student.model_copy(update={"bytes": size})
    return Forecast(made=made, work=work, ram_mb=2 * ONNX + 4.5 * student.bytes / 1e6, parallel=False)
