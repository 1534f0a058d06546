"""Errors without what they quote, for whoever keeps them: Prefect's server stores what ends a run, in state and log.

A sentence about a user's row may quote it, and a library's message may hold any text. The person who typed the command
reads all of it (`told`), and so do the run's own files; what leaves this machine names the field, the row, the stage.
"""

import contextlib
import re
from collections.abc import Iterator

from registry.records import ShrinkError

QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)  # what repr() writes
LEFT_OUT = "'…'"
TOLD = "told"  # the attribute that keeps the whole sentence


def told(error: BaseException) -> str:
    """The whole sentence of an error, for the person who typed the command and the files of the run."""
    return str(getattr(error, TOLD, error))


def hushed(error: Exception, instead: str | None = None) -> Exception:
    """The error as it may be stored: quotes left out, or the whole sentence replaced by `instead`."""
    if hasattr(error, TOLD):
        return error
    said = QUOTED.sub(LEFT_OUT, str(error)) if instead is None else instead
    if isinstance(error, ShrinkError):
        quiet: Exception = ShrinkError(said)
    elif type(error) is RuntimeError:
        quiet = RuntimeError(said)
    else:
        quiet = RuntimeError(f"{type(error).__name__}: {said}")
    setattr(quiet, TOLD, str(error))
    return quiet


@contextlib.contextmanager
def hushing() -> Iterator[None]:
    """Errors leave the block as they may be stored; their cause is kept for who explains them, and not printed."""
    try:
        yield
    except Exception as error:
        raise hushed(error) from None
