"""Rounds a decoder's weights to the nearest point of a grid, each by itself: the baseline of GPTQ and AWQ.

Scales are those with the least squared error of each group's weights, nothing is learnt from text.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tasks.generate.choices import RoundingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.generate.grids import Grid, Rounded
    from tasks.generate.walk import Give, Sums


class RtnConfig(RoundingConfig):
    """Which grid a decoder's weights are rounded to, each weight by itself."""

    method: Literal["rtn"] = Field("rtn", description="The quantisation method.")


def run(inputs: dict[str, Path], config: RtnConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the rounded student; measured: bits_per_weight over all weights, weights by grid."""
    from tasks.generate import rounding

    measured: dict[str, Any] = rounding.run(inputs, config, out, seed, layer, table, needs_text=False)
    return measured


def table(weight: "Tensor", sums: "Tensor | None", grid: "Grid") -> "Rounded":
    """An embedding or a head, rounded to the nearest."""
    from tasks.generate import grids

    return grids.nearest(weight, grid)


def layer(
    layer: "nn.Module", chosen: "dict[str, Grid]", sums: "Sums | None", give: "Give | None"
) -> "dict[str, Rounded]":
    """A layer's weights by name, each rounded to the nearest."""
    from tasks.generate import grids, walk

    return {name: grids.nearest(walk.weight_of(walk.linears_of(layer)[name]), grid) for name, grid in chosen.items()}
