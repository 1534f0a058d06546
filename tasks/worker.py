"""What happens in the process that one stage runs in (forked by tasks/zygote.py).

It reads call.json, holds the directory's lock, dies with its parent, and leaves `out` complete or not at all.
"""

import ctypes
import fcntl
import json
import os
import resource
import shutil
import signal
from pathlib import Path
from types import ModuleType

from tasks import progress
from tasks.kinds import USES_TORCH, EveryStage, function_of

FULL = ("No space left on device", "Disk quota exceeded")  # what libraries say of a full disk, in whatever error
PR_SET_PDEATHSIG = 1  # prctl(2): the signal that the kernel sends when the parent is gone


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


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run_call(directory: Path, call: dict[str, object]) -> None:
    """Run the stage into `out.partial`, then write result.json and rename to `out`."""
    progress.enabled = True
    config = EveryStage.validate_python(call["config"])
    if torch_too := config.kind in USES_TORCH:
        prepare_torch(directory, call)
    partial = directory / "out.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    raw_inputs = call["inputs"]
    assert isinstance(raw_inputs, dict)
    inputs = {role: Path(path) for role, path in raw_inputs.items()}
    measured = function_of(config)(inputs, config, partial, int(str(call["seed"])))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "measured": measured,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_mb": usage.ru_maxrss * 1024 / 1e6,
    }
    (directory / "result.json").write_text(json.dumps(result))
    if torch_too:
        checkpoint().clear()
    out = directory / "out"
    if out.is_symlink():  # of an earlier go of this run, when it led to the cache
        out.unlink()
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def prepare_torch(directory: Path, call: dict[str, object]) -> None:
    """Bound torch's threads and tell training where its checkpoint lies; torch is imported only by who uses it."""
    import torch

    torch.set_num_threads(int(str(call["threads"])))
    torch.use_deterministic_algorithms(True, warn_only=True)
    if call["key"]:
        checkpoint().keep_in(directory, str(call["key"]))


def checkpoint() -> ModuleType:
    """The module that keeps a training's state; it imports torch."""
    from tasks import checkpoint

    return checkpoint
