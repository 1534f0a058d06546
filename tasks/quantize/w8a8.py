"""Rounds a decoder's layers for integer products, weights by row and inputs by token, outliers smoothed (SmoothQuant).

Xiao et al. 2022, "SmoothQuant: Accurate and efficient post-training quantization for large language models", arXiv
2211.10438. The factors go into the norm or product before (tasks/generate/folds.py), so that nothing is computed more
when it runs; where a layer would give something else with them, it is left as it was. Embedding, head and all else stay
whole, in half precision. What it leaves stands beside what is served: a GPU multiplies such integers
(export/compressed_tensors with `model: w8a8`), llama.cpp does not.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.generate.choices import CalibrationConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.generate.grids import Grid, Rounded
    from tasks.generate.walk import Give, Sums


class W8a8Config(CalibrationConfig):
    """A decoder's layers with weights and inputs in 8 bits each; stands beside what is served."""

    writes: ClassVar[tuple[str, str]] = ("w8a8", "w8a8")
    kind: Literal["quantize"] = Field("quantize", description="The stage's kind.")
    method: Literal["w8a8"] = Field("w8a8", description="The quantisation method.")
    smoothing: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="How much of the inputs' outliers moves into the weights (SmoothQuant's alpha); 0: nothing.",
    )


def run(inputs: dict[str, Path], config: W8a8Config, out: Path, seed: int) -> dict[str, Any]:
    """Write the student in 8 bits; measured: bits_per_weight over all weights, weights by grid.

    Raises ShrinkError for weights that are rounded already or not finite, and for too little text.
    """
    from tasks import checkpoint
    from tasks.export import compressed_tensors
    from tasks.generate import lesson, lm, rounding, w8a8, w8a8_model, walk

    lesson.check_whole(inputs["student"], "quantize/w8a8")
    model = lm.load(inputs["student"])
    rounding.check_finite(model)
    ids = rounding.calibration(inputs, config, seed, model)
    chosen = {name: w8a8.row(walk.weight_of(one).shape[1]) for name, one in rounding.linears(model).items()}

    def method(layer: "nn.Module", own: "dict[str, Grid]", sizes: "Sums | None", give: "Give | None") -> Any:
        assert sizes is not None and give is not None
        return smoothed(layer, sizes, give, config.smoothing)

    with checkpoint.parts() as at:
        rounding.round_layers(model, ids, config.batch, chosen, method, at, walk.largest)
        measured, count = rounding.told(model, chosen), len(walk.layers_of(model))
        plain = {
            name: compressed_tensors.halved(name, value)  # as an export has them: roundings of inputs differ with them
            for name, value in lm.own_weights(model).items()
            if name not in chosen
        }
        described = model.config
        del model
        walk.give_back()
        lm.write(out, described, inputs["student"], plain, rounding.kept_parts(at, count), chosen)
    w8a8_model.write_facts(out, config.smoothing)
    return measured


def smoothed(layer: "nn.Module", sizes: "Sums", give: "Give", alpha: float) -> "dict[str, Rounded]":
    """A layer's weights by name, rounded after their inputs' outliers were moved, in place, by the inputs' sizes."""
    from tasks.generate import folds, w8a8, walk

    linears = walk.linears_of(layer)

    def factor(names: list[str]) -> "Tensor":
        return w8a8.factors(sizes[names[0]], [walk.weight_of(linears[name]) for name in names], alpha)

    if alpha:
        folds.move(layer, give, factor)
    return {name: w8a8.rounded(walk.weight_of(one)) for name, one in linears.items()}
