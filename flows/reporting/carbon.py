"""The report's carbon, water and money: what registry/carbon makes of the energy that the report adds up.

Every figure that another factor file would change is made here, from energy that is kept as it was measured.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.reporting.amounts import Charged
from flows.reporting.drawn import drawn, moment, reader
from flows.reporting.gather import Gathered
from flows.reporting.model import Emissions, Intensity, TracedRun
from registry.carbon import emissions as carbon
from registry.carbon import payback
from registry.carbon.emissions import NOT_REPORTED, Used
from registry.carbon.factors import Factors
from registry.carbon.inputs import Basis
from registry.records import Band, Evaluation, Seconds, ServingEnergy, summed

SCOPE_2, SCOPE_2_MARKET, SCOPE_3 = "Scope 2, location-based", "Scope 2, market-based", "Scope 3"
WHO = ("teacher", "student", "floor")


def emissions(found: Gathered, runs: list[TracedRun], charged: list[Charged], basis: Basis) -> Emissions:
    """Of all that is charged, in the time in which it was drawn."""
    owners = [run.run_id for run in runs for stage in run.stages if stage.counted]
    pieces = _pieces(found, owners, charged, basis)
    seconds = Seconds(sum(footprint.seconds for _, footprint in charged))
    whole = carbon.emissions([one for own in pieces for one in own], seconds, basis)
    grams = [carbon.located_g(own, basis) for own in pieces]
    scores, why = _scores(found, basis)
    return Emissions(
        intensity=_intensity(basis, whole),
        pue=basis.pue.value if basis.pue else None,
        pue_source=basis.pue.source if basis.pue else None,
        operator=basis.operator,
        location_g=whole.location_g,
        uncovered_kwh=whole.uncovered_kwh,
        market_g=whole.market_g,
        embodied_g=_exact(whole.embodied_g),
        water_site_l=whole.water_site_litres,
        water_source_l=whole.water_source_litres,
        scopes_g={
            SCOPE_2: whole.scope2_location_g,
            SCOPE_2_MARKET: whole.scope2_market_g,
            SCOPE_3: whole.scope3_location_g,
        },
        sci=scores,
        by_stage_g=_grouped((stage.name for stage, _ in charged), grams),
        by_run_g=_grouped(owners, grams),
        not_reported=whole.why | ({"sci": why} if why else {}),
    )


def money(cost: Band | None, seconds: float, serving: ServingEnergy | None, basis: Basis, unit: str) -> str | None:
    """The pay-back in money as a sentence; None where no price was given."""
    found = payback.money(cost, Seconds(seconds), serving, basis)
    if found.currency is None or found.spent is None:
        return None
    spent = f"Making it cost {found.spent.central:.2g} {found.currency} (energy and the machine's time as priced)"
    if found.payback.requests is None or found.teacher_per_1000 is None or found.student_per_1000 is None:
        return f"{spent}; when that is repaid is {found.payback.why}."
    teacher, student, requests = found.teacher_per_1000, found.student_per_1000, found.payback.requests
    return (
        f"{spent}; 1,000 {unit}s cost {student.central:.2g} instead of {teacher.central:.2g} {found.currency}, so it "
        f"is repaid after {requests.central:,.2g} {unit}s ({requests.low:,.2g} to {requests.high:,.2g})."
    )


def compute(evaluation: Evaluation | None) -> str | None:
    """The share of the compute at the share of the quality, as a sentence; None where serving was not measured."""
    if evaluation is None or evaluation.serving is None:
        return None
    return payback.compute_sentence(evaluation.serving, evaluation.retention)


def limits(seen: Emissions) -> list[str]:
    """What the carbon figures leave out, in sentences."""
    lines = []
    if seen.uncovered_kwh:
        lines.append(
            f"CO2e is a lower bound: the factors do not know the time in which {seen.uncovered_kwh.central:.2g} kWh "
            "were used; add their period, or leave `until` of the last one empty."
        )
    missing = [why.removeprefix(NOT_REPORTED + ": ") for why in seen.not_reported.values() if NOT_REPORTED in why]
    if missing:
        lines.append(f"Not reported, and so in no figure: {', '.join(missing)} (SHRINK_CARBON names a file for it).")
    return lines


def _pieces(found: Gathered, owners: list[str], charged: list[Charged], basis: Basis) -> list[list[Used]]:
    """When each charged execution drew its energy; that of a re-used stage is in the samples of its first run."""
    made = {
        str(stage["footprint"].get("samples")): str(run["run_id"])
        for run in found.history
        for stage in run.get("stages", [])
        if not stage.get("cached")
    }
    read = reader()
    pieces = list[list[Used]]()
    for owner, (stage, footprint) in zip(owners, charged, strict=True):
        run_id = made.get(str(footprint.samples), owner)
        path: Path | None = found.folder / run_id / "samples.jsonl" if found.folder else None
        pieces.append(drawn(stage.started, footprint, path, basis.layers, read))
    return pieces


def _grouped(names: Iterable[str], grams: list[Band | None]) -> dict[str, Band | None]:
    groups = dict[str, list[Band]]()
    for name, band in zip(names, grams, strict=True):
        groups.setdefault(name, []).extend([band] if band else [])
    return {name: summed(bands) for name, bands in groups.items()}


def _intensity(basis: Basis, whole: carbon.Emissions) -> Intensity:
    """The mean over the energy, of whom and when; without energy the first factors'."""
    grid = basis.grid or Factors(country=None, name="hourly profile", periods=(), year="by the hour", source="")
    rate = whole.intensity_g_per_kwh or (grid.periods[-1].grams_per_kwh if grid.periods else None)
    hourly = basis.profile is not None
    return Intensity(
        country=grid.country,
        name=grid.name,
        low=rate.low if rate else None,
        central=rate.central if rate else None,
        high=rate.high if rate else None,
        year=f"{grid.year}, by the hour" if hourly and basis.grid else grid.year,
        source="; ".join(whole.sources) or grid.source or "no factor knows this time",
        sha256=grid.sha256,
    )


def _scores(found: Gathered, basis: Basis) -> tuple[dict[str, Band | None], str | None]:
    """SCI of teacher, student and floor in the newest judged run, and why there is none."""
    judged = next((run for run in reversed(found.runs) if (run.get("evaluation") or {}).get("serving")), None)
    if judged is None:
        return {}, "energy of serving was not measured in these runs"
    serving = ServingEnergy.model_validate(judged["evaluation"]["serving"])
    at = moment(_evaluated(judged))
    models = {who: served for who in WHO if (served := getattr(serving, who)) is not None}
    scores = {who: carbon.sci(served, serving.unit, at, basis) for who, served in models.items()}
    whys = [one.why for one in scores.values() if one.why]
    return {who: one.sci_g for who, one in scores.items()}, whys[0] if whys else None


def _evaluated(run: dict[str, Any]) -> str:
    """When a run's models were compared, or at least when it began."""
    found = [str(stage["started"]) for stage in run.get("stages", []) if stage["kind"] == "evaluate"]
    return found[-1] if found else str(run["started"])


def _exact(value: float | None) -> Band | None:
    return Band(low=value, central=value, high=value) if value is not None else None
