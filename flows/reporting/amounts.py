"""Whose energy a report adds up: every execution once, killed and failed goes too, by run, stage and component.

Over all runs (or all of a model) a re-used stage is charged once where its execution is not among them. In a period
only executions count, so that months add up to the year; what was re-used from before stands beside the total.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from flows import units
from flows.recorded import Recorded
from flows.reporting.model import Component, Energy, Spent, TracedRun, TracedStage
from registry.gate import is_smoke
from registry.records import PARTS, SPREAD, Attempt, Band, Footprint, Part, StageRecord, spread, summed
from registry.records import Component as Known

Charged = tuple[TracedStage, Footprint]  # an entry of the report, and what it took


def traced(runs: Sequence[Recorded], executions_only: bool) -> tuple[list[TracedRun], list[Charged], Band | None]:
    """Every run with its stages, what of them is charged, and the energy of re-used stages that is not."""
    records = [one for run in runs for one in run.stages]
    made = {one.key for one in records if not one.cached}
    charged: list[Charged] = []
    taken_up = [one for one in records if not (one.cached and executions_only)]  # another run's work
    recorded = {one.footprint.samples for one in taken_up} - {None}
    told: list[TracedRun] = []
    left: dict[str, Footprint] = {}
    for run in runs:
        entries: list[Charged] = []
        for record in run.stages:
            outside = record.cached and record.key not in made
            if outside and executions_only:
                left.setdefault(record.key, record.footprint)
            counted = not record.cached or (outside and not executions_only)
            made |= {record.key} if counted else set()
            entries.append((_stage(record, counted), record.footprint))
        vain = [one for one in run.attempts if one.footprint.samples not in recorded]
        entries += [(_attempt(one), one.footprint) for one in vain]
        charged += [entry for entry in entries if entry[0].counted]
        told.append(_run(run.journal, entries))
    return told, charged, summed([band for one in left.values() if (band := known(one))])


def spent(runs: list[TracedRun], charged: list[Charged], reused: Band | None) -> Spent:
    """The totals of what is charged."""
    footprints = [footprint for _, footprint in charged]
    by_stage: dict[str, list[Footprint]] = {}
    for entry, footprint in charged:
        by_stage.setdefault(entry.name, []).append(footprint)
    whys = Counter(one.why or "not measured" for one in footprints if one.kwh is None)
    return Spent(
        total=energy("all", footprints),
        components=components(footprints),
        stages=tuple(energy(name, found) for name, found in by_stage.items()),
        runs=tuple(_of_run(run) for run in runs),
        idle_kwh=summed([one.idle_kwh for one in footprints if one.idle_kwh]),
        shared_kwh=summed([one.shared_kwh for one in footprints if one.shared_kwh]),
        reused_kwh=reused,
        unmeasured=dict(sorted(whys.items())),
    )


def energy(name: str, footprints: list[Footprint]) -> Energy:
    """The sum of some footprints; those that were not measured are counted apart."""
    parts = components(footprints)
    return Energy(
        name=name,
        executions=len(footprints),
        unmeasured=sum(one.kwh is None for one in footprints),
        seconds=sum(one.seconds for one in footprints),
        tier=tiers_of(one.tier for one in footprints),
        kwh=summed([band for one in footprints if (band := known(one))]),
        parts_kwh={one.part: one.kwh.central for one in parts},
    )


def components(footprints: Iterable[Footprint]) -> tuple[Component, ...]:
    """Energy by component, with every method that stood behind it."""
    bands: dict[Part, list[Band]] = {}
    tiers: dict[Part, set[str]] = {}
    for footprint in footprints:
        for part, one in parts_of(footprint).items():
            bands.setdefault(part, []).append(one.kwh)
            tiers.setdefault(part, set()).add(one.tier)
    told = ((part, summed(bands.get(part, []))) for part in PARTS)
    return tuple(Component(part=part, tier=", ".join(sorted(tiers[part])), kwh=band) for part, band in told if band)


def parts_of(footprint: Footprint) -> dict[Part, Known]:
    """Components as they were kept; of older records from their central estimates and tiers."""
    if footprint.components:
        return footprint.components
    named = {part: tier for part, _, tier in (one.partition(" ") for one in footprint.tier.split(", "))}
    read: dict[Part, Any] = {"cpu": footprint.cpu_kwh, "ram": footprint.ram_kwh, "gpu": footprint.gpu_kwh}
    found: dict[Part, Known] = {}
    for part, kwh in read.items():
        for tier in SPREAD:
            if kwh is not None and named.get(part) == tier:
                found[part] = Known(tier=tier, kwh=spread(kwh, tier))
    return found


def known(footprint: Footprint) -> Band | None:
    """What is known of its energy: all of it, or the least."""
    return footprint.kwh or footprint.at_least_kwh


def tiers_of(tiers: Iterable[str]) -> str:
    """Every method in these tiers, once."""
    named = {part for tier in tiers for part in tier.split(", ")}
    return ", ".join(sorted(named - {"unmeasured"})) or "unmeasured"


def _of_run(run: TracedRun) -> Energy:
    own = [stage for stage in run.stages if stage.counted]
    totals: dict[Part, float] = {}
    for stage in own:
        for part, kwh in stage.parts_kwh.items():
            totals[part] = totals.get(part, 0.0) + kwh
    return Energy(
        name=run.run_id,
        executions=len(own),
        unmeasured=sum(stage.tier == "unmeasured" for stage in own),
        seconds=sum(stage.seconds for stage in own),
        tier=tiers_of(stage.tier for stage in own),
        kwh=run.kwh,
        parts_kwh=totals,
    )


def _stage(record: StageRecord, counted: bool) -> TracedStage:
    name = units.stage_name(record.kind, record.method, record.role)
    return TracedStage(
        name=name,
        started=record.started,
        cached=record.cached,
        counted=counted,
        ended="re-used" if record.cached else "finished",
        digest=record.digest,
        **_told(record.footprint),
    )


def _attempt(one: Attempt) -> TracedStage:
    name = f"{one.stage.partition('-')[2] or one.stage} ({one.ended})"
    return TracedStage(
        name=name,
        started=one.started,
        cached=False,
        counted=True,
        ended=one.ended,
        digest=None,
        **_told(one.footprint),
    )


def _told(footprint: Footprint) -> dict[str, Any]:
    return {
        "seconds": footprint.seconds,
        "tier": footprint.tier if footprint.kwh else "unmeasured",
        "kwh": known(footprint),
        "parts_kwh": {part: one.kwh.central for part, one in parts_of(footprint).items()},
        "samples": footprint.samples,
    }


def _run(run: dict[str, Any], entries: list[Charged]) -> TracedRun:
    own = [stage for stage, _ in entries if stage.counted]
    return TracedRun(
        run_id=str(run["run_id"]),
        recipe=str(run["recipe"]),
        status=str(run["status"]),
        started=str(run.get("started", "")),
        resumed=int(run.get("resumed", 0)),
        smoke=is_smoke(str(run["recipe"])),
        version=run.get("version"),
        digest=run.get("digest"),
        kwh=summed([stage.kwh for stage in own if stage.kwh]),
        stages=tuple(stage for stage, _ in entries),
    )
