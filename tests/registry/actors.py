"""Processes of their own that act on a ledger, many at once or one that is killed at a given call; run with `-m`.

It reads one JSON object a line (`Act`s in a list), forks a process for each, and answers with how each ended.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from registry import movements, promotion, runs, sealing, signing, store
from registry.records import ShrinkError

WROTE, NOTHING, BROKEN = 0, 3, 4  # exit statuses: an entry of its own, none, an error


class Act(BaseModel):
    """One action of one process; it kills itself at its n-th call of S3 or MLflow where `dies` says so."""

    what: str
    version: str | None = None
    why: str
    name: str
    lock: str
    mlflow: str
    s3: store.S3Config
    dies: int | None = None
    signs: signing.Signer | None = None


class Mortal:
    """A client whose calls are counted; the n-th is the last thing that this process does."""

    def __init__(self, client: Any, left: list[int]) -> None:
        self.client, self.left = client, left

    def __getattr__(self, name: str) -> Any:
        """The client's own, counted."""
        found = getattr(self.client, name)
        return self.counted(found) if callable(found) and not name.startswith("_") else found

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, which may be the last."""

        def made(*given: Any, **named: Any) -> Any:
            self.left[0] -= 1
            if not self.left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return made


def clients(act: Act) -> tuple[Any, Any]:
    """This process's own clients."""
    client, s3 = runs.connect(act.mlflow), store.connect(act.s3)
    if act.dies is None:
        return client, s3
    left = [act.dies]
    return Mortal(client, left), Mortal(s3, left)


def perform(act: Act) -> promotion.Entry:
    """The action, in this process."""
    client, s3 = clients(act)
    where = (client, s3, act.s3.bucket, Path(act.lock), act.name)
    keys = sealing.Keys(signing.Trust(keys=(act.signs.public,)), act.signs) if act.signs else None
    if act.what == "rollback":
        return promotion.rollback(*where, "racer", act.why, keys)
    assert act.version is not None
    doing: Callable[..., promotion.Entry] = getattr(promotion, act.what)
    return doing(*where, act.version, "racer", act.why, keys=keys)


def watched(act: Act) -> bool:
    """Whether this process is the one that starts the first run of a recipe's movement."""
    given = {"seq": 1, "event": "start", "recipe": act.name, "recipe_digest": "d" * 64, "versions": {}, "digests": {}}
    entry = movements.Movement.model_validate(given | {"attempt": 1, "who": act.why, "when": movements.now()})
    return movements.append(clients(act)[1], act.s3.bucket, entry)


def forked(act: Act) -> int:
    """A process that performs; its id."""
    child = os.fork()
    if child:
        return child
    status = BROKEN
    try:
        wrote = watched(act) if act.what == "watch" else perform(act).why == act.why
        status = WROTE if wrote else NOTHING
    except ShrinkError:
        status = NOTHING
    except BaseException as error:
        print(f"{act.what} {act.why}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(status)


def main() -> None:
    """Serve the lines of standard input."""
    import mlflow  # noqa: F401  # what every child needs is imported, and S3's description read, once

    store.connect(store.S3Config(endpoint="http://127.0.0.1:9", bucket="none", access_key="none", secret_key="none"))

    for line in sys.stdin:
        children = [forked(Act.model_validate(one)) for one in json.loads(line)]
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
