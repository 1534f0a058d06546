"""Rounds a decoder's weights column by column, each column's error made up for by those behind it (GPTQ).

Frantar et al. 2022, "GPTQ: Accurate post-training quantization for generative pre-trained transformers", arXiv
2210.17323. Layers go from the bottom up, each on what the rounded ones below give it; the maths is
tasks/generate/gptq.py.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tasks.generate.choices import RoundingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.generate.grids import Grid, Rounded
    from tasks.generate.walk import Give, Sums


class GptqConfig(RoundingConfig):
    """Which grid a decoder's weights are rounded to, so that what its layers give changes least."""

    method: Literal["gptq"] = Field("gptq", description="The quantisation method.")


def run(inputs: dict[str, Path], config: GptqConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the rounded student; measured: bits_per_weight over all weights, weights by grid."""
    from tasks.generate import rounding

    measured: dict[str, Any] = rounding.run(inputs, config, out, seed, layer, table)
    return measured


def table(weight: "Tensor", sums: "Tensor | None", grid: "Grid") -> "Rounded":
    """A head, or an embedding that is one too, rounded by what the head reads; others to the nearest."""
    from tasks.generate import gptq, grids

    return grids.nearest(weight, grid) if sums is None else gptq.quantize(weight, sums, grid)


def layer(
    layer: "nn.Module", chosen: "dict[str, Grid]", sums: "Sums | None", give: "Give | None"
) -> "dict[str, Rounded]":
    """A layer's weights by name, rounded by the sums of its inputs."""
    from tasks.generate import gptq, walk

    assert sums is not None
    linears = walk.linears_of(layer)
    return {name: gptq.quantize(walk.weight_of(linears[name]), sums[name], grid) for name, grid in chosen.items()}
