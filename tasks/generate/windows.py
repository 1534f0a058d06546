"""Energy of serving models that write: a short prompt read and answered, told for a written token."""

from collections.abc import Mapping, Sequence

from registry.records import ServingEnergy
from tasks import windows
from tasks.generate import speed
from tasks.generate.runtime import Opened, open_model

PROMPTS = 8  # several: a runtime that keeps what it has read of the last one would not read it again


def of_writers(
    subjects: Mapping[str, speed.Subject], text: str, rounds: int, macs: Mapping[str, int | None]
) -> ServingEnergy:
    """Have teacher and student read the same prompts and write behind them, at one thread."""
    opened = {role: open_model(one.directory, one.runtime, 1) for role, one in subjects.items()}
    calls = {role: writing(one, one.ids(text)) for role, one in opened.items()}
    return windows.taken(calls, PROMPTS, windows.ANSWERS * rounds, macs, "written token")


def writing(model: Opened, ids: Sequence[int]) -> windows.Call:
    """Answer a prompt; what is counted is the tokens written, one at least."""
    long, written = speed.sizes(model)

    def one(place: int) -> int:
        prompt = speed.part(ids, place, min(speed.QUESTION, long))
        return max(1, sum(1 for _ in model.stream(prompt, written)))

    return one
