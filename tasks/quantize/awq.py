"""Rounds a decoder's weights after those of large inputs were made larger, and the inputs smaller before (AWQ).

Lin et al. 2023, "AWQ: Activation-aware weight quantization for LLM compression and acceleration", arXiv 2306.00978. The
factors go into the norm or the product before (tasks/generate/folds.py): what the layer gives stays the same, and
nothing is computed more when it runs. Where a layer gives something else with them, it is left as it was and rounded by
its inputs' squares alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tasks.generate.choices import RoundingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.generate.grids import Grid, Rounded
    from tasks.generate.walk import Give, Sums


class AwqConfig(RoundingConfig):
    """Which grid a decoder's weights are rounded to, those of large inputs more finely."""

    method: Literal["awq"] = Field("awq", description="The quantisation method.")


def run(inputs: dict[str, Path], config: AwqConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the rounded student; measured: bits_per_weight over all weights, weights by grid."""
    from tasks.generate import rounding

    measured: dict[str, Any] = rounding.run(inputs, config, out, seed, layer, table)
    return measured


def table(weight: "Tensor", sums: "Tensor | None", grid: "Grid") -> "Rounded":
    """An embedding or a head, rounded to the nearest by the squares of what the head reads."""
    from tasks.generate import grids

    return grids.nearest(weight, grid, None if sums is None else grids.importance(sums))


def layer(
    layer: "nn.Module", chosen: "dict[str, Grid]", sums: "Sums | None", give: "Give | None"
) -> "dict[str, Rounded]":
    """A layer's weights by name, rounded to the nearest after their inputs' factors were moved."""
    from tasks.generate import grids, walk

    assert sums is not None and give is not None
    linears = walk.linears_of(layer)
    factors = moved(layer, chosen, sums, give)
    found = {}
    for name, grid in chosen.items():
        importance = grids.importance(sums[name])
        if name in factors:
            importance = importance / factors[name].square()
        found[name] = grids.nearest(walk.weight_of(linears[name]), grid, importance)
    return found


def moved(layer: "nn.Module", chosen: "dict[str, Grid]", sums: "Sums", give: "Give") -> "dict[str, Tensor]":
    """Move the best factors of all inputs, in place; those that were moved by linear, none where the layer changed."""
    from tasks.generate import awq, folds, walk

    linears = walk.linears_of(layer)

    def factor(names: list[str]) -> "Tensor | None":
        rounded = [(walk.weight_of(linears[name]), chosen[name]) for name in names if name in chosen]
        alpha, found = awq.search(rounded, sums[names[0]])
        return found if alpha else None

    return folds.move(layer, give, factor)
