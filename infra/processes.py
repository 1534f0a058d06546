"""Processes that we started, known by pid and creation time; only such are ever ended (infra/services.py)."""

import signal
from typing import Any

import psutil
from pydantic import BaseModel

from registry.records import STRICT


class Started(BaseModel):
    """One process by pid and creation time, so that a recycled pid is never taken for ours."""

    model_config = STRICT
    pid: int
    created: float


def started_now(pid: int) -> Started:
    """A living process as it can be known again."""
    return Started(pid=pid, created=psutil.Process(pid).create_time())


def living(started: Started) -> Any | None:
    """The living process, or None when it is gone, a zombie, or another one under a recycled pid."""
    try:
        process = psutil.Process(started.pid)
        same = abs(process.create_time() - started.created) < 0.05 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if same else None


def tree(leader: Started) -> tuple[Started, ...]:
    """The leader and all its descendants now."""
    process = living(leader)
    members = [leader]
    for child in process.children(recursive=True) if process is not None else []:
        try:
            members.append(Started(pid=child.pid, created=child.create_time()))
        except psutil.Error:
            continue
    return tuple(members)


def end(known: tuple[Started, ...], grace: float = 10.0) -> None:
    """Ask these processes and their descendants to end, and kill what has not after a while."""
    members = {member for started in known if living(started) is not None for member in tree(started)}
    alive = [process for process in map(living, members) if process is not None]
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for process in alive:
            try:
                process.send_signal(sign)
            except psutil.Error:
                continue
        _, alive = psutil.wait_procs(alive, timeout=grace)
        if not alive:
            return
