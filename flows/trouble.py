"""What stopped a run, in one line: a full disk, or which server is away. Libraries hardly say so, or at length."""

import errno
import shutil
from pathlib import Path

from registry.patience import AWAY, OFF, chain
from tasks.discreet import told
from tasks.worker import FULL

SAID = (*(sign.lower() for sign in FULL), "disk is full")  # as the kernel, Go and SQLite say it
TOO_LITTLE = 4e6  # bytes free: with less nothing works, whatever the library that failed says
LITTLE = 1e8  # bytes free: with less a server that fails without a reason (rclone does) had no room to write
CLIENTS = {"boto3", "botocore", "mlflow", "requests", "prefect", "httpx"}
STOPPED = {"KeyboardInterrupt": "stopped by Ctrl-C or `shrink cancel`", "TerminationSignal": "stopped by a signal"}


def explained(home: Path, error: BaseException) -> str:
    """The cause of an error in one line, for a person."""
    if type(error).__name__ in STOPPED:
        return STOPPED[type(error).__name__]
    causes = list(chain(error))
    free = shutil.disk_usage(home).free if home.exists() else TOO_LITTLE
    full = [one for one in causes if is_full(one)]
    if full or free < TOO_LITTLE:
        name = next((one.filename for one in full if isinstance(one, OSError) and one.filename), None)
        what = f" for {name}" if name else ""
        return f"no space left{what} in '{home}' ({free / 1e6:.0f} MB free); make room there"
    if free >= LITTLE and any("too many 500 error responses" in str(one) for one in causes):
        return f"MLflow, or the S3 behind it, fails; its log is {home / 'logs' / 'mlflow.log'}"
    for one in causes:
        library = type(one).__module__.partition(".")[0]
        if library in AWAY and OFF & {base.__name__ for base in type(one).__mro__}:
            return f"{AWAY[library]} does not answer (`shrink doctor` looks at the servers)"
    said = next(iter(told(error).strip().splitlines()), "") or type(error).__name__
    if free < LITTLE and any(type(one).__module__.partition(".")[0] in CLIENTS for one in causes):
        return f"a server could not write, with {free / 1e6:.0f} MB free in '{home}' ({said:.100}); make room there"
    return said


def is_full(error: BaseException) -> bool:
    """Whether an error is about a full disk."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    return any(sign in str(error).lower() for sign in SAID)
