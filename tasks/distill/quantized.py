"""Quantization-aware distillation: the student learns the teacher's answers while it already computes as if quantized.

In every step weights, inputs of products and embedding vectors are rounded to the very grid that the quantize stage
behind will use, and the gradients pass the rounding (Jacob et al. 2018, "Quantization and training of neural networks
for efficient integer-arithmetic-only inference", section 3; Bengio, Leonard and Courville 2013). Learnt and saved are
the weights in full precision: rounding them behind the export gives what was trained, and loses nothing more.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tasks.distill import answers
from tasks.distill.answers import AnswersConfig
from tasks.quantize.embedding import group_of
from tasks.quantize.int4_weight_only import Int4WeightOnlyConfig
from tasks.quantize.int8_dynamic import Int8DynamicConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.models import Classifier

    Grid = Callable[[Tensor], Tensor]


def named(raw: Any) -> Any:
    """A target may be its method's name alone."""
    return {"method": raw} if isinstance(raw, str) else raw


TargetMethods = Int8DynamicConfig | Int4WeightOnlyConfig
Target = Annotated[Annotated[TargetMethods, Field(discriminator="method")], BeforeValidator(named)]


class DistillQuantizedConfig(AnswersConfig):
    """How long and by which losses the student learns, and the quantisation that it learns to live with."""

    method: Literal["quantized"] = "quantized"
    reads: ClassVar[dict[str, str]] = {"student": "torch", "labels": "labels", "data": "rows"}
    target: Target = Field(description="The quantize stage behind: its method, or all that it says.")


def run(inputs: dict[str, Path], config: DistillQuantizedConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student in full precision; measured: as distill/logits, the accuracies as if quantized."""
    lesson = answers.read(inputs, config)
    attach(lesson.model, config.target)

    def loss_of(rows: list[int]) -> "Tensor":
        return answers.loss(lesson, config, rows, lesson.model.features(*answers.batch(lesson, rows)))

    return answers.teach(lesson, config, loss_of, inputs, out, seed)


def attach(model: "Classifier", target: TargetMethods) -> None:
    """Make a model compute as its quantized ONNX graph will, in place; weights and their names stay what they are."""
    from torch import nn

    weights, inputs = grids_of(target)
    parts = [model.encoder, model.head] if isinstance(target, Int8DynamicConfig) else [model.encoder]
    for linear in [module for part in parts for module in part.modules() if isinstance(module, nn.Linear)]:
        linear.forward = functools.partial(product, linear, weights, inputs)  # type: ignore[method-assign]
    if target.embedding != "none":
        table = model.table
        rows = grid_of_rows(target.embedding, table.embedding_dim)
        table.forward = functools.partial(look_up, table, rows)  # type: ignore[method-assign]


def grids_of(target: TargetMethods) -> "tuple[Grid, Grid]":
    """What rounds the weights of a product, and what rounds its inputs."""
    from tasks.quantize import grids

    if isinstance(target, Int8DynamicConfig):
        ranges, single = target.reduce_range, target.per_channel
        return functools.partial(grids.int8_channels, reduce_range=ranges, per_channel=single), grids.uint8_tensor
    blocks = functools.partial(grids.int4_blocks, block=target.block_size, symmetric=target.symmetric)
    level = functools.partial(grids.int8_blocks, block=target.block_size)
    return blocks, level if target.accuracy_level == 4 else lambda values: values


def grid_of_rows(bits: str, width: int) -> "Grid":
    """What rounds the embedding's vectors of a width."""
    from tasks.quantize import grids

    return grids.int8_rows if bits == "int8" else functools.partial(grids.int4_groups, group=group_of(width))


def product(linear: "nn.Linear", weights: "Grid", inputs: "Grid", values: "Tensor") -> "Tensor":
    """A linear layer whose weight and input are rounded; its bias is not."""
    from torch.nn import functional

    return functional.linear(rounded(values, inputs), rounded(linear.weight, weights), linear.bias)


def look_up(table: "nn.Embedding", rows: "Grid", ids: "Tensor") -> "Tensor":
    """Embedding vectors [b, t, d] that are rounded once they are gathered: a row's grid depends on no other row."""
    from torch.nn import functional

    return rounded(functional.embedding(ids, table.weight, table.padding_idx), rows)


def rounded(values: "Tensor", grid: "Grid") -> "Tensor":
    """Values on a grid, with the gradients of the values."""
    import torch

    from tasks.quantize import grids

    with torch.no_grad():
        on_grid = grid(values)
    return grids.straight_through(values, on_grid)
