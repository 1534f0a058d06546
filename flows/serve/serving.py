"""The loop of a server: what the alias names is tried beside what is in place, and takes over step by step.

A version that is refused, by its bytes, its golden texts or what was seen of it, keeps the old one serving, or, just
after a start, brings the alias `previous` back. A way back in the ledger is taken at once. The ledger itself is not
touched, unless that was asked for: what `@champion` names is people's to say.
"""

import logging
import time
from pathlib import Path
from typing import Any

from flows.serve import deployed, opening, telling
from flows.serve.lanes import Lane, Refused, Slot
from flows.serve.opening import Named, Unfit
from flows.serve.rollout import phases
from registry import promotion, versions

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
            version=wanted.version, why=why, mark=wanted.mark, phase="opening", until=time.monotonic() + RETRY_SECONDS
        )
        slot.trouble = None
        log.error("version %s of %s is refused: %s", wanted.version, slot.name, why)
        if slot.serving is None:
            fall_back(registry, slot, cache, threads)
        unfit = isinstance(error, Unfit) and slot.serving is not None  # else it may have been the transport
        telling.note(slot, cache, "refused", wanted.version, why, None, None, unfit)
    except Exception as error:  # the registry is away or the alias unset: go on with what is loaded, try again
        if slot.trouble is None:
            log.warning("alias %s of %s cannot be followed: %s", slot.alias, slot.name, error)
        slot.trouble = f"{type(error).__name__}: {error}"
    telling.deliver(registry, slot, cache)
    telling.sweep(slot, cache)


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
    state = deployed.read(telling.where(slot, cache))
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
    telling.remember(slot, cache)


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
    log.info("serving version %s of %s (before: %s)", lane.served.version, slot.name, before or "none")


def take_over(slot: Slot) -> None:
    """Let the candidate answer everything and keep the former version at hand while that is watched."""
    with slot.lock:
        assert slot.serving is not None and slot.candidate is not None
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
    before = deployed.read(telling.where(slot, cache)).former
    slot.refused = Refused(version=bad.served.version, why=why, mark=slot.mark, phase="in place")
    fall_back(registry, slot, cache, threads, before)
    if slot.serving is bad:
        slot.refused = None
        return
    slot.rollbacks += 1
    telling.note(slot, cache, "rolled back", bad.served.version, why, "in place", None, True)
