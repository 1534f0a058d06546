"""What a server remembers of its versions at each step, and how the registry is told what became of one.

Both are written down first: what cannot be told now, or was cut off by a kill, is told at a later turn.
"""

import getpass
import logging
import shutil
from pathlib import Path
from typing import Any

from flows import keys
from flows.serve import deployed
from flows.serve.deployed import Evidence, Outcome, State
from flows.serve.lanes import Slot, now
from flows.serve.rollout import Seen
from flows.servers import s3_config, services
from flows.settings import settings
from registry import promotion, store

log = logging.getLogger("flows.deploy")


def note(
    slot: Slot,
    cache: Path,
    outcome: Outcome,
    version: str,
    why: str,
    phase: str | None,
    seen: Seen | None,
    unfit: bool,
) -> None:
    """Keep evidence for the version in MLflow, and remember what is in place; if asked, to roll back an unfit one."""
    instead = slot.serving.served.version if slot.serving is not None and outcome != "serving" else None
    evidence = Evidence(
        outcome=outcome, version=version, why=why, instead=instead, phase=phase, when=now(),
        options=slot.options, seen=seen,
    )  # fmt: skip
    with slot.lock:
        state = deployed.read(where(slot, cache))
        others = tuple(one for one in state.outbox if one.version != version)
        back = version if slot.options.rollback and unfit else state.rollback
        remember(slot, cache, state.model_copy(update={"outbox": (*others, evidence), "rollback": back}))


def remember(slot: Slot, cache: Path, state: State | None = None) -> None:
    """Write what the next start begins with."""
    with slot.lock:
        known = state if state is not None else deployed.read(where(slot, cache))
        deployed.write(where(slot, cache), known.model_copy(update=present(slot, known)))


def present(slot: Slot, known: State) -> dict[str, Any]:
    """What is in place, what was before it, and what is refused by what was seen of it."""
    serving = slot.serving.served.version if slot.serving is not None else known.serving
    former = known.serving if known.serving not in {None, serving} else known.former
    bad = slot.refused if slot.refused is not None and slot.refused.until == float("inf") else None
    return {"serving": serving, "former": former, "refused": bad, "options": slot.options}


def deliver(registry: Any, slot: Slot, cache: Path) -> None:
    """Tell the registry what it was not told yet; what cannot be told now is told at another turn."""
    state = deployed.read(where(slot, cache))
    if not state.outbox and state.rollback is None:
        return
    try:
        for evidence in state.outbox:
            deployed.told(registry, slot.name, evidence)
        if state.rollback is not None:
            rolled_back(registry, slot, state)
    except Exception as error:
        log.warning("the registry could not be told what became of a version: %s", error)
        return
    with slot.lock:
        newer = deployed.read(where(slot, cache))
        left = tuple(one for one in newer.outbox if one not in state.outbox)
        rollback = newer.rollback if newer.rollback != state.rollback else None
        deployed.write(where(slot, cache), newer.model_copy(update={"outbox": left, "rollback": rollback}))


def rolled_back(registry: Any, slot: Slot, state: State) -> None:
    """Append a rollback to the ledger, if the version is still its champion."""
    found = services(settings().home)
    s3, lock = store.connect(s3_config(found)), settings().home / "locks" / f"promotion-{slot.name}.lock"
    held = keys.of_ledger(settings())
    champion = promotion.champion(s3, found.bucket, slot.name, trust=held.trust)
    if slot.alias != promotion.CHAMPION or champion != state.rollback:
        return
    why = next((one.why for one in state.outbox if one.version == state.rollback), "it was unfit")
    who = f"{getpass.getuser()} (shrink deploy --rollback)"
    promotion.rollback(registry, s3, found.bucket, lock, slot.name, who, why, held)


def where(slot: Slot, cache: Path) -> Path:
    """The file that remembers what is in place here."""
    return cache / f"{slot.name}@{slot.alias}.json"


def sweep(slot: Slot, cache: Path) -> None:
    """Remove the downloaded versions that are neither in place, nor before that, nor being tried, and what was torn.

    To be called by whoever downloads, between two downloads.
    """
    with slot.lock:
        state = deployed.read(where(slot, cache))
        used = {lane.served.version for lane in (*slot.lanes(), *slot.leaving)} | {state.serving, state.former}
        kept = {f"{slot.name}-{version}" for version in used}
        for path in cache.glob("*"):
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith(f".{where(slot, cache).name}."):  # a kill cut off its writing
                path.unlink(missing_ok=True)
