"""What each stage kind leaves and takes, foretold from sizes alone: weights, bytes, memory, processor seconds.

A rule a kind, written as `match`; one that has none is foretold as a training (where it has epochs) or as a pass over
the training texts, and says so. Seconds are those of the reference: one idle thread of the machine that
benchmarks/README.md describes; flows/pace.py makes them this machine's.
"""

from typing import Any

from pydantic import BaseModel

from flows.amounts import (
    ADAM,
    BARE,
    BATCH,
    COPIES,
    EXPORTER,
    ONNX,
    ROW,
    SCIKIT,
    SLACK,
    Bits,
    Made,
    activations,
    loaded,
    onnx_made,
    read,
    torch_made,
)
from flows.counted import Counted
from registry.records import STRICT
from tasks.compare import CompareConfig
from tasks.data import DataConfig
from tasks.distill.answers import LessonConfig
from tasks.distill.embeddings import DistillEmbeddingsConfig
from tasks.distill.exits import DistillSelfConfig
from tasks.distill.hidden import DistillHiddenConfig
from tasks.distill.logits import DistillLogitsConfig
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.distill.relations import DistillRelationsConfig
from tasks.distill.triple import DistillTripleConfig
from tasks.embed.adopt import AdoptConfig
from tasks.embed.evaluate import EmbedEvaluateConfig
from tasks.embed.floor import EmbedFloorConfig
from tasks.evaluate import EvaluateConfig
from tasks.export.executorch import ExecutorchConfig
from tasks.export.onnx import OnnxConfig
from tasks.export.openvino import OpenvinoConfig
from tasks.export.packed import PackedConfig
from tasks.finetune import FinetuneConfig
from tasks.floor import FloorConfig
from tasks.kinds import AnyStageConfig
from tasks.label import LabelConfig
from tasks.prune import structured, vocabulary
from tasks.prune.gradual import PruneGradualConfig
from tasks.prune.low_rank import PruneLowRankConfig
from tasks.prune.magnitude import PruneMagnitudeConfig
from tasks.prune.movement import PruneMovementConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.vocabulary import PruneVocabularyConfig
from tasks.prune.wanda import PruneWandaConfig
from tasks.quantize.int4_weight_only import Int4WeightOnlyConfig
from tasks.quantize.int8_dynamic import Int8DynamicConfig
from tasks.quantize.int8_static import Int8StaticConfig
from tasks.quantize.smooth import SmoothConfig
from tasks.reload import ReloadConfig
from tasks.shape import Shape
from tasks.students import StudentConfig, described

# The reference's speed, multiply-adds a second of one thread, padding included
FORWARD, TRAINING, GRAPH = 52e9, 45e9, 30e9
BACKWARD = 2.0  # multiply-adds of the way back, in those of the way there
OPTIMIZER = 4e-9  # seconds a trained weight and step: AdamW moves memory
ROUNDING = 1.3  # times as long a training takes that rounds as it goes
LOAD = 0.7  # seconds to fork, load and save


class Forecast(BaseModel):
    """What a step leaves and what it takes; `known` is false where there is no rule for its kind."""

    model_config = STRICT
    made: Made
    work: float  # seconds of the reference, in one thread
    ram_mb: float
    parallel: bool = True  # whether more threads make it faster
    known: bool = True


