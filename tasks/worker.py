"""What happens in the process that one stage runs in (forked by tasks/zygote.py).

It reads call.json, holds the directory's lock, dies with its parent, and leaves `out` complete or not at all. A stage
that several processes train is run in them (tasks/rank.py), and this one waits.
"""

import fcntl
import json
import os
import resource
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from registry.records import ShrinkError
from tasks import progress
from tasks.kinds import EveryStage, function_of, uses_torch
from tasks.parent import die_with_parent
from tasks.way import ALONE, Way

FULL = ("No space left on device", "Disk quota exceeded")  # what libraries say of a full disk, in whatever error


def main(directory: Path) -> int:
    """Run the stage described in directory/call.json; returns the exit status."""
    die_with_parent()
    call = json.loads((directory / "call.json").read_text())
    if os.getppid() != call["parent"]:
        return 1
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run_call(directory, call)
    return 0


def run_call(directory: Path, call: dict[str, Any]) -> None:
    """Run the stage into `out.partial`, then write result.json and rename to `out`."""
    partial = directory / "out.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if call["way"]["processes"] > 1:
        measured, peak = by_many(directory, call)
    else:
        progress.enabled = True
        measured, peak = computed(directory, call), 0.0
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)[: 1 + bool(peak)]]
    result = {
        "measured": measured,
        "cpu_seconds": sum(one.ru_utime + one.ru_stime for one in used),
        "peak_rss_mb": peak or used[0].ru_maxrss * 1024 / 1e6,
    }
    (directory / "result.json").write_text(json.dumps(result))
    if uses_torch(call["config"]):
        checkpoint().clear()
    out = directory / "out"
    if out.is_symlink():  # of an earlier go of this run, when it led to the cache
        out.unlink()
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def computed(directory: Path, call: dict[str, Any]) -> dict[str, Any]:
    """What the stage function measured; its artifact lies in `out.partial`."""
    config = EveryStage.validate_python(call["config"])
    if uses_torch(call["config"]):
        prepare_torch(directory, call)
    inputs = {role: Path(path) for role, path in call["inputs"].items()}
    return function_of(config)(inputs, config, directory / "out.partial", int(call["seed"]))


def by_many(directory: Path, call: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Have torchrun run tasks/rank.py in several processes; what the first measured, and the MB that all held.

    They meet at files: torchrun's own server would listen on every address of this machine. What one of them raised
    is raised here, first what the user can mend.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    keep_state(directory, call)
    ranks = directory / "ranks"
    shutil.rmtree(ranks, ignore_errors=True)
    ranks.mkdir()
    count = str(call["way"]["processes"])
    at_file = ("--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file", "--rdzv-endpoint", str(ranks / "torchrun"))
    here = ("--nproc-per-node", count, "--local-addr", "127.0.0.1", "--max-restarts", "0")
    failed: Exception | None = None
    try:
        run.main([*here, *at_file, "-m", "tasks.rank", str(directory), str(os.getpid())])
    except ChildFailedError as error:
        failed = error
    told = [json.loads(path.read_text()) for path in sorted(ranks.glob("*.json"), key=os.path.getmtime)]
    shutil.rmtree(ranks)
    errors = sorted((one for one in told if one["error"]), key=lambda one: not one["mendable"])
    if errors and errors[0]["mendable"]:
        raise ShrinkError(errors[0]["error"].partition(": ")[2]) from None
    if errors or failed:
        raise RuntimeError(errors[0]["error"] if errors else f"{failed}") from failed
    (measured,) = (one["measured"] for one in told if "measured" in one)
    return measured, sum(one["peak_rss_mb"] for one in told)


def meeting(directory: Path) -> Path:
    """The file at which the processes of a stage find each other."""
    return directory / "ranks" / "meeting"


def prepare_torch(directory: Path, call: dict[str, Any]) -> None:
    """Bound torch's threads and tell training its way and its checkpoint; torch is imported only by who uses it."""
    import torch

    from tasks import parallel

    way = Way.model_validate(call["way"])
    torch.set_num_threads(max(1, int(call["threads"]) // way.processes))
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_state(directory, call)
    if way.processes == 1 and way != ALONE:
        parallel.join(way, meeting(directory))


def keep_state(directory: Path, call: dict[str, Any]) -> None:
    """Tell training where its checkpoint lies, unless nobody could go on with one."""
    if call["key"]:
        checkpoint().keep_in(directory, str(call["key"]))


def checkpoint() -> ModuleType:
    """The module that keeps a training's state; it imports torch."""
    from tasks import checkpoint

    return checkpoint
