"""Which artifact a stage reads and which it leaves: one book-keeping for the chain, its check and the benchmarks.

`held` is what is held under each role: directories where stages run, formats or sizes where they are only checked. The
student starts as its teacher. `start` is the student as it was before it was first taught in its present shape: a next
generation begins there.
"""

from collections.abc import Iterable
from typing import TypeVar

from tasks.finetune import FinetuneConfig
from tasks.kinds import AnyChainConfig
from tasks.teachers import MAIN

T = TypeVar("T")


def first(given: dict[str, T], stages: Iterable[AnyChainConfig]) -> dict[str, T]:
    """What is held before the first stage: what is given, `teacher` among it, and every teacher without a source."""
    held = {**given, "student": given[MAIN]}
    for stage in stages:
        if isinstance(stage, FinetuneConfig):
            held.setdefault(stage.teacher, given[MAIN])
    return held


def read(held: dict[str, T], stage: AnyChainConfig) -> dict[str, T]:
    """A stage's inputs by the roles that it gives them; one that is not held is left out."""
    places = {role: "student" if role == "model" else role for role in stage.reads}
    return {role: held[place] for role, place in places.items() if place in held}


def role_of(stage: AnyChainConfig) -> str:
    """The role of what a stage leaves."""
    return "student" if stage.writes[0] == "model" else stage.writes[0]


def write(held: dict[str, T], stage: AnyChainConfig, made: T) -> None:
    """Hold what a stage made in place of what was held under its role."""
    role = role_of(stage)
    if stage.kind == "distill":
        held.setdefault("start", held["student"])
    if stage.kind in {"prune", "student"} or role == MAIN:
        held.pop("start", None)
    held[role] = made
    if role == MAIN:
        held["student"] = made
