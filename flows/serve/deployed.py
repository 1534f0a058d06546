"""What a server remembers over a kill -9, and what it tells of a version in MLflow (tag `shrink.deployment`)."""

import logging
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from flows.serve.lanes import Refused
from flows.serve.rollout import Options, Seen
from registry.records import STRICT

log = logging.getLogger("flows.deploy")
TAG = "shrink.deployment"
Outcome = Literal["serving", "rolled back", "refused"]


class Evidence(BaseModel):
    """What became of a version at this server, with the numbers that decided; holds no text of anybody."""

    model_config = STRICT
    outcome: Outcome
    version: str
    why: str
    instead: str | None  # the version that answers in its place
    phase: str | None
    when: str
    options: Options
    seen: Seen | None


class State(BaseModel):
    """What the next start begins with: nothing of it is served unverified."""

    model_config = STRICT
    serving: str | None = None
    former: str | None = None
    refused: Refused | None = None  # by what was seen of it; what could not be fetched is tried again
    options: Options = Options()
    outbox: tuple[Evidence, ...] = ()  # not told to the registry yet
    rollback: str | None = None  # the version that the ledger is to be rolled back from


def read(path: Path) -> State:
    """What is remembered; a fresh state where there is nothing, or nothing that can be read."""
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return State()
    except (OSError, ValidationError) as error:
        log.warning("what was remembered in %s cannot be read and is forgotten: %s", path, type(error).__name__)
        return State()


def write(path: Path, state: State) -> None:
    """Put it there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(state.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def told(registry: Any, name: str, evidence: Evidence) -> None:
    """Write evidence to its version in MLflow."""
    registry.set_model_version_tag(name, evidence.version, TAG, evidence.model_dump_json())
