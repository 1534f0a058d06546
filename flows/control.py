"""`shrink cancel`: asks the process of a run to end, as Ctrl-C would, and waits until it has."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from flows import journal as journals
from registry.records import ShrinkError

PATIENCE = 60.0  # seconds for a run to end its stage, journal and MLflow run


def stop(home: Path, run_id: str | None, withdraw: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Stop a running run, or `withdraw` a scheduled one, and return its journal.

    Raises ShrinkError when there is none, or it does not end.
    """
    journal = running(home, run_id)
    if journal["status"] == journals.SCHEDULED:
        withdraw(journal)
        return journals.find(home, str(journal["run_id"]))
    if journals.alive(journal):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(journal["pid"]).send_signal(signal.SIGINT)
    until = time.monotonic() + PATIENCE
    while journals.alive(journal):
        if time.monotonic() > until:
            late = f"run '{journal['run_id']}' goes on after {PATIENCE:.0f} s"
            raise ShrinkError(f"{late}; end process {journal['pid']} yourself.")
        time.sleep(0.1)
    return journals.find(home, str(journal["run_id"]))


def running(home: Path, run_id: str | None) -> dict[str, Any]:
    """The run that is meant: the named one, or the only one that goes on."""
    going = {"running", journals.WAITING, journals.SCHEDULED}
    found = [one for one in journals.read_all(home) if one["status"] in going]
    if run_id is not None:
        found = [journal for journal in found if run_id in journal["run_id"]]
        if not found:
            other = journals.find(home, run_id)
            raise ShrinkError(f"run '{other['run_id']}' is {other['status']}, not running; `shrink runs` lists them.")
    if not found:
        raise ShrinkError("no run is running; `shrink runs` lists them.")
    if len(found) > 1:
        names = ", ".join(str(journal["run_id"]) for journal in found)
        raise ShrinkError(f"{len(found)} runs are running; name one of: {names}.")
    return found[0]
