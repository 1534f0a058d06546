"""Cuts a decoder's layers narrower: feed-forward neurons, whole groups of attention heads, the hidden width.

Muralidharan et al. 2024, "Compact language models via pruning and knowledge distillation" (Minitron), arXiv 2407.14679:
what is least active on some text goes, measured once on the whole model. Heads go with the keys and values that they
share (grouped-query attention), so that what stays is an ordinary decoder.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from registry.records import ShrinkError
from tasks.generate.lesson import CutConfig

if TYPE_CHECKING:
    from tasks.generate.families import Anatomy


class PruneWidthConfig(CutConfig):
    """What is left of every layer."""

    method: Literal["width"] = Field("width", description="Neurons, groups of heads and features, by their activity.")
    ffn: int | None = Field(default=None, ge=1, description="Feed-forward neurons kept in each layer; none: all.")
    groups: int | None = Field(
        default=None, ge=1, description="Key and value heads kept in each layer, with the queries of each; none: all."
    )
    hidden: int | None = Field(default=None, ge=2, description="Features kept of the hidden width; none: all.")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.ffn is None and self.groups is None and self.hidden is None:
            raise ValueError("ffn, groups and hidden are all left out, so nothing is cut: give one of them")
        return self


def run(inputs: dict[str, Path], config: PruneWidthConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the narrower student; measured: parameters before and after."""
    from tasks.generate import cut, influence, lesson, lm
    from tasks.prune.structured import top

    lesson.check_whole(inputs["student"], "prune/width")
    model = lm.load(inputs["student"])
    where = cut.anatomy_of(model, "prune/width")
    check(model, where, config)
    lesson.check_length(model, config.length)
    before = sum(one.numel() for one in model.parameters())
    scores = influence.sizes(model, where, lesson.sample(inputs, config, seed), config.batch)
    if config.ffn is not None:
        model = cut.keep_neurons(model, where, [top(one, config.ffn) for one in scores.neurons])
    if config.groups is not None:
        model = cut.keep_groups(model, where, [top(one, config.groups) for one in scores.groups])
    if config.hidden is not None:
        model = cut.keep_width(model, where, top(scores.width, config.hidden))
    lm.save(out, model, inputs["student"], {}, {})
    return {"parameters_before": before, "parameters": sum(one.numel() for one in model.parameters())}


def check(model: Any, where: "Anatomy", config: PruneWidthConfig) -> None:
    """ShrinkError for what the student does not have so much of, or what its family cannot go without."""
    from tasks.generate import cut, families

    kind, heads = str(model.config.model_type), cut.heads_of(model)
    wide = int(model.config.hidden_size)
    for field, wanted, present in (
        ("ffn", config.ffn, cut.neurons_of(model, where)),
        ("groups", config.groups, heads.groups),
        ("hidden", config.hidden, wide),
    ):
        if wanted is not None and wanted > present:
            raise ShrinkError(f"{field} is {wanted} but the student has only {present}: give at most that.")
    for field in ("ffn", "groups", "hidden"):
        if getattr(config, field) is not None and (reason := families.uncut(kind, field)):
            raise ShrinkError(reason)
