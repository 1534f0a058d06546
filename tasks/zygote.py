"""The process that stages are forked from: `python -m tasks.zygote PARENT [MODULE …]`, started by tasks/stage.py.

Every stage has a process of its own, but importing torch and transformers takes seconds: the modules named are
imported once, here. A line on stdin names a stage's directory; its process is forked, runs it (tasks/worker.py) and
writes its events to our stdout, before them {"started": pid}, after them {"ended": exit status}. Forking is safe
because this process only imports: nothing has computed yet, so no thread pool that a child would wait for is at work.
"""

import contextlib
import errno
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from tasks import worker
from tasks.parent import die_with_parent


def main() -> None:
    """Serve until stdin ends; dies with its parent, and a stage's process dies with this one."""
    die_with_parent()
    if os.getppid() != int(sys.argv[1]):
        return  # the parent was killed before the kernel was asked: nobody would end us
    for name in sys.argv[2:]:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(stage(Path(line.rstrip("\n"))))
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # not reaped yet: its group's id is still its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # whatever the stage started and left behind
        _, status = os.waitpid(child, 0)
        say({"ended": os.waitstatus_to_exitcode(status)})


def stage(directory: Path) -> int:
    """Run one stage in this (forked) process, in a group of its own, its messages going to log.txt; exit status.

    A full disk is told by the status: on it the log may stay empty.
    """
    try:  # nothing may leave here: a forked process that tears down what the zygote imported hangs
        os.setsid()
        say({"started": os.getpid()})
        with (directory / "log.txt").open("w") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())
        status = worker.main(directory)
        sys.stdout.flush()
        return status
    except BaseException as error:
        with contextlib.suppress(Exception):  # the log's disk may be the full one
            traceback.print_exc()
            sys.stderr.flush()
        return errno.ENOSPC if any(sign in f"{error}" for sign in worker.FULL) else 1


def say(event: dict[str, int]) -> None:
    """Tell the parent."""
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
