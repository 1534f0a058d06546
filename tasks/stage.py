"""The one Prefect task: runs a stage function in its own process, streams its log, returns a small reference.

A time limit really ends the process, and its memory really goes back; results travel as directories, never pickled.
"""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from registry.records import STRICT, ShrinkError

log = logging.getLogger("tasks.stage")
progress_log = logging.getLogger("progress")


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
        )
        try:
            curves = follow(process, call.name, deadline=started + call.time_limit)
        finally:
            process.kill()
            process.wait()
    if not (directory / "result.json").exists() or process.returncode != 0:
        raise failure(call.name, directory / "log.txt", process.returncode)
    result = json.loads((directory / "result.json").read_text())
    return StageResult(out=str(directory / "out"), seconds=time.monotonic() - started, curves=tuple(curves), **result)


def follow(process: subprocess.Popen[str], name: str, deadline: float) -> list[tuple[str, float, int]]:
    """Read a worker's lines until it ends; logs them and returns the curve points."""
    curves: list[tuple[str, float, int]] = []
    assert process.stdout is not None
    for line in process.stdout:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name}: over its time limit; raise `time_limit`, then shrink resume")
        try:
            event = json.loads(line)
        except ValueError:
            log.info("%s: %s", name, line.rstrip())
            continue
        match event:
            case {"progress": [done, total], "note": note}:
                progress_log.info("%s", name, extra={"progress": (name, done, total, note)})
            case {"metric": metric, "value": value, "step": step}:
                curves.append((metric, value, step))
    process.wait()
    return curves


def failure(name: str, path: Path, status: int) -> Exception:
    """The exception for a stage that ended without a result: its own sentence where the user can mend it."""
    lines = path.read_text(errors="replace").strip().splitlines() or ["(no output)"]
    marker = f"{ShrinkError.__name__}: "
    if marker in lines[-1]:
        return ShrinkError(lines[-1].split(marker, 1)[1])
    return RuntimeError(f"stage {name} ended with status {status}: {lines[-1]} (whole log: {path})")
