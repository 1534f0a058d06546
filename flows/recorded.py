"""A run's journal with its records read and checked, once for all who add them up."""

from typing import Any, NamedTuple

from registry.records import Attempt, StageRecord


class Recorded(NamedTuple):
    """A run: its journal as it was read, its stages and the goes at a stage that left no artifact."""

    journal: dict[str, Any]
    stages: tuple[StageRecord, ...]
    attempts: tuple[Attempt, ...]


def recorded(journal: dict[str, Any]) -> Recorded:
    """The records of a journal; raises pydantic's ValidationError where they are none."""
    stages = tuple(StageRecord.model_validate(one) for one in journal.get("stages", []))
    return Recorded(journal, stages, tuple(Attempt.model_validate(one) for one in journal.get("attempts", [])))
