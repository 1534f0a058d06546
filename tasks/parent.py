"""A process that ends with its parent, however that ends: stages (tasks/worker.py) and what a server asks."""

import ctypes
import signal

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that the kernel sends when the parent is gone


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
