"""What a green start saved: grams of the hours that were, beside those of the hours that would have been."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from flows import units
from flows.start import decision as decisions
from flows.start.decision import Decision
from registry.records import Attempt, Band, CarbonStart, Footprint, Seconds, StageRecord, scaled, summed

LATE = timedelta(minutes=5)  # begun so soon behind its chosen start, a run was not held up otherwise


class Drawn(NamedTuple):
    """Energy that was drawn from a moment on, for so many seconds."""

    at: datetime
    footprint: Footprint


def of_run(directory: Path, attempts: list[Attempt]) -> CarbonStart | None:
    """What the start of the run in this folder came to; None for a run without a decision."""
    decision = decisions.read(directory)
    if decision is None:
        return None
    each: list[StageRecord | Attempt] = [*computed(directory), *attempts]
    found = [Drawn(datetime.fromisoformat(one.started), one.footprint) for one in each]
    return reckoned(decision, sorted(found, key=lambda one: one.at))


def told(directory: Path, attempts: list[Attempt]) -> dict[str, Any] | None:
    """The same as the journal and `show` keep it."""
    found = of_run(directory, attempts)
    return found.model_dump(mode="json") if found else None


def computed(directory: Path) -> list[StageRecord]:
    """The stages that the run computed, in this process or in one before it."""
    records = []
    for path in sorted(directory.glob("*/record.json")):
        try:
            records.append(StageRecord.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, ValidationError):
            continue
    return records


def reckoned(decision: Decision, found: list[Drawn]) -> CarbonStart:
    """The record of a decision and of what was drawn after it."""
    choice = decision.choice
    told = CarbonStart(
        asked=decision.made.isoformat(),
        within=decision.within,
        profile=decision.profile.source,
        candidates=len(choice.candidates),
        at_once_grams_per_kwh=choice.at_once.grams_per_kwh,
        chosen_grams_per_kwh=choice.chosen.grams_per_kwh,
        chosen=choice.chosen.start.isoformat(),
        why=decision.why,
    )
    if not found:
        return told.model_copy(update={"unknown": "no stage was computed: nothing was drawn"})
    began = found[0].at
    waited = began - decision.made
    if began - decision.start < LATE:
        waited = decision.start - decision.made
    told = told.model_copy(update={"began": began.isoformat(), "waited_seconds": Seconds(waited.total_seconds())})
    if dark := sum(one.footprint.kwh is None for one in found):
        return told.model_copy(update={"unknown": f"{dark} of {len(found)} stages were not measured"})
    here, there = grams(decision, found, timedelta()), grams(decision, found, -waited)
    if here is None or there is None:
        return told.model_copy(update={"unknown": f"'{decision.profile.source}' does not know all these hours"})
    ends = [would - was for would, was in ((there.low, here.low), (there.high, here.high))]
    saved = Band(low=min(ends), central=there.central - here.central, high=max(ends))
    return told.model_copy(update={"were_grams": here, "would_have_been_grams": there, "saved_grams": saved})


def grams(decision: Decision, found: list[Drawn], shift: timedelta) -> Band | None:
    """Grams of this energy, each part at its own hour moved by `shift`; None where the profile does not know one."""
    each = []
    for at, footprint in found:
        rate = decision.profile.mean(at + shift, footprint.seconds)
        if rate is None or footprint.kwh is None:
            return None
        each.append(scaled(footprint.kwh, rate))
    return summed(each)


def sentence(one: CarbonStart) -> str:
    """What the start came to, in a line."""
    late = one.waited_seconds or 0.0
    waited = f"begun {units.duration(late)} after it was asked for" if late else "at once"
    if one.saved_grams is None or one.were_grams is None or one.would_have_been_grams is None:
        return f"green start: {waited}; what it saved is not known: {one.unknown}"
    if not one.waited_seconds:
        return f"green start: at once, nothing saved and nothing lost; {one.why}"
    were, would = (f"{units.mass(band.central)} ({ends(band)})" for band in (one.were_grams, one.would_have_been_grams))
    end = f"{units.mass(one.saved_grams.central)} ({ends(one.saved_grams)}) saved"
    if one.saved_grams.central <= 0:
        more = Band(low=-one.saved_grams.high, central=-one.saved_grams.central, high=-one.saved_grams.low)
        end = f"nothing saved: {units.mass(more.central)} ({ends(more)}) more" if more.central else "nothing saved"
    told = f"green start: {waited}; {were} of CO2e, and would have been {would} at once: {end}"
    return f"{told} (before PUE, {one.profile})"


def ends(band: Band) -> str:
    """Low to high."""
    return f"{units.mass(band.low)} to {units.mass(band.high)}"
