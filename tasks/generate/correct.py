"""A short correction of a teacher on the training documents: next tokens, few steps, weights off the grid they lay on.

A teacher that came as a file of 4-bit blocks has weights that lie on that grid: rounding them to it again costs nothing
and proves nothing. Some steps of ordinary training on text of the domain (Radford et al. 2019; what Minitron calls
teacher correction: Sreenivas et al. 2024, "LLM pruning and distillation in practice: the Minitron approach", arXiv
2408.11796) move them off it, and make the teacher that all others are measured against better at this text.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from registry.records import ShrinkError
from tasks.generate.lesson import LessonConfig

if TYPE_CHECKING:
    from torch import Tensor


class CorrectConfig(LessonConfig):
    """How long the teacher learns, and which of its layers."""

    reads: ClassVar[dict[str, str]] = {"teacher": "lm", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("teacher", "lm")
    kind: Literal["correct"] = Field("correct", description="The stage's kind.")
    length: int = Field(default=128, ge=2, description="Tokens of a window.")
    layers: tuple[int, ...] | None = Field(
        default=None, description="Only these layers learn, from 0 at the bottom; none: the whole model."
    )


def run(inputs: dict[str, Path], config: CorrectConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the corrected teacher; measured: loss, validation perplexity per byte before and after, how far it moved.

    `off_grid` is the rounding error of the linear layers' weights on GGUF's Q4_1, in steps of that grid: 0 where they
    lie on it, 0.29 where they lie anywhere.
    """
    from tasks.generate import lesson, lm

    model, tokenizer = lm.load(inputs["teacher"]), lm.load_tokenizer(inputs["teacher"])
    lesson.check_length(model, config.length)
    chosen(model, config.layers)
    documents = lesson.texts(inputs["data"], "train")
    ids = lesson.windows(tokenizer, documents, config.length, config.steps * config.batch, seed)
    before = lesson.score(model, tokenizer, inputs["data"], config.length)
    told: dict[str, Any] = {"off_grid_before": off_grid(model), "perplexity_before": before}

    def loss_of(rows: list[int]) -> "Tensor":
        return lesson.text_loss(model(input_ids=ids[rows], use_cache=False).logits, ids[rows])

    loss = lesson.fit(model, loss_of, len(ids), config, seed)
    lm.save(out, model, inputs["teacher"], {}, {})
    told |= {"loss": [loss], "perplexity": lesson.score(model, tokenizer, inputs["data"], config.length)}
    return told | {"off_grid": off_grid(model), "moved": moved(lm.load(inputs["teacher"]), model)}


def moved(before: Any, after: Any) -> float:
    """How far all weights are from where they were, over their size: a ratio of norms."""
    from tasks.generate import lm

    apart, whole, now = 0.0, 0.0, lm.own_weights(after)
    for name, value in lm.own_weights(before).items():
        apart += float((now[name] - value).double().square().sum())
        whole += float(value.double().square().sum())
    return float((apart / whole) ** 0.5)


def chosen(model: Any, layers: tuple[int, ...] | None) -> None:
    """Let only some layers learn; ShrinkError for a layer that there is not."""
    from tasks.generate import walk

    found = walk.layers_of(model)
    if layers is None:
        return
    if wrong := [number for number in layers if not 0 <= number < len(found)]:
        raise ShrinkError(f"layers names {wrong[0]} but the teacher has 0 to {len(found) - 1}: name some of these.")
    if not layers:
        raise ShrinkError("layers is empty, so nothing would learn: name some, or leave it out.")
    model.requires_grad_(False)
    for number in layers:
        found[number].requires_grad_(True)


def off_grid(model: Any) -> float | None:
    """Root mean square of the linear layers' rounding errors on Q4_1, in its steps; None where groups do not divide."""
    import torch

    from tasks.generate import grids, walk

    grid = grids.GGUF["q4_1"]
    square, count = 0.0, 0
    for layer in walk.layers_of(model):
        for linear in walk.linears_of(layer).values():
            weight = walk.weight_of(linear)
            if weight.shape[1] % grid.group:
                continue
            scale, shift = (grids.spread(one, grid) for one in grids.ranged(grids.grouped(weight, grid), grid, 1.0))
            rounded = grids.valued(grids.codes(weight, scale, shift, grid), scale, shift)
            apart = torch.where(scale > 0, (weight - rounded) / grids.whole(scale), 0.0)
            square, count = square + float(apart.double().square().sum()), count + apart.numel()
    return (square / count) ** 0.5 if count else None
