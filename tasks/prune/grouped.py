"""Makes attention grouped: several query heads share keys and values, which are the mean of what each had.

Ainslie et al. 2023, "GQA: Training generalized multi-query transformer models from multi-head checkpoints", arXiv
2305.13245, section 2.1: mean pooling keeps more than taking one of the heads; some training heals the rest. The cache
of a conversation shrinks by the same factor (TinyLlama's shape; Zhang et al. 2024, arXiv 2401.02385).
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task


class PruneGroupedConfig(BaseModel):
    """How many heads of keys and values are left."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    reads: ClassVar[dict[str, str]] = {"student": "lm"}
    writes: ClassVar[tuple[str, str]] = ("student", "lm")
    kind: Literal["prune"] = Field("prune", description="The stage's kind.")
    method: Literal["grouped"] = Field("grouped", description="Heads of keys and values, by the mean of neighbours.")
    kv_heads: int = Field(ge=1, description="Heads of keys and values that are left; a divisor of those there are.")


def run(inputs: dict[str, Path], config: PruneGroupedConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the student with fewer heads of keys and values; measured: these and the parameters, before and after."""
    from tasks.generate import cut, families, lesson, lm

    lesson.check_whole(inputs["student"], "prune/grouped")
    model = lm.load(inputs["student"])
    where, heads = cut.anatomy_of(model, "prune/grouped"), cut.heads_of(model)
    if reason := families.uncut(str(model.config.model_type), "kv_heads"):
        raise ShrinkError(reason)
    if heads.groups % config.kv_heads:
        good = ", ".join(str(count) for count in range(1, heads.groups + 1) if heads.groups % count == 0)
        raise ShrinkError(
            f"kv_heads is {config.kv_heads}, which does not divide the student's {heads.groups}: give one of {good}."
        )
    before = sum(one.numel() for one in model.parameters())
    made = cut.pool_groups(model, where, config.kv_heads)
    lm.save(out, made, inputs["student"], {}, {})
    told = {"kv_heads_before": heads.groups, "kv_heads": config.kv_heads, "parameters_before": before}
    return told | {"parameters": sum(one.numel() for one in made.parameters())}
