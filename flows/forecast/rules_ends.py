"""What the ends of a run leave and take: data and floor before the stages, comparison, evaluation and reload behind."""

from flows.forecast.amounts import BARE, FORWARD, GRAPH, LOAD, ONNX, ROW, SCIKIT, Forecast, Made, loaded
from flows.forecast.counted import Counted
from tasks import windows
from tasks.compare import CompareConfig
from tasks.data import DataConfig
from tasks.embed.evaluate import EmbedEvaluateConfig
from tasks.embed.floor import EmbedFloorConfig
from tasks.evaluate import GOLDEN, EvaluateConfig
from tasks.floor import FloorConfig
from tasks.reload import ReloadConfig

COMPARED = 450.0  # MB that a comparison holds beside its source: torch, even where it is not called, and the export

Ends = DataConfig | FloorConfig | EmbedFloorConfig | CompareConfig | EvaluateConfig | EmbedEvaluateConfig | ReloadConfig


def foretell(config: Ends, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """The forecast of a stage with these inputs by role."""
    match config:
        case DataConfig():
            rows = counted.of("train", "validation", "test", "transfer")[0]
            made = Made(format="rows", bytes=counted.bytes)
            return Forecast(made=made, work=0.1 + 2e-5 * rows, ram_mb=BARE + ROW * rows, parallel=False)
        case FloorConfig():
            return floor(config, counted)
        case EmbedFloorConfig():
            return embed_floor(config, inputs, counted)
        case CompareConfig():
            return compared(config, inputs, counted)
        case EvaluateConfig():
            return evaluate(config, inputs, counted)
        case EmbedEvaluateConfig():
            return embed_evaluate(config, inputs, counted)
        case ReloadConfig():
            return Forecast(made=Made(format="result", bytes=63), work=0.1, ram_mb=ONNX, parallel=False)


def floor(config: FloorConfig, counted: Counted) -> Forecast:
    """TF-IDF with logistic regression: its columns are counted."""
    rows, (features, terms) = counted.of("train", "transfer")[0], counted.features(config)
    classes = 1 if len(counted.labels) == 2 else len(counted.labels)
    size = terms + 4 * (1 + classes) * features + 4 * classes * rows + 600
    work = 1.5 + config.folds * counted.splits["train"].rows * 1.4e-4 * classes
    made = Made(format="floor", bytes=round(size))
    return Forecast(made=made, work=work, ram_mb=SCIKIT + 2.4e-3 * features, parallel=False)


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


def compared(config: CompareConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """Both answer some validation texts, the export in its own process, all forked from one with torch."""
    rows, tokens, squares = counted.of("validation")
    shape = inputs["source"].shape
    part = min(1.0, config.rows / max(1, rows))
    answers = 2 * part * shape.macs(tokens, squares) / GRAPH if shape else 1.0
    work = 0.2 + 0.3 * answers if config.source == "onnx" else 0.4 + answers
    ram = COMPARED + (0.9 if config.source == "onnx" else 1.6) * inputs["source"].bytes / 1e6
    return Forecast(made=Made(format="comparison", bytes=155), work=work, ram_mb=ram, parallel=False)


def evaluate(config: EvaluateConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """Teacher and student answer every held-out text, then take turns under the clock."""
    rows, tokens, squares = counted.of(config.split)
    timed = (config.rounds + 10 + 9 * 32) / max(1, rows)
    work = 3.5 + served(inputs, tokens / max(1, rows), config.rounds)
    for role in ("teacher", "student"):
        one = inputs[role]
        if one.shape is not None:
            faster = 1.0 if one.products == "fp32" else 0.5
            work += (1 + timed) * faster * one.shape.macs(tokens, squares) / GRAPH
    ram = 2 * ONNX + 6 * inputs["teacher"].bytes / 1e6 + ROW * rows
    size = 8500 + rows * (8 + 4 * (2 * len(counted.labels) + 1))
    return Forecast(made=Made(format="evaluation", bytes=size), work=work, ram_mb=ram, parallel=False)


def served(inputs: dict[str, Made], tokens: float, rounds: int) -> float:
    """Seconds of the windows in which teacher and student answer requests of so many tokens."""
    shape = inputs["teacher"].shape
    request = shape.macs(round(tokens), round(tokens**2)) / GRAPH if shape else 0.0
    return 2 * windows.TURNS * windows.seconds_of(request, windows.REQUESTS * rounds)


def embed_evaluate(config: EmbedEvaluateConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """Held-out and, for the probe, training texts are embedded; every held-out text is compared with all others."""
    rows = min(config.texts, counted.of(config.split)[0])
    texts, tokens, squares = counted.of(config.split, *(("train",) if counted.labels else ()))
    work = 8.0 + 3e-6 * rows**2 + served(inputs, tokens / max(1, texts), config.rounds)
    for one in (inputs["teacher"], inputs["student"]):
        if one.shape is not None:
            work += (1.0 if one.products == "fp32" else 0.5) * one.shape.macs(tokens, squares) / GRAPH
    ram = 2 * ONNX + 6 * inputs["teacher"].bytes / 1e6 + 1.2e-4 * rows**2
    width = inputs["student"].shape.width if inputs["student"].shape else 0
    golden = len(GOLDEN) * 26 * width  # vectors written as text
    made = Made(format="evaluation", bytes=9500 + golden + 24 * (2 + bool(counted.labels)) * rows)
    return Forecast(made=made, work=work, ram_mb=ram, parallel=False)
