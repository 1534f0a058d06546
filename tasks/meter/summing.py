"""From slices to a footprint: sums of parts with their bands, and plainly `not measured` where something is missing."""

from typing import NamedTuple

from pydantic import BaseModel

from registry.records import (
    PARTS,
    STRICT,
    Band,
    Component,
    Footprint,
    Kwh,
    Part,
    Seconds,
    Tier,
    Watts,
    drawn,
    spread,
    summed,
)

SLICE_SECONDS = 15.0
GAP_SLICES = 2.0  # so many slices without a reading, and the whole is not known
QUIET = 0.1  # busy share of all threads' time up to which a machine counts as idle
GPU_SHOWS_AFTER = 1.0  # seconds: a counter that moves slowly may show nothing sooner


class Slice(BaseModel):
    """Energy of a few seconds: kWh of each part before PUE, None where the reading failed (`why`)."""

    model_config = STRICT
    seconds: Seconds
    monotonic: float  # seconds of a clock that never goes back, at the slice's end
    tiers: dict[Part, Tier]
    kwh: dict[Part, Kwh] | None
    window: str | None = None  # of serving, that it is a part of
    shared: str | None = None  # who held the machine's meter meanwhile: it counts there
    clock: str | None = None  # what the wall clock did that it should not
    why: str | None = None


class Idle(BaseModel):
    """What the machine draws with nothing to do, as far as it could be seen: measured once, at the load it says."""

    model_config = STRICT
    at: str
    seconds: Seconds
    load: float  # share of all threads' time that was busy meanwhile: it was idle only where this is small
    watts: dict[Part, Watts]
    tiers: dict[Part, Tier]
    machine: str


class Span(NamedTuple):
    """From when to when something was metered, by the monotonic clock, and how often it is read."""

    began: float
    ended: float
    slice_seconds: float


def footprint_of(
    slices: list[Slice], span: Span, idle: Idle | None = None, died: str | None = None, samples: str | None = None
) -> Footprint:
    """Add slices up; whatever is missing voids the whole, is named, and leaves what was read as a lower bound."""
    own = [one for one in slices if one.kwh is not None and one.shared is None]
    theirs = [one for one in slices if one.kwh is not None and one.shared is not None]
    seconds = Seconds(span.ended - span.began)
    why = "; ".join(filter(None, (died, *_missing(slices, span), _dead(own, seconds), _shared(slices)))) or None
    parts = components(own)
    kwh = summed([one.kwh for one in parts.values()])
    central = {part: Kwh(one.kwh.central) for part, one in parts.items()}
    return Footprint(
        kwh=None if why else kwh,
        seconds=seconds,
        cpu_kwh=central.get("cpu"),
        ram_kwh=central.get("ram"),
        gpu_kwh=central.get("gpu"),
        tier="unmeasured" if why else tier(own[0].tiers),
        components=parts,
        at_least_kwh=kwh if why else None,
        shared_kwh=summed([one.kwh for one in components(theirs).values()]),
        idle_kwh=idling(idle, seconds),
        why=why,
        samples=samples,
    )


def components(slices: list[Slice]) -> dict[Part, Component]:
    """Energy of each part over slices that were read."""
    found: dict[Part, Component] = {}
    for part in PARTS:
        read = [(one.kwh[part], one.tiers[part]) for one in slices if one.kwh is not None and part in one.kwh]
        if read:
            energy, how = Kwh(sum(kwh for kwh, _ in read)), read[-1][1]
            found[part] = Component(tier=how, kwh=spread(energy, how))
    return found


def tier(tiers: dict[Part, Tier]) -> str:
    """The method behind each part, in words."""
    return ", ".join(f"{part} {tiers[part]}" for part in PARTS if part in tiers)


def idling(idle: Idle | None, seconds: Seconds) -> Band | None:
    """What an idle machine draws in this time; None where it was never seen idle."""
    if idle is None or idle.load > QUIET:
        return None
    return summed([spread(drawn(watts, seconds), idle.tiers[part]) for part, watts in idle.watts.items()])


def of_window(slices: list[Slice], label: str) -> tuple[Band | None, float]:
    """Energy of the machine in a window of serving, whoever counts it, and its seconds; None where a reading failed."""
    inside = [one for one in slices if one.window == label]
    seconds = sum(one.seconds for one in inside)
    if not inside or any(one.kwh is None for one in inside) or _dead(inside, Seconds(0.0)):
        return None, seconds
    return summed([one.kwh for one in components(inside).values()]), seconds


def _missing(slices: list[Slice], span: Span) -> list[str]:
    """What was not read: failed slices, and times without any."""
    failed = [one for one in slices if one.kwh is None]
    said = (
        [f"{len(failed)} of {len(slices)} readings failed: {failed[0].why or 'nothing was returned'}"] if failed else []
    )
    if not slices:
        return ["nothing was read"]
    starts = [one.monotonic - one.seconds for one in slices] + [span.ended]
    ends = [span.began] + [one.monotonic for one in slices]
    gap = max(start - end for start, end in zip(starts, ends, strict=True))
    if gap > GAP_SLICES * span.slice_seconds:
        said.append(f"no reading for {gap:.3g} s")
    return said


def _dead(own: list[Slice], seconds: Seconds) -> str | None:
    """A part that must draw power and shows none: its meter is dead."""
    if not own:
        return None
    sums = {part: sum((one.kwh or {}).get(part, 0.0) for one in own) for part in PARTS}
    dead = [part for part in ("cpu", "ram") if not sums[part] > 0.0]
    if seconds > GPU_SHOWS_AFTER and "gpu" in own[0].tiers and not sums["gpu"] > 0.0:
        dead.append("gpu")
    return f"the meter of {' and '.join(dead)} shows nothing" if dead else None


def _shared(slices: list[Slice]) -> str | None:
    shared = [one.shared for one in slices if one.shared is not None]
    if not shared:
        return None
    return f"{len(shared)} of {len(slices)} readings stand in the count of {shared[0]}, which held the machine's meter"
