"""What a server answers with: the version behind an alias, fetched, verified, opened and asked its golden texts.

A version that fails keeps the old one serving, or, just after a start, brings the alias `previous` back.
"""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from flows import units
from flows.outcome import by_ledger
from registry import promotion, versions
from registry.records import STRICT, Task
from tasks import runtime

log = logging.getLogger("flows.deploy")
TOLERANCE = 1e-4  # of a golden output; as in tasks/reload.py
RETRY_SECONDS = 600.0  # after which a refused version is tried again: what was amiss may have been its transport


class Unfit(RuntimeError):
    """A version whose bytes are right but whose answers are not."""


class Loaded(BaseModel):
    """An opened version: everything one request needs, so that it never sees two versions."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    version: str
    directory: Path
    task: Task
    config: dict[str, Any]
    session: Any


class Refused(BaseModel):
    """A version that is not served, and why."""

    model_config = STRICT
    version: str
    why: str
    until: float = Field(exclude=True, description="time.monotonic() at which it is tried again")


class Slot(BaseModel):
    """What the server serves now; the loop alone assigns, requests only read."""

    name: str
    alias: str
    serving: Loaded | None = None
    refused: Refused | None = None
    trouble: str | None = None


def reconcile(registry: Any, slot: Slot, cache: Path, threads: int = 1) -> None:
    """One turn of the loop: make the slot serve what the alias names, or note why it does not. Never raises."""
    version = ""
    try:
        version = versions.resolve(registry, slot.name, slot.alias)
        if slot.serving is not None and slot.serving.version == version:
            slot.refused = slot.trouble = None
            return
        if slot.refused is not None and slot.refused.version == version and time.monotonic() < slot.refused.until:
            slot.trouble = None
            return
        loaded = load(registry, slot.name, version, cache, threads)
    except (versions.CorruptVersion, Unfit) as error:
        until = time.monotonic() + RETRY_SECONDS
        slot.refused, slot.trouble = Refused(version=version, why=str(error), until=until), None
        log.error("version %s of %s is refused: %s", version, slot.name, error)
        if slot.serving is None:
            fall_back(registry, slot, cache, threads)
    except Exception as error:  # the registry is away or the alias unset: go on with what is loaded, try again
        if slot.trouble is None:
            log.warning("alias %s of %s cannot be followed: %s", slot.alias, slot.name, error)
        slot.trouble = f"{type(error).__name__}: {error}"
    else:
        before = slot.serving.version if slot.serving is not None else None
        slot.serving, slot.refused, slot.trouble = loaded, None, None
        log.info("serving version %s of %s (before: %s)", version, slot.name, before)


def fall_back(registry: Any, slot: Slot, cache: Path, threads: int) -> None:
    """Serve the alias `previous` where nothing is served yet and the version asked for was refused."""
    try:
        version = versions.alias(registry, slot.name, promotion.PREVIOUS)
        if version is None or (slot.refused is not None and version == slot.refused.version):
            log.error("%s has no other version under the alias %s to go back to", slot.name, promotion.PREVIOUS)
            return
        slot.serving = load(registry, slot.name, version, cache, threads)
        log.warning("serving version %s of %s, the previous one, instead", version, slot.name)
    except Exception as error:
        log.error("the previous version of %s cannot be served either: %s", slot.name, error)


def load(registry: Any, name: str, version: str, cache: Path, threads: int = 1) -> Loaded:
    """Fetch, verify, open and check one version; raises CorruptVersion or Unfit when it must not be served."""
    folder = cache / f"{name}-{version}"
    fetched = by_ledger(registry, name, version, folder)
    try:
        return opened(fetched / "model", fetched / "evidence" / "golden.json", version, threads)
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"it cannot be opened or checked: {type(error).__name__}: {error}") from error


def opened(model: Path, golden: Path, version: str, threads: int = 1) -> Loaded:
    """Open a model's directory and compare its answers with the golden ones; raises Unfit when they differ."""
    if runtime.task(model) == "generate":
        raise Unfit(f"it writes text, which is not served: ask it with {units.WRITES}")
    session = runtime.session(model, threads)
    texts, expected = runtime.golden(golden)
    task = runtime.task(model)
    answers, name = runtime.predict(model, texts, batch=1, opened=session), runtime.OUTPUTS[task]
    if not len(expected) or answers.shape != expected.shape:
        raise Unfit(f"its {name} has the shape {answers.shape}, the golden one {expected.shape}")
    worst = float(np.abs(answers - expected).max())
    if not worst <= TOLERANCE:
        raise Unfit(f"it differs from its golden {name} by {worst:.3g}, allowed is {TOLERANCE:g}")
    return Loaded(version=version, directory=model, task=task, config=runtime.settings(model), session=session)
