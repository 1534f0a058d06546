"""A stage's process: it ends at its limits, with its parent, and with everything it started; nothing is simulated."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from registry.records import ShrinkError
from tasks import discreet, stage

GREEDY = "held = bytearray(300_000_000); held[::4096] = b'x' * len(held[::4096]); import time; time.sleep(99)"


def call(directory: Path, **limits: Any) -> stage.StageCall:
    return stage.StageCall(
        name="00-data",
        config={"kind": "data", "file": "a.csv", "format": "csv"},
        inputs={"source": str(directory)},
        directory=str(directory),
        seed=0,
        threads=1,
        environment=dict(os.environ),
        **limits,
    )


def soon(condition: Callable[[], Any], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(condition())


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_silent_stage_ends_at_its_time_limit(tmp_path: Path) -> None:
    known = {process.pid for process in forks_of(os.getpid())}  # of the tests before: a zygote goes on waiting
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # its worker waits for this lock and says nothing
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="over its limit of 3 s; raise SHRINK_TIME_LIMIT"):
            stage.run_stage.fn(call(tmp_path, time_limit=3))
        assert time.monotonic() - began < 15
    assert soon(lambda: not {process.pid for process in forks_of(os.getpid())} - known)


def test_a_greedy_stage_ends_at_its_memory_limit_with_what_it_started(tmp_path: Path) -> None:
    started = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GREEDY!r}])"
    process = subprocess.Popen([sys.executable, "-c", started], start_new_session=True)
    with stage.limited(process.pid, call(tmp_path, memory_limit_mb=200)) as over:
        assert soon(lambda: resident_children(process.pid))
        child = psutil.Process(process.pid).children()[0]
        assert process.wait(30) == -signal.SIGKILL
    assert "over its limit of 200 MB; raise SHRINK_MEMORY_MB" in over[0]
    assert soon(lambda: gone(child))


def resident_children(pid: int) -> bool:
    return bool(psutil.Process(pid).children())


@pytest.mark.parametrize("seconds", [0.0, 0.15, 0.4, 0.8, 2.5])
def test_no_process_outlives_a_killed_parent(tmp_path: Path, seconds: float) -> None:
    """The parent runs the stage as the flow does and is killed at several moments; the stage waits for our lock."""
    described = call(tmp_path, memory_limit_mb=1e6).model_dump_json()
    code = "import sys; from tasks.stage import *; run_stage.fn(StageCall.model_validate_json(sys.argv[1]))"
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parent = subprocess.Popen([sys.executable, "-c", code, described], stdout=subprocess.PIPE)
        leader = psutil.Process(parent.pid)
        assert soon(lambda: gone(leader) or leader.children(), 60) and not gone(leader)
        time.sleep(seconds)
        family = leader.children(recursive=True)
        parent.kill()
        parent.wait()
        assert soon(lambda: all(map(gone, family)))
        assert soon(lambda: not forks_of(parent.pid)), "one that was forked after the family was counted"
    assert not (tmp_path / "out").exists() and not (tmp_path / "result.json").exists()


def forks_of(parent: int) -> list[psutil.Process]:
    """Living zygotes, and what they forked, of one parent, known by their command line."""
    wanted = ["-m", "tasks.zygote", str(parent)]
    return [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[1:4] == wanted and not gone(p)]


def test_failures_are_one_sentence(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("Traceback\nregistry.records.ShrinkError: data.file 'a.csv' is missing; give one.")
    seen = stage.failure("00-data", log, 1)
    assert isinstance(seen, ShrinkError) and discreet.told(seen) == "data.file 'a.csv' is missing; give one."
    assert str(seen) == "data.file '…' is missing; give one.", "Prefect keeps what it is told"
    log.write_text("Traceback\nOSError: [Errno 28] No space left on device: 'out.partial/x'")
    full = stage.failure("00-data", log, 1)
    assert isinstance(full, RuntimeError) and f"no space left in {tmp_path}" in str(full) and "make room" in str(full)
    log.write_text("Traceback\nValueError: odd")
    odd = stage.failure("00-data", log, 1)
    assert "ended with status 1: ValueError: odd" in discreet.told(odd)
    assert "ended with status 1: ValueError (whole log" in str(odd)
    frame = f'Traceback\n  File "{stage.__file__}", line 1, in run\n    '
    log.write_text(f"{frame}raise RuntimeError(said)\nRuntimeError: 3 of 4 differ, such as 'my text'")
    assert "RuntimeError: 3 of 4 differ, such as '…' (whole" in str(stage.failure("00-data", log, 1))
    log.write_text(f"{frame}int(text)\nRuntimeError: my text")
    assert "my text" not in str(stage.failure("00-data", log, 1))


def test_a_stage_whose_log_lies_on_a_full_disk_ends_and_says_so(tmp_path: Path) -> None:
    """Its process must never unwind into what the zygote imported: that would wait for threads it does not have."""
    (tmp_path / "log.txt").symlink_to("/dev/full")
    code = """
import os, pathlib
from tasks import worker, zygote
def full(directory): raise OSError(28, os.strerror(28))
worker.main = full
os._exit(zygote.stage(pathlib.Path(os.sys.argv[1])))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").write_text("")
    seen = stage.failure("02-finetune", tmp_path / "log.txt", done.returncode)
    assert "stage 02-finetune: no space left in" in str(seen) and "Traceback" not in done.stdout