def foretell(config: AnyStageConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """The forecast of a stage with these inputs by role."""
    student = next((inputs[role] for role in ("student", "start", "model", "teacher") if role in inputs), None)
    match config:
        case DataConfig():
            rows = counted.of("train", "validation", "test", "transfer")[0]
            made = Made(format="rows", bytes=counted.bytes)
            return Forecast(made=made, work=0.1 + 2e-5 * rows, ram_mb=BARE + ROW * rows, parallel=False)
        case FloorConfig():
            return floor(config, counted)
        case EmbedFloorConfig():
            return embed_floor(config, inputs, counted)
        case FinetuneConfig():
            return finetune(config, inputs[config.teacher], counted)
        case AdoptConfig():
            return adopted(config, inputs["teacher"], counted)
        case LabelConfig():
            return label(config, inputs, counted)
        case EvaluateConfig():
            return evaluate(config, inputs, counted)
        case EmbedEvaluateConfig():
            return embed_evaluate(config, inputs, counted)
        case CompareConfig():
            return compared(config, inputs, counted)
        case ReloadConfig():
            return Forecast(made=Made(format="result", bytes=63), work=0.1, ram_mb=ONNX, parallel=False)
    assert student is not None and student.shape is not None
    match config:
        case StudentConfig():
            facts = {"vocab_size": student.shape.rows[0], "max_position_embeddings": counted.max_length}
            shape = Shape(config=described(config, {**facts, "pad_token_id": 0}), labels=student.shape.labels)
            return Forecast(made=torch_made(shape, student.tokenizer), work=LOAD, ram_mb=loaded(student.shape))
        case PruneVocabularyConfig():
            return vocabulary_pruned(config, student, counted)
        case PruneStructuredConfig():
            return structured_pruned(config, student, counted)
        case PruneMagnitudeConfig():
            return Forecast(made=torch_made(student.shape, student.tokenizer), work=LOAD, ram_mb=loaded(student.shape))
        case PruneWandaConfig():
            return calibrated(config.calibration_rows, student, counted)
        case PruneLowRankConfig():
            shape = student.shape.cut(embedding_rank=config.rank)
            return Forecast(made=torch_made(shape, student.tokenizer), work=LOAD + 1, ram_mb=loaded(student.shape))
        case (
            DistillLogitsConfig()
            | DistillEmbeddingsConfig()
            | (DistillRelationsConfig() | DistillHiddenConfig() | DistillTripleConfig())
        ):
            return taught(config, inputs, counted)
        case DistillSelfConfig():
            forecast, shape = taught(config, inputs, counted), student.shape
            shape = shape.cut(num_hidden_layers=config.keep or shape.layers)
            return forecast.model_copy(update={"made": torch_made(shape, student.tokenizer)})
        case DistillQuantizedConfig():
            forecast = taught(config, inputs, counted)
            return forecast.model_copy(update={"work": ROUNDING * forecast.work})
        case PruneGradualConfig() | PruneMovementConfig():
            return sparsely_taught(config, student, inputs, counted)
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
    return unknown(config, inputs, counted)


def unknown(config: AnyStageConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """A kind without a rule: a training where it has epochs, else a pass over the training texts; the shape stays."""
    student = next(one for one in inputs.values() if one.shape is not None)
    made = student.model_copy(update={"format": config.writes[1]})
    if getattr(config, "epochs", None):
        forecast = taught(config, inputs, counted)
    else:
        forecast = calibrated(counted.splits["train"].rows, student, counted)
    return forecast.model_copy(update={"made": made, "known": False})


def floor(config: FloorConfig, counted: Counted) -> Forecast:
    """TF-IDF with logistic regression: its columns are counted."""
    rows, (features, terms) = counted.of("train", "transfer")[0], counted.features(config)
    classes = 1 if len(counted.labels) == 2 else len(counted.labels)
    size = terms + 4 * (1 + classes) * features + 4 * classes * rows + 600
    work = 1.5 + config.folds * counted.splits["train"].rows * 1.4e-4 * classes
    made = Made(format="floor", bytes=round(size))
    return Forecast(made=made, work=work, ram_mb=SCIKIT + 2.4e-3 * features, parallel=False)


def finetune(config: FinetuneConfig, source: Made, counted: Counted) -> Forecast:
    """The frozen layers' outputs are computed once and kept in half precision: they fill the memory."""
    assert source.shape is not None
    layers = min(source.shape.layers, config.keep_layers or source.shape.layers)
    shape = source.shape.cut(num_hidden_layers=layers).with_labels(len(counted.labels))
    tuned = min(layers, config.tuned_layers)
    top, bottom = (shape.cut(num_hidden_layers=count) for count in (tuned, layers - tuned))
    rows, tokens, squares = counted.of("train")
    held = counted.of("validation")[1:]
    trained = shape.parameters - bottom.parameters
    steps = config.epochs * rows / config.batch_size
    work = LOAD + (bottom.macs(tokens, squares) + shape.macs(*held)) / FORWARD
    work += config.epochs * (1 + BACKWARD) * top.macs(tokens, squares) / TRAINING + OPTIMIZER * steps * trained
    kept = 2e-6 * tokens * shape.width + read(rows, tokens)
    ram = loaded(shape, kept + ADAM * trained + activations(top, config.batch_size, counted, trained=True))
    return Forecast(made=torch_made(shape, counted.tokenizer_bytes), work=work, ram_mb=ram)


def adopted(config: AdoptConfig, source: Made, counted: Counted) -> Forecast:
    """The encoder as it is, without labels: read and written."""
    assert source.shape is not None
    layers = min(source.shape.layers, config.keep_layers or source.shape.layers)
    shape = source.shape.cut(num_hidden_layers=layers).with_labels(0)
    made = torch_made(shape, counted.tokenizer_bytes)
    return Forecast(made=made, work=LOAD, ram_mb=loaded(source.shape))


def embed_floor(config: EmbedFloorConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """TF-IDF vectors: about as many features as a vocabulary of words and pairs has. Static ones: a vector a piece."""
    if config.vectors == "model2vec":
        shape = inputs["teacher"].shape
        assert shape is not None
        pieces, tokens = shape.rows[0], 3  # with what stands around a text
        made = Made(format="floor", bytes=2 * min(256, shape.width) * pieces + counted.tokenizer_bytes + 800)
        work = LOAD + 4 + shape.macs(tokens * pieces, tokens**2 * pieces) / FORWARD
        held = 16e-6 * pieces * shape.width
        return Forecast(made=made, work=work, ram_mb=loaded(shape, held))
    rows = counted.of("train", "transfer")[0]
    features = 0.72 * (1 + 2.2 * (config.ngrams - 1)) * rows  # as on the sentences of the shipped recipe
    made = Made(format="floor", bytes=round(17 * features + 300))
    return Forecast(made=made, work=1.5 + 1e-4 * rows, ram_mb=SCIKIT + 2.4e-3 * features, parallel=False)


def label(config: LabelConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """A pass of each teacher; one's pooled vectors stay in half precision, all logits and shares in full."""
    asked = [shape for name in sorted(config.teachers) if (shape := inputs[name].shape) is not None]
    kept = inputs[config.pooled_of].shape
    assert kept is not None
    names = ["train", *(["transfer"] if config.transfer else [])]
    names += [] if kept.labels else ["validation"]  # of embeddings to look at, not to learn from
    rows, tokens, squares = counted.of(*names)
    answers = len(asked) * kept.labels + (len(asked) if len(asked) > 1 else 0)
    size = rows * (2 * kept.width + 4 * answers) + 300
    largest = max(asked, key=lambda shape: shape.parameters)
    held = read(rows, tokens) + 8e-6 * rows * kept.width + activations(largest, BATCH, counted)
    work = sum(LOAD + shape.macs(tokens, squares) / FORWARD for shape in asked)
    made = Made(format="labels", bytes=size)
    return Forecast(made=made, work=work, ram_mb=loaded(largest, held))


def vocabulary_pruned(config: PruneVocabularyConfig, student: Made, counted: Counted) -> Forecast:
    """The pieces that stay are counted as the stage counts them, and the tokenizer is written as it writes it."""
    import json

    from tokenizers import Tokenizer

    assert student.shape is not None
    found = counted.splits["train"].pieces
    if config.transfer:
        found = found + counted.splits["transfer"].pieces
    pad = counted.tokenizer.padding or {}
    kept = sorted({*vocabulary.kept_pieces(counted.description, found, config.min_count), int(pad.get("pad_id", 0))})
    smaller, _ = vocabulary.reindex(counted.description, kept)
    written = Tokenizer.from_str(json.dumps(smaller, ensure_ascii=False)).to_str()
    shape = student.shape.cut(vocab_size=len(kept))
    rows, tokens, _ = counted.of("train")
    ram = loaded(student.shape, read(rows, tokens) / 4)
    return Forecast(made=torch_made(shape, len(written.encode())), work=LOAD + 5e-5 * rows, ram_mb=ram)


def structured_pruned(config: PruneStructuredConfig, student: Made, counted: Counted) -> Forecast:
    """Cuts; importance takes a backward pass of the whole model over a sample."""
    whole = student.shape
    assert whole is not None
    shape = whole
    if config.layers is not None:
        shape = shape.cut(num_hidden_layers=len(config.layers))
    if config.ffn is not None:
        shape = shape.cut(intermediate_size=config.ffn)
    if config.heads is not None:
        shape = shape.cut(kept_heads=config.heads)
    if config.hidden is not None:
        heads = shape.letters["i"] // shape.letters["s"]
        count = config.hidden // shape.letters["s"]
        shape = shape.cut(hidden_size=config.hidden, num_attention_heads=count, kept_heads=heads)
    if config.positions:
        shape = shape.cut_positions(counted.max_length)
    work, held = LOAD, 0.0
    if any(one is not None for one in (config.ffn, config.heads, config.hidden)):
        sample = min(1.0, structured.SAMPLE / max(1, counted.splits["train"].rows))
        _, tokens, squares = counted.of("train")
        work += sample * (1 + BACKWARD) * whole.macs(tokens, squares) / TRAINING
        held = activations(whole, 16, counted, trained=True)
    return Forecast(made=torch_made(shape, student.tokenizer), work=work, ram_mb=loaded(whole, held))


def calibrated(rows: int, student: Made, counted: Counted) -> Forecast:
    """A pass of the model over so many training texts; the shape stays."""
    assert student.shape is not None
    have, tokens, squares = counted.of("train")
    part = rows / max(1, have)
    work = LOAD + part * student.shape.macs(tokens, squares) / FORWARD
    held = 8e-6 * part * tokens * student.shape.width + activations(student.shape, BATCH, counted)
    made = torch_made(student.shape, student.tokenizer)
    return Forecast(made=made, work=work, ram_mb=loaded(student.shape, held + read(rows, part * tokens)))


def taught(config: LessonConfig | Any, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """A training on the teacher's answers; where the teacher runs along, its passes are added."""
    student = next(one for role, one in inputs.items() if one.shape is not None and role in {"student", "start"})
    shape = student.shape
    assert shape is not None
    names = ("train", "transfer") if getattr(config, "transfer", True) else ("train",)
    rows, tokens, squares = counted.of(*names)
    epochs, batch = config.epochs, getattr(config, "batch_size", 32)
    steps = epochs * rows / batch
    work = LOAD + epochs * (1 + BACKWARD) * shape.macs(tokens, squares) / TRAINING
    work += OPTIMIZER * steps * shape.parameters + 2 * shape.macs(*counted.of("validation")[1:]) / FORWARD
    answers = 4e-6 * rows * (1.5 * shape.width + len(counted.labels))
    held = read(rows, tokens) + answers + ADAM * shape.parameters
    held += activations(shape, batch, counted, trained=True)
    beside = [one.shape for role, one in inputs.items() if role not in {"student", "start"} and one.shape is not None]
    for teacher in beside:
        work += epochs * teacher.macs(tokens, squares) / FORWARD
        held += COPIES * 4e-6 * teacher.parameters + activations(teacher, batch, counted)
    return Forecast(made=torch_made(shape, student.tokenizer), work=work, ram_mb=loaded(shape, held))


def sparsely_taught(
    config: PruneGradualConfig | PruneMovementConfig, student: Made, inputs: dict[str, Made], counted: Counted
) -> Forecast:
    """A training that holds a mask of every product beside its weights, movement their scores as well."""
    assert student.shape is not None
    forecast = taught(config, inputs, counted)
    beside = student.shape.products * (5e-6 if isinstance(config, PruneMovementConfig) else 1e-6)
    return forecast.model_copy(update={"ram_mb": forecast.ram_mb + SLACK * beside})


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


def compared(config: CompareConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """Both answer some validation texts, the export in a process of its own."""
    rows, tokens, squares = counted.of("validation")
    shape = inputs["source"].shape
    part = min(1.0, config.rows / max(1, rows))
    work = 3 + (2 * part * shape.macs(tokens, squares) / GRAPH if shape else 0)
    ram = loaded(shape) if shape and config.source != "onnx" else 2 * ONNX + 3 * inputs["source"].bytes / 1e6
    return Forecast(made=Made(format="comparison", bytes=400), work=work, ram_mb=ram, parallel=False)


def smoothed(config: SmoothConfig, student: Made, counted: Counted) -> Forecast:
    """A factor for every input of a product; the inputs of all texts are looked at one text after the other."""
    shape = student.shape
    assert shape is not None
    part = config.calibration_rows / max(1, counted.splits["train"].rows)
    size = student.bytes + 4 * shape.layers * (2 * shape.width + shape.inner + shape.ffn)
    work = 1.5 + part * shape.macs(*counted.of("train")[1:]) / GRAPH
    made = student.model_copy(update={"bytes": size})
    return Forecast(made=made, work=work, ram_mb=2 * ONNX + 4.5 * student.bytes / 1e6, parallel=False)


def evaluate(config: EvaluateConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """Teacher and student answer every held-out text, then take turns under the clock."""
    rows, tokens, squares = counted.of(config.split)
    timed = (config.rounds + 10 + 9 * 32) / max(1, rows)
    work = 3.5
    for role in ("teacher", "student"):
        one = inputs[role]
        if one.shape is not None:
            faster = 1.0 if one.products == "fp32" else 0.5
            work += (1 + timed) * faster * one.shape.macs(tokens, squares) / GRAPH
    ram = 2 * ONNX + 6 * inputs["teacher"].bytes / 1e6 + ROW * rows
    size = 2600 + rows * (8 + 4 * (2 * len(counted.labels) + 1))
    return Forecast(made=Made(format="evaluation", bytes=size), work=work, ram_mb=ram, parallel=False)


def embed_evaluate(config: EmbedEvaluateConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """Held-out and, for the probe, training texts are embedded; every held-out text is compared with all others."""
    rows = min(config.texts, counted.of(config.split)[0])
    _, tokens, squares = counted.of(config.split, *(("train",) if counted.labels else ()))
    work = 8.0 + 3e-6 * rows**2
    for one in (inputs["teacher"], inputs["student"]):
        if one.shape is not None:
            work += (1.0 if one.products == "fp32" else 0.5) * one.shape.macs(tokens, squares) / GRAPH
    ram = 2 * ONNX + 6 * inputs["teacher"].bytes / 1e6 + 1.2e-4 * rows**2
    golden = 16 * 26 * (inputs["student"].shape.width if inputs["student"].shape else 0)  # vectors written as text
    made = Made(format="evaluation", bytes=4000 + golden + 24 * (2 + bool(counted.labels)) * rows)
    return Forecast(made=made, work=work, ram_mb=ram, parallel=False)
