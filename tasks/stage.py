"""The one Prefect task: runs a stage function in its own process, streams its log, returns a small reference.

A time or memory limit really ends the process, and its memory really goes back; results travel as directories, never
pickled.
"""

import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from registry.records import STRICT, ShrinkError
from tasks.discreet import LEFT_OUT, QUOTED, hushed
from tasks.kinds import uses_torch
from tasks.way import ALONE, Way
from tasks.worker import FULL

log = logging.getLogger("tasks.stage")
progress_log = logging.getLogger("progress")
WATCH_SECONDS = 0.5  # between two looks at a stage's limits
HERE = Path(__file__).parent
FRAME = re.compile(r'\s+File "(.+)", line \d+, in ')  # of a traceback
KIND = re.compile(r"[\w.]+(?=: |$)")  # of the error, in a traceback's last line
SAY_SECONDS = 10.0  # between two progress lines in Prefect's log
PRELOADED = ("torch", "transformers.models.bert.modeling_bert", "onnxscript", "onnxruntime")
Cut = Callable[[str | None], None]
kept: dict[tuple[tuple[str, str], ...], subprocess.Popen[str]] = {}  # the zygote that has imported torch


class StageCall(BaseModel):
    """All that a worker needs: the config, the inputs' directories by role, and what changes numbers."""

    model_config = STRICT
    name: str
    config: dict[str, Any]
    inputs: dict[str, str]
    directory: str
    seed: int
    threads: int
    way: Way = ALONE
    environment: dict[str, str]
    key: str = ""  # of the index; a checkpoint counts for this key alone, and without one none is written
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
def run_stage(call: StageCall, cut: Cut | None = None) -> StageResult:
    """Run one stage in its own process; `cut` is told of each window of serving that is to be metered by itself.

    Raises ShrinkError with the stage's sentence when the user can mend it, RuntimeError with the end of its log else;
    what they quote is left out, since Prefect keeps them (tasks/discreet.py).
    """
    directory = Path(call.directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "result.json").unlink(missing_ok=True)
    started = time.monotonic()
    with zygote_of(call) as zygote:
        described = call.model_dump(include={"config", "inputs", "seed", "threads", "way", "key"})
        (directory / "call.json").write_text(json.dumps({**described, "parent": zygote.pid}, indent=1))
        pid = forked(zygote, call)
        with limited(pid, call) as over:
            curves, status = follow(zygote, call.name, directory / "printed.txt", cut)
    if over:
        raise RuntimeError(over[0])
    if not (directory / "result.json").exists() or status != 0:
        raise failure(call.name, directory / "log.txt", status)
    result = json.loads((directory / "result.json").read_text())
    return StageResult(out=str(directory / "out"), seconds=time.monotonic() - started, curves=tuple(curves), **result)


@contextlib.contextmanager
def zygote_of(call: StageCall) -> Iterator[subprocess.Popen[str]]:
    """The process to fork a stage from: a kept one with torch imported, or a fresh one that knows nothing of it.

    Ended when the block breaks: an answer of a broken-off stage must not reach the next one.
    """
    torch_too = uses_torch(call.config)
    key = tuple(sorted(call.environment.items()))
    zygote = kept.pop(key, None) if torch_too else None
    if zygote is not None and zygote.poll() is not None:
        with contextlib.suppress(OSError), zygote:  # it was killed meanwhile: close its pipes
            zygote = None
    if zygote is None:
        zygote = new_zygote(call, PRELOADED if torch_too else ())
    ended: subprocess.Popen[str] | None = zygote
    try:
        yield zygote
        if torch_too:
            kept[key] = zygote
            ended = None
    finally:
        if ended is not None:
            ended.kill()
            with contextlib.suppress(OSError), ended:  # closes its pipes and waits for it
                pass


def new_zygote(call: StageCall, modules: tuple[str, ...]) -> subprocess.Popen[str]:
    """Start a zygote with the stage's environment, its own trouble going to the stage's log."""
    with (Path(call.directory) / "log.txt").open("w") as log_file:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.zygote", str(os.getpid()), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
            env=call.environment,
            start_new_session=True,  # a Ctrl-C reaches only us, who end this group
        )


