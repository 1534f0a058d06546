"""What a stage leaves and takes in which a model learns or answers: teachers, their labels, distillation."""

from typing import Any

from flows.forecast.amounts import (
    ADAM,
    BACKWARD,
    BATCH,
    COPIES,
    FORWARD,
    LOAD,
    OPTIMIZER,
    SLACK,
    TRAINING,
    Forecast,
    Made,
    activations,
    loaded,
    read,
    torch_made,
)
from flows.forecast.counted import Counted
from tasks.distill.answers import LessonConfig
from tasks.distill.exits import DistillSelfConfig
from tasks.distill.quantized import DistillQuantizedConfig
from tasks.embed.adopt import AdoptConfig
from tasks.finetune import FinetuneConfig
from tasks.kinds import DistillMethods, StartMethods
from tasks.label import LabelConfig
from tasks.prune.gradual import PruneGradualConfig
from tasks.prune.movement import PruneMovementConfig

ROUNDING = 1.3  # times as long a training takes that rounds as it goes
Teaching = StartMethods | DistillMethods | PruneGradualConfig | PruneMovementConfig


def foretell(config: Teaching, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """The forecast of a stage with these inputs by role."""
    match config:
        case FinetuneConfig():
            return finetune(config, inputs[config.teacher], counted)
        case AdoptConfig():
            return adopted(config, inputs["teacher"], counted)
        case LabelConfig():
            return label(config, inputs, counted)
        case DistillSelfConfig():
            return self_taught(config, inputs, counted)
        case DistillQuantizedConfig():
            forecast = taught(config, inputs, counted)
            return forecast.model_copy(update={"work": ROUNDING * forecast.work})
        case PruneGradualConfig() | PruneMovementConfig():
            return sparsely_taught(config, inputs, counted)
        case _:
            return taught(config, inputs, counted)


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


def self_taught(config: DistillSelfConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """As any training; the layers above the kept exit go."""
    forecast, student = taught(config, inputs, counted), inputs["student"]
    assert student.shape is not None
    shape = student.shape.cut(num_hidden_layers=config.keep or student.shape.layers)
    return forecast.model_copy(update={"made": torch_made(shape, student.tokenizer)})


def sparsely_taught(
    config: PruneGradualConfig | PruneMovementConfig, inputs: dict[str, Made], counted: Counted
) -> Forecast:
    """A training that holds a mask of every product beside its weights, movement their scores as well."""
    forecast, shape = taught(config, inputs, counted), inputs["student"].shape
    assert shape is not None
    beside = shape.products * (5e-6 if isinstance(config, PruneMovementConfig) else 1e-6)
    return forecast.model_copy(update={"ram_mb": forecast.ram_mb + SLACK * beside})
