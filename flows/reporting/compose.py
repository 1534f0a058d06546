"""A `Report` from gathered runs and the carbon inputs: pure, deterministic, no clock and no environment.

>>> compose(gather(home), basis(None, "FRA"))
"""

import json
from collections import Counter
from typing import Any

from flows import limits as said
from flows import report as quality_of
from flows.recorded import Recorded, recorded
from flows.reporting import actions, amounts, carbon, rounding
from flows.reporting.gather import Gathered
from flows.reporting.model import (
    Benefit,
    Counts,
    Emissions,
    Figure,
    Machine,
    Point,
    Quality,
    Report,
    Restated,
    Scope,
    Spent,
    TracedRun,
)
from flows.start import saved
from registry.carbon import payback
from registry.carbon.inputs import Basis, basis
from registry.records import Band, CarbonStart, Evaluation, Verdict

POINTS = 8  # of the pay-back's curve, evenly from none to twice the break-even


def compose(found: Gathered, given: Basis | None = None, restates: Restated | None = None) -> Report:
    """All facts of these runs; `given` are the carbon inputs (none: the range over the world's grids)."""
    inputs = given or basis(None, None)
    in_period = bool(found.asked.since or found.asked.until)
    read = [recorded(run) for run in found.runs]
    runs, charged, reused = amounts.traced(read, executions_only=in_period)
    energy, facts = amounts.spent(runs, charged, reused), quality_of.facts_of(read)
    quality, benefit = _quality(facts), _benefit(found, read, facts, inputs)
    emissions, counts = carbon.emissions(found, runs, charged, inputs), _counts(runs, energy, found)
    hardware = machines(found)
    return Report(
        title=f"{found.model or 'All models'}: energy, emissions and pay-back of compression",
        scope=_scope(found),
        restates=restates,
        figures=(_energy_figure(energy), _carbon_figure(emissions), _payback_figure(benefit)),
        boundary=boundary(in_period),
        functional_unit=f"1,000 {benefit.unit}s answered one after another, at one thread, on the machine of the run",
        hardware=hardware,
        energy=energy,
        emissions=emissions,
        benefit=benefit,
        quality=quality,
        counts=counts,
        actions=actions.actions(energy, emissions, benefit, counts, runs),
        limits=(*said.energy_lines(energy, hardware), *_limits(facts, energy, emissions)),
        trace=tuple(runs),
        unreadable=tuple(found.unreadable),
    )


def boundary(in_period: bool) -> tuple[str, ...]:
    """What is inside the figures and what is not."""
    reused = (
        "A stage re-used from a run outside of the period adds nothing here, so that periods add up; it stands beside."
        if in_period
        else "A re-used stage is charged once, with the energy of its first execution."
    )
    return (
        "Inside: electricity of processor, memory and GPU of the machine that ran the stages, from the first stage to "
        "the reload from the registry; failed, rejected, cancelled and smoke runs as well as killed goes at a stage.",
        f"Runs belong to the day (UTC) on which they began. {reused}",
        "Outside: training of the original teacher, network, storage and servers of S3, MLflow and Prefect elsewhere, "
        "screens, people; site losses, water and hardware where they are not reported below.",
    )


def machines(found: Gathered) -> tuple[Machine, ...]:
    """The hardware that runs were metered on, each once."""
    seen: dict[str, tuple[dict[str, Any], int]] = {}
    for header in found.headers.values():
        told = {
            "about": header.get("machine") or {},
            "method": header.get("method") or header.get("tiers") or {},
            "bands": header.get("bands") or {},
        }
        key = json.dumps(told, sort_keys=True)
        seen[key] = (told, seen[key][1] + 1 if key in seen else 1)
    return tuple(Machine(**told, runs=runs) for told, runs in seen.values() if told["about"] or told["method"])


def _scope(found: Gathered) -> Scope:
    began = sorted(str(run.get("started")) for run in found.runs)
    since, until = found.asked.since, found.asked.until
    return Scope(
        model=found.model,
        since=since.isoformat() if since else None,
        until=until.isoformat() if until else None,
        first=began[0] if began else None,
        last=began[-1] if began else None,
    )


def _limits(facts: dict[str, Any], energy: Spent, emissions: Emissions) -> list[str]:
    """The sentences that quality, carbon and pay-back ask for, with what is counted here."""
    beside = energy.reused_kwh is not None  # then re-used stages are charged to nobody here
    rows = [row | {"counted": row["counted"] and not (row["cached"] and beside)} for row in facts["stages"]]
    applied = {"grid": emissions.intensity.model_dump(), "pue": emissions.pue or 1.0, "stages": rows}
    return [*said.limits(facts | applied), *carbon.limits(emissions)]


