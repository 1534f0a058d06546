"""The loop of a server: what the alias names is tried beside what is in place, and takes over step by step.

A version that is refused, by its bytes, its golden texts or what was seen of it, keeps the old one serving, or, just
after a start, brings the alias `previous` back. A way back in the ledger is taken at once. The ledger itself is not
touched, unless that was asked for: what `@champion` names is people's to say.
"""

import getpass
import logging
import time
from pathlib import Path
from typing import Any

from flows.serve import deployed, opening
from flows.serve.deployed import Evidence, Outcome, State
from flows.serve.lanes import Lane, Refused, Slot
from flows.serve.opening import Named, Unfit
from flows.serve.rollout import Seen, phases
from flows.servers import s3_config, services
from flows.settings import settings
from registry import promotion, store, versions

log = logging.getLogger("flows.deploy")
RETRY_SECONDS = 600.0  # after which a version that could not be fetched or opened is tried again


def reconcile(registry: Any, slot: Slot, cache: Path, threads: int = 1) -> None:
    """One turn of the loop: make the slot serve what the alias names, or note why it does not. Never raises.

    The calling thread must live as long as what is served.
    """
    wanted = Named("")
    try:
        wanted = opening.named(registry, slot.name, slot.alias)
        if slot.retreat is not None or settled(slot, wanted):
            slot.trouble = None
            if slot.retreat is not None:
                retreat(registry, slot, cache, threads)
        else:
            aim(registry, slot, wanted, cache, threads)
    except (versions.CorruptVersion, Unfit) as error:
        why = f"{error}"
        slot.refused = Refused(
            version=wanted.version, why=why, mark=wanted.mark, until=time.monotonic() + RETRY_SECONDS
        )
        slot.trouble = None
        log.error("version %s of %s is refused: %s", wanted.version, slot.name, why)
        if slot.serving is None:
            fall_back(registry, slot, cache, threads)
        unfit = isinstance(error, Unfit) and slot.serving is not None  # else it may have been the transport
        note(slot, cache, "refused", wanted.version, why, None, None, unfit)
    except Exception as error:  # the registry is away or the alias unset: go on with what is loaded, try again
        if slot.trouble is None:
            log.warning("alias %s of %s cannot be followed: %s", slot.alias, slot.name, error)
        slot.trouble = f"{type(error).__name__}: {error}"
    deliver(registry, slot, cache)


def settled(slot: Slot, wanted: Named) -> bool:
    """Whether there is nothing to load: it serves, is being tried, or was refused a short while ago."""
    with slot.lock:
        if slot.candidate is not None and slot.candidate.served.version != wanted.version:
            log.info("version %s is not named any more", slot.candidate.served.version)
            slot.leaving.append(slot.candidate)
            slot.candidate = None
            slot.begin(None)
        if slot.serving is not None and slot.serving.served.version == wanted.version:
            slot.refused = None
            return True
        if slot.candidate is not None:
            return True
        was = slot.refused
        return was is not None and same(was, wanted) and time.monotonic() < was.until


def same(refused: Refused, wanted: Named) -> bool:
    """Whether it is the version that was refused, named by the same entry of the ledger."""
    return (refused.version, refused.mark) == (wanted.version, wanted.mark)


def aim(registry: Any, slot: Slot, wanted: Named, cache: Path, threads: int) -> None:
    """Load what is wanted and let it take over: at once where nothing else serves or it is the way back."""
    state = deployed.read(where(slot, cache))
    known = state.refused if state.options == slot.options else None  # with other options it is worth another try
    if slot.serving is None:
        if known is not None and same(known, wanted):
            slot.refused = known
            fall_back(registry, slot, cache, threads, state.serving)
            return
        if state.serving not in {None, wanted.version} and not wanted.back:
            resumed(registry, slot, str(state.serving), cache, threads)
    going_back = wanted.back or (slot.former is not None and slot.former.served.version == wanted.version)
    lane = opening.load(registry, slot.name, wanted.version, cache, threads, slot.options)
    with slot.lock:
        slot.refused, slot.trouble, slot.mark = None, None, wanted.mark
        if slot.former is not None:  # another one is still watched: it has shown enough to be compared with
            slot.leaving.append(slot.former)
            slot.former = None
        if slot.serving is None or going_back:
            place(slot, lane)
        else:
            slot.candidate = lane
            if (first := phases(slot.options)[0]) == "watch":
                take_over(slot)
            else:
                slot.begin(first)
                log.info("version %s of %s: %s", wanted.version, slot.name, first)
    remember(slot, cache)