def forked(zygote: subprocess.Popen[str], call: StageCall) -> int:
    """Have the stage's process forked; returns its id, or raises when the zygote could not even import."""
    assert zygote.stdin is not None and zygote.stdout is not None
    try:
        zygote.stdin.write(f"{call.directory}\n")
        zygote.stdin.flush()
        return int(json.loads(zygote.stdout.readline())["started"])
    except (OSError, ValueError):
        raise failure(call.name, Path(call.directory) / "log.txt", zygote.wait()) from None


@contextlib.contextmanager
def limited(pid: int, call: StageCall) -> Iterator[list[str]]:
    """Watch a stage's limits during the block and end it when the block breaks; yields what it broke."""
    over: list[str] = []
    done = threading.Event()
    watchdog = threading.Thread(target=watch, args=(pid, call, done, over), daemon=True)
    watchdog.start()
    try:
        yield over
    except BaseException:
        end(pid)
        raise
    finally:
        done.set()
        watchdog.join()


def watch(pid: int, call: StageCall, done: threading.Event, over: list[str]) -> None:
    """End the stage when it is over a limit, whether it prints or hangs; says so in `over`."""
    deadline = time.monotonic() + call.time_limit
    while not done.wait(WATCH_SECONDS):
        if time.monotonic() > deadline:
            over.append(f"stage {call.name} is over its limit of {call.time_limit:g} s; raise SHRINK_TIME_LIMIT")
        elif (held := resident_mb(pid)) > call.memory_limit_mb:
            limit = f"its limit of {call.memory_limit_mb:.0f} MB"
            over.append(f"stage {call.name} holds {held:.0f} MB, over {limit}; raise SHRINK_MEMORY_MB")
        else:
            continue
        end(pid)
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


def end(pid: int) -> None:
    """Kill a stage's group: itself and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def follow(
    zygote: subprocess.Popen[str], name: str, printed: Path, cut: Cut | None = None
) -> tuple[list[tuple[str, float, int]], int]:
    """Read a stage's lines until it ends; logs its progress and returns the curve points and the exit status.

    What a library prints may hold text: it goes to the file `printed` and no further.
    """
    curves: list[tuple[str, float, int]] = []
    said = time.monotonic()
    assert zygote.stdout is not None
    for line in zygote.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            with printed.open("a", encoding="utf-8") as file:
                file.write(line)
            continue
        match event:
            case {"progress": [done, total], "note": note}:
                progress_log.info("%s", name, extra={"progress": (name, done, total, note)})
                if done == total or time.monotonic() - said > SAY_SECONDS:
                    said = time.monotonic()
                    log.info("%s: %s/%s %s", name, done, total, note)
            case {"window": label}:
                if cut is not None:
                    cut(label)
            case {"metric": metric, "value": value, "step": step}:
                curves.append((metric, value, step))
            case {"ended": status}:
                return curves, int(status)
    return curves, zygote.wait()  # the zygote itself was killed


def failure(name: str, path: Path, status: int) -> Exception:
    """The exception for a stage that ended without a result: its own sentence where the user can mend it.

    Of what a library raised, which may quote a text, the stored form names the kind alone.
    """
    lines = path.read_text(errors="replace").strip().splitlines() or ["(no output)"]
    marker = f"{ShrinkError.__name__}: "
    if marker in lines[-1]:
        return hushed(ShrinkError(lines[-1].split(marker, 1)[1]))
    if status == errno.ENOSPC or any(sign in lines[-1] for sign in FULL):
        free = shutil.disk_usage(path.parent).free / 1e6
        return RuntimeError(f"stage {name}: no space left in {path.parent} ({free:.0f} MB free); make room there")
    said = f"stage {name} ended with status {status}: {{}} (whole log: {path})"
    kind = KIND.match(lines[-1])
    short = lines[-1] if raised_here(lines) else kind[0] if kind else "see there"
    return hushed(RuntimeError(said.format(lines[-1])), said.format(QUOTED.sub(LEFT_OUT, short)))


def raised_here(lines: list[str]) -> bool:
    """Whether a log ends with an error that a `raise` of this program's own code made."""
    place = max((at for at, line in enumerate(lines) if FRAME.match(line)), default=None)
    if place is None or place + 1 >= len(lines):
        return False
    file = Path(FRAME.match(lines[place])[1])  # type: ignore[index]
    return file.parent.is_relative_to(HERE) and lines[place + 1].lstrip().startswith("raise ")
