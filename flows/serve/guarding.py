"""Looks after the processes of a server: memory, deaths, and when a version that is tried goes on or back.

Four turns a second, each short: nothing here asks the registry.
"""

import logging
import time
from pathlib import Path

from flows.serve import child, serving, telling
from flows.serve.child import Failed
from flows.serve.lanes import Lane, Refused, Slot
from flows.serve.rollout import decided, phases
from registry.records import digest_directory

log = logging.getLogger("flows.deploy")
DEATHS, DEATH_SECONDS = 3, 60.0  # so many within so long: it does not stay up
AGAIN_SECONDS = 5.0  # between two starts of a version that does not stay up
DRAIN_SECONDS = 60.0  # that a version which was replaced may take for what it was asked
WELL = "it did as well as the version before it"
WRONG, FEWEST = 0.5, 20  # share of requests that could not be answered, of at least so many


def guard(slot: Slot, cache: Path, threads: int = 1) -> None:
    """One turn. Never raises; the calling thread must live as long as what is served."""
    try:
        for lane in slot.lanes():
            look(slot, lane)
        decide(slot, cache)
        for lane in slot.lanes():
            if lane.child.gone:
                revive(slot, lane, threads)
        drain(slot)
    except Exception:
        log.exception("the server's processes could not be looked after")


def look(slot: Slot, lane: Lane) -> None:
    """Note a process's memory and end one that takes too much, or does not answer any more; note a death."""
    held = lane.child.resident_mb()
    lane.peak_mb = max(lane.peak_mb, held)
    if held > lane.served.limit_mb:
        log.error("version %s takes %.0f MB, allowed are %.0f", lane.served.version, held, lane.served.limit_mb)
        lane.child.kill()
    elif lane.child.stuck():
        log.error("version %s does not answer any more", lane.served.version)
        lane.child.kill()
    if lane.child.gone and not lane.buried:
        lane.buried = True
        lane.deaths.append(time.monotonic())
        slot.restarts += 1
        log.error("the process of version %s ended with status %s", lane.served.version, lane.child.process.returncode)
    recent = [one for one in lane.deaths if time.monotonic() - one < DEATH_SECONDS]
    if slot.phase is None and lane is slot.serving and slot.retreat is None:
        numbers = lane.tally.numbers()
        if len(recent) >= DEATHS:
            slot.retreat = f"its process ended {len(recent)} times within {DEATH_SECONDS:.0f} s"
        elif numbers.requests >= FEWEST and numbers.errors > WRONG * numbers.requests:
            slot.retreat = f"it could not answer {numbers.errors} of {numbers.requests} requests"


def decide(slot: Slot, cache: Path) -> None:
    """Let the version that is tried go on to its next phase, or back."""
    with slot.lock:
        phase = slot.phase
        tried = slot.serving if phase == "watch" else slot.candidate
        if phase is None or tried is None:
            return
        seen = slot.seen()
        step, why = decided(phase, seen, slot.options)
        if step == "wait":
            return
        if step == "refuse":
            back(slot, tried, why)
        else:
            onward(slot)
    if step == "refuse":
        slot.rollbacks += 1
        log.error("version %s of %s is refused (%s): %s", tried.served.version, slot.name, phase, why)
        telling.note(slot, cache, "rolled back", tried.served.version, why, phase, seen, True)
    elif slot.phase is None:
        log.info("version %s of %s stays", tried.served.version, slot.name)
        telling.note(slot, cache, "serving", tried.served.version, WELL, phase, seen, False)
    else:
        telling.remember(slot, cache)


def back(slot: Slot, tried: Lane, why: str) -> None:
    """Answer by the version that was in place before; what is in flight at the refused one it may finish."""
    slot.refused = Refused(version=tried.served.version, why=why, mark=slot.mark, phase=slot.phase or "")
    slot.leaving.append(tried)
    if slot.phase == "watch":
        slot.serving, slot.former = slot.former, None
    slot.candidate = None
    slot.begin(None)


def onward(slot: Slot) -> None:
    """The next phase."""
    ahead = phases(slot.options)
    if slot.phase == "watch":
        if slot.former is not None:
            slot.leaving.append(slot.former)
        slot.former = None
        slot.begin(None)
        return
    following = ahead[ahead.index(slot.phase) + 1] if slot.phase is not None else ahead[0]
    if following == "watch":
        serving.take_over(slot)
    else:
        slot.begin(following)
        assert slot.candidate is not None
        log.info("version %s of %s: %s", slot.candidate.served.version, slot.name, following)


def revive(slot: Slot, lane: Lane, threads: int) -> None:
    """Start a version's process anew from the files that were verified, if they still are what they were."""
    recent = [one for one in lane.deaths if time.monotonic() - one < DEATH_SECONDS]
    if len(recent) >= DEATHS and time.monotonic() - lane.tried < AGAIN_SECONDS:
        return
    lane.tried = time.monotonic()
    served = lane.served
    if served.digest and digest_directory(served.directory) != served.digest:
        log.error("the files of version %s in %s were changed: they are not opened", served.version, served.directory)
        return
    try:
        started = child.start(served.directory, served.runtime, threads, slot.options.batch, served.limit_mb)
    except Failed as error:
        lane.deaths.append(time.monotonic())
        log.error("version %s could not be started again: %s", served.version, error)
        return
    lane.child, lane.buried = started, False
    log.warning("version %s of %s answers again", served.version, slot.name)


def drain(slot: Slot) -> None:
    """End what was replaced, once it has answered what it was asked."""
    for lane in list(slot.leaving):
        if lane.leaves == 0.0:
            lane.leaves = time.monotonic()
        if lane.child.gone or not lane.child.waiting or time.monotonic() - lane.leaves > DRAIN_SECONDS:
            lane.child.end()
            slot.leaving.remove(lane)


def end(slot: Slot) -> None:
    """End every process, after what it was asked."""
    with slot.lock:
        slot.leaving += slot.lanes()
        slot.serving = slot.candidate = slot.former = None
    for lane in slot.leaving:
        lane.child.end()
    slot.leaving.clear()