def _benefit(found: Gathered, read: list[Recorded], facts: dict[str, Any], inputs: Basis) -> Benefit:
    """Pay-back of the newest judged model: all runs of its recipe up to the report's end count."""
    if facts["run_id"] is not None:
        recipe = next(run["recipe"] for run in found.runs if run["run_id"] == facts["run_id"])
        known = {id(run.journal): run for run in read}
        own = [run for run in found.history if run["recipe"] == recipe]
        facts = quality_of.facts_of([known.get(id(run)) or recorded(run) for run in own])
    requests = {name: _band(one) for name, one in facts["request_wh"].items()}
    even, cost = _band(facts["payback"]["requests"]), _band(facts["payback"]["cost"])
    judged = Evaluation.model_validate(facts["evaluation"]) if facts["evaluation"] else None
    serving = judged.serving if judged else None
    said = (carbon.compute(judged), carbon.money(cost, facts["spent"]["seconds"], serving, inputs, facts["request"]))
    return Benefit(
        break_even=even,
        unit=facts["request"],
        why=facts["payback"]["why"],
        sentence=facts["payback_sentence"],
        cost_kwh=cost,
        request_wh=requests,
        curve=_curve(even, cost, requests),
        said=(*(one for one in said if one is not None), *green_starts(found.runs)),
    )


def green_starts(runs: list[dict[str, Any]]) -> list[str]:
    """What the latest starts at a greener hour came to beside starting at once, which did not happen."""
    told = [(run["run_id"], CarbonStart.model_validate(run["carbon_start"])) for run in runs if run.get("carbon_start")]
    return [f"{run_id}, {saved.sentence(start)}" for run_id, start in told[-5:]]


def _curve(even: Band | None, cost: Band | None, requests: dict[str, Band | None]) -> tuple[Point, ...]:
    if even is None:
        return ()
    points = payback.curve(cost, requests.get("teacher"), requests.get("student"), 2 * even.central, POINTS)
    return tuple(Point(requests=one.requests, **one.net_kwh.model_dump()) for one in points)


def _quality(facts: dict[str, Any]) -> Quality | None:
    if facts["evaluation"] is None:
        return None
    names = ("run_id", "smoke", "version", "digest", "bytes_ratio", "speed_ratio", "licences")
    return Quality(
        recipe=next(run["recipe"] for run in facts["runs"] if run["run_id"] == facts["run_id"]),
        evaluation=Evaluation.model_validate(facts["evaluation"]),
        verdict=Verdict.model_validate(facts["verdict"]) if facts["verdict"] else None,
        **{name: facts[name] for name in names},
    )


def _counts(runs: list[TracedRun], energy: Spent, found: Gathered) -> Counts:
    states = Counter(run.status for run in runs)
    stages = [stage for run in runs for stage in run.stages]
    broken = sum(number for state, number in states.items() if state in {"failed", "crashed"})
    stopped = sum(number for state, number in states.items() if state.startswith("stopped"))
    return Counts(
        runs=len(runs),
        passed=states["passed"],
        rejected=states["rejected"],
        failed=broken,
        cancelled=states["cancelled"],
        stopped=stopped,
        running=states["running"],
        resumed=sum(run.resumed > 0 for run in runs),
        smoke=sum(run.smoke for run in runs),
        executions=sum(not stage.cached for stage in stages),
        cached=sum(stage.cached for stage in stages),
        cut_off=sum(stage.ended in {"killed", "failed"} for stage in stages),
        unmeasured=energy.total.unmeasured,
        unreadable=len(found.unreadable),
    )


def _energy_figure(energy: Spent) -> Figure:
    band = energy.total.kwh
    says = "electricity, before site losses" + ("; a lower bound" if band and energy.total.unmeasured else "")
    if band is None:
        return Figure(text="not measured", says="electricity", between="no stage could be measured")
    return Figure(
        text=rounding.energy(band.central), says=says, between=rounding.between(band.low, band.high, "energy")
    )


def _carbon_figure(emissions: Emissions) -> Figure:
    grams, rate = emissions.location_g, emissions.intensity
    if grams is None:
        return Figure(text="not known", says="CO2e", between="the energy was not measured")
    between = rounding.between(grams.low, grams.high, "mass")
    least = "; a lower bound" if emissions.uncovered_kwh else ""
    if rate.country is None and rate.low != rate.high:
        return Figure(text=between, says="CO2e, no country given", between=rate.name)
    return Figure(text=rounding.mass(grams.central), says=f"CO2e on the grid of {rate.name}{least}", between=between)


def _payback_figure(benefit: Benefit) -> Figure:
    even = benefit.break_even
    if even is None:
        word = "never" if benefit.why.startswith("never") else "not known"
        return Figure(text=word, says="pays back", between=benefit.why.partition(": ")[2] or benefit.why)
    return Figure(
        text=rounding.count(even.central),
        says=f"{benefit.unit}s until it has paid back",
        between=rounding.between(even.low, even.high, "count"),
    )


def _band(told: dict[str, float] | None) -> Band | None:
    return Band.model_validate(told) if told else None
