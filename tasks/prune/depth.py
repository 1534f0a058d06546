"""Drops the layers of a decoder that change least what goes through them (ShortGPT).

Men et al. 2024, "ShortGPT: Layers in large language models are more redundant than you expect", arXiv 2403.03853: a
layer's block influence is 1 minus the cosine of what goes in and what comes out; the least influential go, all at once.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from registry.records import ShrinkError
from tasks.generate.lesson import CutConfig


class PruneDepthConfig(CutConfig):
    """How many layers stay, or which."""

    method: Literal["depth"] = Field("depth", description="Whole layers, by their influence.")
    keep: int | None = Field(default=None, ge=1, description="So many layers stay, those of most influence.")
    layers: tuple[int, ...] | None = Field(default=None, description="These layers stay, from 0 at the bottom.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.keep is None) == (self.layers is None):
            raise ValueError("keep and layers say the same in two ways: give one of them")
        return self


def run(inputs: dict[str, Path], config: PruneDepthConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the shallower student; measured: layers that stay, every layer's influence, parameters before and after."""
    from tasks.generate import cut, influence, lesson, lm, walk

    lesson.check_whole(inputs["student"], "prune/depth")
    model = lm.load(inputs["student"])
    depth = len(walk.layers_of(model))
    before = sum(one.numel() for one in model.parameters())
    told: dict[str, Any] = {}
    if config.layers is not None:
        kept = sorted(set(config.layers))
        if not kept or kept[0] < 0 or kept[-1] >= depth:
            raise ShrinkError(
                f"layers is {list(config.layers)} but the student has 0 to {depth - 1}: name some of these."
            )
    else:
        if config.keep is None or config.keep > depth:
            raise ShrinkError(f"keep is {config.keep} but the student has {depth} layers: give at most that.")
        lesson.check_length(model, config.length)
        found = influence.layers(model, lesson.sample(inputs, config, seed), config.batch)
        kept = sorted(sorted(range(depth), key=lambda number: (-found[number], number))[: config.keep])
        told = {"influence": [round(one, 6) for one in found]}
    made = cut.keep_layers(model, kept)
    lm.save(out, made, inputs["student"], {}, {})
    parameters = sum(one.numel() for one in made.parameters())
    return told | {"layers": kept, "parameters_before": before, "parameters": parameters}
