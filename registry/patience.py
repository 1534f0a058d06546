"""Waiting for a server that is away: what may be repeated is tried again for minutes, told once, never in a busy loop.

Clients ride out seconds by themselves. An outage of a minute would end a run whose work is done, so that registering,
fetching and promoting, all of which may be repeated after any kill, are repeated here until the server is back.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from registry.records import ShrinkError

log = logging.getLogger("registry.patience")
progress_log = logging.getLogger("progress")
LIMIT = 300.0  # seconds from the first failure; then the run ends, resumable
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds between tries; the last one over and over
AWAY = {"botocore": "S3", "urllib3": "MLflow", "requests": "MLflow", "httpx": "Prefect's server"}
OFF = {"HTTPClientError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "TransportError", "MaxRetryError"}
FAILS = "MLflow, or the S3 behind it,"  # which of them its 500 does not say
FULL = ("no space left", "disk is full", "quota exceeded", "not enough space")  # waiting makes no room
CUT = ("max retries exceeded", "connection aborted", "connection refused", "connection reset", "incompleteread")
FAILING = ("too many 500", "too many 502", "too many 503", "500 server error", "502 server error", "503 server error")
P = ParamSpec("P")
T = TypeVar("T")


def patiently(action: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """The action's result; while a server is away it is tried again, at most LIMIT seconds. It must be repeatable.

    Raises the action's own error when that is of another kind, or the last one when the server stays away.
    """
    since = None
    for pause in itertools.chain(PAUSES, itertools.repeat(PAUSES[-1])):
        try:
            result = action(*given, **named)
        except Exception as error:
            who = away(error)
            since = since or (time.monotonic(), who)
            if who is None or time.monotonic() - since[0] > LIMIT:
                raise
            if since[1] is not None:
                tell(f"{who} does not answer: waiting for it, at most {LIMIT / 60:.0f} minutes")
                since = (since[0], None)
            time.sleep(pause)
        else:
            if since is not None:
                tell(f"it answers again after {time.monotonic() - since[0]:.0f} s; going on")
            return result
    raise AssertionError("there is always another pause")


def tell(text: str) -> None:
    """One line for whoever watches a run, and for the log."""
    log.warning(text)
    progress_log.info("waiting", extra={"waiting": text})


def away(error: BaseException) -> str | None:
    """Which server an error says is away or failing, as a person calls it; None for every other error."""
    causes = list(chain(error))
    said = [str(one).lower() for one in causes]
    if isinstance(error, ShrinkError) or any(sign in text for sign in FULL for text in said):
        return None
    ours = any(type(one).__module__.startswith("mlflow") for one in causes)  # it keeps of what failed below the words
    if ours and any(sign in text for sign in FAILING for text in said):
        return FAILS
    for one in causes:
        library = type(one).__module__.partition(".")[0]
        if library in AWAY and OFF & {base.__name__ for base in type(one).__mro__}:
            return AWAY[library]
        if library in AWAY and status_of(one) >= 500:
            return AWAY[library] if library != "requests" else FAILS
    return "MLflow" if ours and any(sign in text for sign in CUT for text in said) else None


def status_of(error: BaseException) -> int:
    """The HTTP status in an error of boto3, requests or Prefect's client; 0 where there is none."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    else:
        found = getattr(response, "status_code", 0)
    return found if isinstance(found, int) else 0


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of, outermost first."""
    seen: BaseException | None = error
    for _ in range(20):  # a chain may be a circle
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
