"""One slot a machine: whoever holds it counts the machine's energy, so that two runs at once do not count it twice.

A lock on a file that every user of the machine finds in the same place; the kernel lets go of it when its holder dies.
Containers see it in common only where they are given the same file.
"""

import contextlib
import fcntl
import os
from pathlib import Path

NAME = "shrink-meter.lock"
PLACES = ("/run/lock", "/tmp")
LONGEST = 200  # characters of a holder's name that are believed


def place() -> Path:
    """The file that all runs on this machine lock."""
    usable = [folder for folder in map(Path, PLACES) if (folder / NAME).exists() or os.access(folder, os.W_OK)]
    return (usable[0] if usable else Path(PLACES[-1])) / NAME


def take(path: Path, name: str) -> int | str:
    """Take the slot in this name; returns what `leave` wants, or who counts the machine instead (never waits)."""
    try:
        held = _opened(path)
    except OSError as error:
        return f"nobody that can be known: the slot '{path}' cannot be opened ({error.strerror})"
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        said = os.pread(held, LONGEST, 0).decode(errors="replace")
        os.close(held)
        return "".join(letter for letter in said if letter.isprintable()) or "another run"
    with contextlib.suppress(OSError):  # another user's file that only reads: then it says who made it, or nothing
        os.ftruncate(held, 0)
        os.pwrite(held, name.encode()[:LONGEST], 0)
    return held


def leave(held: int) -> None:
    """Let go of the slot."""
    with contextlib.suppress(OSError):
        os.ftruncate(held, 0)
    os.close(held)


def _opened(path: Path) -> int:
    for flags in (os.O_RDWR, os.O_RDONLY):  # without O_CREAT: in /tmp the kernel may refuse it for others' files
        with contextlib.suppress(FileNotFoundError, PermissionError):
            return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with contextlib.suppress(OSError):
        os.fchmod(made, 0o666)  # whatever the umask: the next user's run writes its name here
    return made
