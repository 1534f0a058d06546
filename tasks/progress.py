"""Progress and loss curves of a stage: JSON lines on standard output when a worker runs it, nothing elsewhere.

The parent (tasks/stage.py) reads the lines; a stage function only calls `report` and `metric`.
"""

import json
import sys

enabled = False  # set by tasks/worker.py alone


def report(done: int, total: int, note: str = "") -> None:
    """Say how far a stage is (steps done of all) with a short note such as a loss."""
    _send({"progress": [done, total], "note": note})


def metric(name: str, value: float, step: int) -> None:
    """One point of a curve (a loss at a step); it becomes an MLflow metric of the stage's run."""
    _send({"metric": name, "value": value, "step": step})


def window(label: str | None) -> None:
    """From now on a window of serving is to be metered by itself, under this name; none, once it is over."""
    _send({"window": label})


def _send(event: dict[str, object]) -> None:
    if enabled:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
