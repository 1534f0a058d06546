"""A training that is killed, and started again: shared by the tests of all stages that train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.records import digest_directory
from tasks import checkpoint, train


def goes_on_to_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
    made: Path,
    measured: dict[str, Any],
    again: Callable[[Path], dict[str, Any]],
    at: int,
    whole: int,
) -> None:
    """Kill a training before its step `at` of `whole`; the next start goes on there and ends with the very same.

    `made` and `measured` are what it left and said without a kill; `again` does it in another folder, which it makes.
    """
    place, steps = made.parent, iter(range(10 * whole))
    step_once: Callable[..., float] = train.step_once

    def cut(*arguments: Any) -> float:
        if next(steps) == at:
            raise KeyboardInterrupt
        return step_once(*arguments)

    monkeypatch.setattr(checkpoint, "place", (place, "key"))
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(train, "step_once", cut)
    with pytest.raises(KeyboardInterrupt):
        again(place / "two")
    assert (place / checkpoint.FILE).exists()
    assert again(place / "three") == measured
    assert next(steps) < at + whole  # the first steps were not made again
    assert digest_directory(place / "three") == digest_directory(made)
