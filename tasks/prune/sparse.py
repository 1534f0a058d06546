"""Sets weights of a decoder's linear layers to zero: the smallest, the least heard, or those whose loss can be mended.

`magnitude` compares sizes in a row (Han et al. 2015, arXiv 1506.02626), `wanda` size times the norm of the input (Sun
et al. 2023, "A simple and effective pruning approach for large language models", arXiv 2306.11695), `sparsegpt` chooses
by Optimal Brain Surgeon and moves the weights that stay so that outputs change least (Frantar and Alistarh 2023, arXiv
2301.00774). Layers go from the bottom up, each on what the pruned ones below give it. Matrices keep their shape: no
answer comes faster, and a GGUF file gets no smaller, for the zeros.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from registry.records import ShrinkError
from tasks.generate.choices import CalibrationConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.generate.walk import Give, Sums

PATTERN = r"^[1-9]\d?:[1-9]\d?$"


class PruneSparseConfig(CalibrationConfig):
    """Which part of a decoder's linear weights becomes zero, and how they are chosen."""

    kind: Literal["prune"] = Field("prune", description="The stage's kind.")
    method: Literal["sparse"] = Field("sparse", description="The pruning method.")
    importance: Literal["magnitude", "wanda", "sparsegpt"] = Field(
        default="sparsegpt",
        description="What goes: the smallest weights, those of the least size times input, or, with the others moved "
        "to make up for it, those whose loss changes outputs least.",
    )
    sparsity: float | None = Field(
        default=None, gt=0, lt=1, description="Part of the weights that go: half, unless this or a pattern says it."
    )
    pattern: str | None = Field(
        default=None, pattern=PATTERN, description="n:m: n of every m neighbours in a row go, as 2:4; none: anywhere."
    )

    @model_validator(mode="after")
    def _part(self) -> Self:
        pair = self.pair
        if pair is not None and pair[0] >= pair[1]:
            raise ValueError(f"pattern is {self.pattern} but not all neighbours may go: give one such as 2:4")
        if pair is not None and self.sparsity is not None:
            raise ValueError(f"pattern {self.pattern} says how many weights go: leave sparsity out")
        return self

    @property
    def share(self) -> float:
        """The part of the weights that goes."""
        return self.pair[0] / self.pair[1] if self.pair is not None else self.sparsity or 0.5

    @property
    def pair(self) -> tuple[int, int] | None:
        """n and m of the pattern."""
        if self.pattern is None:
            return None
        lost, of = self.pattern.split(":")
        return int(lost), int(of)


def run(inputs: dict[str, Path], config: PruneSparseConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the student with zeros in it; measured: weights of its linear layers, zeros, their share in all and single.

    Raises ShrinkError for weights that are not finite, too little text, a pattern that does not divide a row.
    """
    from tasks import checkpoint
    from tasks.generate import lesson, lm, rounding, walk

    lesson.check_whole(inputs["student"], "prune/sparse")
    model = lm.load(inputs["student"])
    rounding.check_finite(model)
    check_pattern(model, config)
    ids = rounding.calibration(inputs, config, seed, model)
    with checkpoint.parts() as at:

        def change(index: int, layer: "nn.Module", sums: "Sums", give: "Give") -> None:
            for name, linear in walk.linears_of(layer).items():
                walk.put(linear, pruned(walk.weight_of(linear), sums[name], config))
            checkpoint.keep_part(at, f"layer{index}", layer.state_dict())

        def known(index: int, layer: "nn.Module") -> bool:
            kept = checkpoint.part(at, f"layer{index}")
            if kept is not None:
                layer.load_state_dict(kept)
            return kept is not None

        walk.walk(model, ids, change, known, config.batch)
        lm.save(out, model, inputs["student"], {}, {})
    return counted(model)


def check_pattern(model: Any, config: PruneSparseConfig) -> None:
    """ShrinkError when a row is no whole number of the pattern's neighbours."""
    from tasks.generate import rounding, walk

    for name, linear in rounding.linears(model).items():
        width = walk.weight_of(linear).shape[1]
        if config.pair is not None and width % config.pair[1]:
            raise ShrinkError(
                f"{name.removesuffix('.weight')} has {width} inputs, which pattern {config.pattern} does not divide: "
                "choose another m."
            )


def pruned(weight: "Tensor", sums: "Tensor", config: PruneSparseConfig) -> "Tensor":
    """A weight [outputs, inputs] with zeros, by the sums of x x^T of its inputs."""
    from tasks.generate import gptq
    from tasks.prune import masks

    if config.importance == "sparsegpt":
        return gptq.sparsify(weight, sums, config.share, config.pair)
    scores = weight.abs()
    if config.importance == "wanda":
        scores = scores * sums.diagonal().clamp(min=0).sqrt()
    if config.pair is None:
        return weight.masked_fill(~masks.keep(scores, config.share), 0.0)
    groups = scores.unflatten(1, (-1, config.pair[1])).flatten(0, 1)
    return weight.masked_fill(~masks.keep(groups, config.share).view_as(weight), 0.0)


def counted(model: Any) -> dict[str, Any]:
    """Weights of the linear layers, how many are 0, that share, and its least and most in one matrix."""
    from tasks.generate import rounding, walk

    weights = [walk.weight_of(linear) for linear in rounding.linears(model).values()]
    zeros = [int((weight == 0).sum()) for weight in weights]
    shares = [count / weight.numel() for count, weight in zip(zeros, weights, strict=True)]
    total = sum(weight.numel() for weight in weights)
    told = {"weights": total, "zeros": sum(zeros), "sparsity": sum(zeros) / total}
    return told | {"sparsity_lowest": min(shares), "sparsity_highest": max(shares)}
