"""The one Prefect task: runs a stage function in its own process, streams its log, returns a small reference.

A time or memory limit really ends the process, and its memory really goes back; results travel as directories, never
pickled.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from registry.records import STRICT, ShrinkError

log = logging.getLogger("tasks.stage")
progress_log = logging.getLogger("progress")
WATCH_SECONDS = 0.5  # between two looks at a stage's limits
SAY_SECONDS = 10.0  # between two progress lines in Prefect's log
FULL = ("No space left on device", "Disk quota exceeded")


class StageCall(BaseModel):
    """All that a worker needs: the config, the inputs' directories by role, and what changes numbers."""

    model_config = STRICT
    name: str
    config: dict[str, Any]
    inputs: dict[str, str]
    directory: str
    seed: int
    threads: int
    environment: dict[str, str]
    time_limit: float = 7200.0
    memory_limit_mb: float = math.inf


class StageResult(BaseModel):
    """Where the finished artifact lies, what the stage measured and its curves as (name, value, step)."""

    model_config = STRICT
    out: str
    measured: dict[str, Any]
    cpu_seconds: float
    peak_rss_mb: float
    seconds: float
    curves: tuple[tuple[str, float, int], ...]


@task(name="stage", task_run_name="{call.name}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(call: StageCall) -> StageResult:
    """Run one stage in its own process.

    Raises ShrinkError with the stage's sentence when the user can mend it, RuntimeError with the end of its log else.
    """
    directory = Path(call.directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "result.json").unlink(missing_ok=True)
    described = {"config": call.config, "inputs": call.inputs, "seed": call.seed, "threads": call.threads}
    (directory / "call.json").write_text(json.dumps({**described, "parent": os.getpid()}, indent=1))
    started = time.monotonic()
    with (directory / "log.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.worker", call.directory],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=call.environment,
            start_new_session=True,  # a Ctrl-C reaches only the parent, which ends this group
        )
        with limited(process, call) as over:
            curves = follow(process, call.name)
    if over:
        raise RuntimeError(over[0])
    if not (directory / "result.json").exists() or process.returncode != 0:
        raise failure(call.name, directory / "log.txt", process.returncode)
    result = json.loads((directory / "result.json").read_text())
    return StageResult(out=str(directory / "out"), seconds=time.monotonic() - started, curves=tuple(curves), **result)


@contextlib.contextmanager
def limited(process: subprocess.Popen[str], call: StageCall) -> Any:
    """Watch a worker's limits during the block and end it, with what it started, after; yields what it broke."""
    over: list[str] = []
    done = threading.Event()
    watchdog = threading.Thread(target=watch, args=(process, call, done, over), daemon=True)
    watchdog.start()
    try:
        yield over
    finally:
        done.set()
        watchdog.join()
        end(process)
        process.wait()


def watch(process: subprocess.Popen[str], call: StageCall, done: threading.Event, over: list[str]) -> None:
    """End the worker when it is over a limit, whether it prints or hangs; says so in `over`."""
    deadline = time.monotonic() + call.time_limit
    while not done.wait(WATCH_SECONDS):
        if time.monotonic() > deadline:
            over.append(f"stage {call.name} is over its limit of {call.time_limit:g} s; raise SHRINK_TIME_LIMIT")
        elif (held := resident_mb(process.pid)) > call.memory_limit_mb:
            limit = f"its limit of {call.memory_limit_mb:.0f} MB"
            over.append(f"stage {call.name} holds {held:.0f} MB, over {limit}; raise SHRINK_MEMORY_MB")
        else:
            continue
        end(process)
        return


def resident_mb(pid: int) -> float:
    """Resident memory in MB of a process and all that it started; 0 when it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total / 1e6


def end(process: subprocess.Popen[str]) -> None:
    """Kill a worker's group: itself and whatever it started. Call before it is waited for: its id is still its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def follow(process: subprocess.Popen[str], name: str) -> list[tuple[str, float, int]]:
    """Read a worker's lines until it ends; logs them and returns the curve points."""
    curves: list[tuple[str, float, int]] = []
    said = time.monotonic()
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            log.info("%s: %s", name, line.rstrip())
            continue
        match event:
            case {"progress": [done, total], "note": note}:
                progress_log.info("%s", name, extra={"progress": (name, done, total, note)})
                if done == total or time.monotonic() - said > SAY_SECONDS:
                    said = time.monotonic()
                    log.info("%s: %s/%s %s", name, done, total, note)
            case {"metric": metric, "value": value, "step": step}:
                curves.append((metric, value, step))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ends by itself; reaped in `limited`
    return curves


def failure(name: str, path: Path, status: int) -> Exception:
    """The exception for a stage that ended without a result: its own sentence where the user can mend it."""
    lines = path.read_text(errors="replace").strip().splitlines() or ["(no output)"]
    marker = f"{ShrinkError.__name__}: "
    if marker in lines[-1]:
        return ShrinkError(lines[-1].split(marker, 1)[1])
    if any(sign in lines[-1] for sign in FULL):
        free = shutil.disk_usage(path.parent).free / 1e6
        return RuntimeError(f"stage {name}: no space left in {path.parent} ({free:.0f} MB free); make room there")
    return RuntimeError(f"stage {name} ended with status {status}: {lines[-1]} (whole log: {path})")
