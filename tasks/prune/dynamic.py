"""What the methods share that set weights to zero while the student learns: their settings and the rising sparsity.

The share of zeros follows the cubic of Zhu and Gupta 2017 ("To prune, or not to prune: exploring the efficacy of
pruning for model compression", arXiv 1710.01878): s(t) = s (1 - (1 - (t - t0) / (t1 - t0))^3), fast while weights are
redundant, slow towards the end. Before t0 nothing is zero, after t1 the share stays and the student heals.
"""

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from tasks.distill.answers import LessonConfig


class DynamicConfig(LessonConfig):
    """How many weights become zero and when; the rest is a distillation from cached answers."""

    kind: Literal["prune"] = "prune"
    reads: ClassVar[dict[str, str]] = {"student": "torch", "labels": "labels", "data": "rows"}
    sparsity: float = Field(default=0.5, gt=0, lt=1, description="Part of the encoder's linear weights that go.")
    begin: float = Field(default=0.1, ge=0, lt=1, description="Part of the steps after which weights begin to go.")
    end: float = Field(default=0.7, gt=0, le=1, description="Part of the steps after which no more of them go.")
    every: int = Field(default=20, ge=1, description="Steps between two choices of the weights that are zero.")

    @field_validator("end")
    @classmethod
    def behind_begin(cls, value: float, info: ValidationInfo) -> float:
        """The end lies behind the beginning."""
        if "begin" in info.data and value <= info.data["begin"]:
            raise ValueError(f"end must be above begin, which is {info.data['begin']:g}")
        return value


def cubic(done: int, first: int, last: int, sparsity: float) -> float:
    """Part of the weights that is zero after `done` steps, rising from step `first` to step `last`."""
    if done >= last:
        return sparsity
    return 0.0 if done <= first else sparsity * (1 - (1 - (done - first) / (last - first)) ** 3)


def wanted(config: DynamicConfig, done: int, steps: int) -> float | None:
    """The sparsity that is chosen anew after `done` of `steps` steps; None where the choice before still holds."""
    first, last = round(config.begin * steps), round(config.end * steps)
    chosen = done == last or (first <= done < last and (done - first) % config.every == 0)
    return cubic(done, first, last, config.sparsity) if chosen else None