def resumed(registry: Any, slot: Slot, version: str, cache: Path, threads: int) -> None:
    """Put back what was in place before a restart, so that what is wanted is tried beside it."""
    try:
        place(slot, opening.load(registry, slot.name, version, cache, threads, slot.options))
    except (versions.CorruptVersion, Unfit) as error:
        log.warning("version %s of %s, which was in place, is not any more: %s", version, slot.name, error)


def place(slot: Slot, lane: Lane) -> None:
    """Let a version answer everything from now on; those before it leave."""
    with slot.lock:
        before = slot.serving.served.version if slot.serving is not None else None
        slot.leaving += slot.lanes()
        slot.serving, slot.candidate, slot.former, slot.retreat = lane, None, None, None
        slot.begin(None)
    log.info("serving version %s of %s (before: %s)", lane.served.version, slot.name, before)


def take_over(slot: Slot) -> None:
    """Let the candidate answer everything and keep the former version at hand while that is watched."""
    with slot.lock:
        assert slot.serving is not None and slot.candidate is not None
        slot.baseline = slot.serving.tally.numbers()
        slot.former, slot.serving, slot.candidate = slot.serving, slot.candidate, None
        slot.begin("watch")
    log.info(
        "serving version %s of %s (before: %s)", slot.serving.served.version, slot.name, slot.former.served.version
    )


def fall_back(registry: Any, slot: Slot, cache: Path, threads: int, first: str | None = None) -> None:
    """Serve `first`, or the alias `previous`, where nothing is served yet and the version asked for was refused."""
    bad = slot.refused.version if slot.refused is not None else None
    try:
        version = first
        if version in {None, bad}:
            try:
                version = opening.named(registry, slot.name, promotion.PREVIOUS).version
            except ValueError:
                version = None
        if version in {None, bad}:
            log.error("%s has no other version under the alias %s to go back to", slot.name, promotion.PREVIOUS)
            return
        place(slot, opening.load(registry, slot.name, str(version), cache, threads, slot.options))
        log.warning("serving version %s of %s, an earlier one, instead", version, slot.name)
    except Exception as error:
        log.error("the previous version of %s cannot be served either: %s", slot.name, error)


def retreat(registry: Any, slot: Slot, cache: Path, threads: int) -> None:
    """Replace what is in place and does not stay up by the version before it; without one it is started again."""
    bad, why = slot.serving, str(slot.retreat)
    slot.retreat = None
    if bad is None:
        return
    before = deployed.read(where(slot, cache)).former
    slot.refused = Refused(version=bad.served.version, why=why, mark=slot.mark)
    fall_back(registry, slot, cache, threads, before)
    if slot.serving is bad:
        slot.refused = None
        return
    slot.rollbacks += 1
    note(slot, cache, "rolled back", bad.served.version, why, "in place", None, True)


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
        outcome=outcome, version=version, why=why, instead=instead, phase=phase, when=deployed.now(),
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
    if slot.alias != promotion.CHAMPION or promotion.champion(s3, found.bucket, slot.name) != state.rollback:
        return
    why = next((one.why for one in state.outbox if one.version == state.rollback), "it was unfit")
    who = f"{getpass.getuser()} (shrink deploy --rollback)"
    promotion.rollback(registry, s3, found.bucket, lock, slot.name, who, why)


def where(slot: Slot, cache: Path) -> Path:
    """The file that remembers what is in place here."""
    return cache / f"{slot.name}@{slot.alias}.json"
