"""Bytes of artifacts, megabytes of memory and speed, from a model's shape: the arithmetic behind rules.py.

Seconds are those of the reference: one idle thread of the machine that benchmarks/README.md describes; pace.py
makes them this machine's. Constants were fitted to the stages of `sentiment` and of its smoke walk; that README says
how near they come.
"""

import math
from typing import Literal

from pydantic import BaseModel

from flows.forecast.counted import Counted
from registry.records import STRICT
from tasks.quantize.embedding import group_of
from tasks.shape import Shape

# Memory in MB: what a process holds once it has imported, and how much more than the sum of its parts it takes
TORCH, EXPORTER, ONNX, SCIKIT, BARE = 395.0, 527.0, 80.0, 195.0, 40.0
SLACK = 1.2
COPIES = 1.95  # of a model's weights while it is loaded or saved
PIECE = 233e-6  # a text's piece while it is tokenised
ROW = 1e-3  # a row's text and its identifiers as Python objects
ADAM = 12e-6  # gradient and both moments of a trained weight
BATCH = 64  # texts that are predicted together

# The reference's speed, multiply-adds a second of one thread, padding included
FORWARD, TRAINING, GRAPH = 52e9, 45e9, 30e9
BACKWARD = 2.0  # multiply-adds of the way back, in those of the way there
OPTIMIZER = 4e-9  # seconds a trained weight and step: AdamW moves memory
LOAD = 0.7  # seconds to fork, load and save

# Bytes of what is not weights
TENSOR, SIDECARS, GRAPH_LAYER, GRAPH_REST, QUANTISED = 110, 820, 5_800, 6_500, 600

Bits = Literal["fp32", "int8", "int4"]


class Made(BaseModel):
    """What a step leaves, as far as it can be foretold."""

    model_config = STRICT
    format: str
    bytes: int
    shape: Shape | None = None
    tokenizer: int = 0  # bytes of its tokenizer.json
    weights: int | None = None  # of a decoder, which has no shape
    bits: float | None = None  # a weight of it, where it is rounded
    length: int | None = None  # tokens of a window that was answered
    products: Bits = "fp32"  # what an ONNX graph keeps the weights of its products in
    table: str = "none"  # and its word embedding


class Forecast(BaseModel):
    """What a step leaves and what it takes; `known` is false where there is no rule for its kind."""

    model_config = STRICT
    made: Made
    work: float  # seconds of the reference, in one thread
    ram_mb: float
    parallel: bool = True  # whether more threads make it faster
    known: bool = True


def torch_made(shape: Shape, tokenizer: int) -> Made:
    """A torch artifact: full precision, its header, tokenizer and records."""
    size = 4 * shape.parameters + TENSOR * len(shape.tensors) + SIDECARS + tokenizer
    return Made(format="torch", bytes=size, shape=shape, tokenizer=tokenizer)


def onnx_made(
    shape: Shape, tokenizer: int, products: Bits = "fp32", table: str = "none", block: int = 0, symmetric: bool = True
) -> Made:
    """An ONNX artifact: weights by their format with scales, the graph, tokenizer and config."""
    matrices = [*shape.matrices, *([[shape.labels, shape.width]] if shape.labels else [])]
    linear, columns = sum(map(math.prod, matrices)), sum(one[0] for one in matrices)
    match products:
        case "fp32":
            weighed = 4.0 * linear
        case "int8":
            weighed = linear + 5 * columns + QUANTISED * len(matrices)
        case "int4":
            weighed = linear * (0.5 + (4 if symmetric else 4.5) / block) + QUANTISED * len(matrices) / 2
    rows, wide = shape.rows
    row = {"int8": wide + 2, "int4": wide / 2 + 2 * wide / group_of(wide), "none": 4 * wide}
    others = 4 * (shape.parameters - linear - shape.table)
    graph = GRAPH_REST + GRAPH_LAYER * shape.layers + 16 * shape.positions
    made = round(weighed + rows * row[table] + others + graph) + tokenizer + 66
    return Made(format="onnx", bytes=made, shape=shape, tokenizer=tokenizer, products=products, table=table)


def loaded(shape: Shape, held: float = 0.0) -> float:
    """MB of a process that has a model loaded, and so many MB beside it."""
    return TORCH + SLACK * (COPIES * 4e-6 * shape.parameters + held)


def read(rows: int, tokens: float) -> float:
    """MB of rows that were read and tokenised."""
    return ROW * rows + PIECE * tokens


def activations(shape: Shape, batch: int, counted: Counted, trained: bool = False) -> float:
    """MB of a batch of the longest texts: of one layer on the way there, of all when the way back needs them."""
    longest = max(max(part.lengths, default=1) for part in counted.splits.values() if part.rows)
    layer = 4e-6 * batch * longest * ((12 if trained else 6) * shape.width + 2 * shape.ffn)
    return layer * (max(1, shape.layers) if trained else 1)


def calibrated(rows: int, student: Made, counted: Counted) -> Forecast:
    """A pass of the model over so many training texts; the shape stays."""
    assert student.shape is not None
    have, tokens, squares = counted.of("train")
    part = rows / max(1, have)
    work = LOAD + part * student.shape.macs(tokens, squares) / FORWARD
    held = 8e-6 * part * tokens * student.shape.width + activations(student.shape, BATCH, counted)
    made = torch_made(student.shape, student.tokenizer)
    return Forecast(made=made, work=work, ram_mb=loaded(student.shape, held + read(rows, part * tokens)))
