"""A report's tables as cells, for the page and for Markdown alike: one unit a column, shown parts add up."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from flows import units
from flows.reporting import rounding
from flows.reporting.amounts import tiers_of
from flows.reporting.model import Energy, Intensity, Report, TracedRun
from registry.records import STRICT, Band

ROWS = 40  # a table of more runs than these tells them by recipe and status; JSON and CSV have every one
PARTS = {"cpu": "processor", "ram": "memory", "gpu": "GPU"}
UNKNOWN = "not reported"
BOUNDS = ("low", "central", "high")


class Table(BaseModel):
    """A head, rows of cells and a last row of totals; `numbers` are the columns that are set to the right."""

    model_config = STRICT
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    note: str = ""


def energies(report: Report) -> tuple[Table, ...]:
    """Energy by component, stage and run."""
    total = report.energy.total
    components = tuple(
        Energy(
            name=PARTS[one.part],
            executions=total.executions,
            unmeasured=0,
            seconds=0.0,
            tier=one.tier,
            kwh=one.kwh,
            parts_kwh={},
        )
        for one in report.energy.components
    )
    band = (
        "Low and high are bounds that the method allows, no confidence interval; errors of one method go the same way, "
    )
    note = band + "so bounds add up."
    return (
        _energy("Energy per component", "Component", components, total, False, note),
        _energy("Energy per stage", "Stage", report.energy.stages, total, True),
        _energy("Energy per run", "Run", grouped(report), total, True),
    )


def grouped(report: Report) -> tuple[Energy, ...]:
    """The runs, or, of many, each recipe's by status."""
    if len(report.trace) <= ROWS:
        return tuple(
            one.model_copy(update={"name": f"{run.recipe}, {state(run)} ({run.run_id})"})
            for one, run in zip(report.energy.runs, report.trace, strict=True)
        )
    groups: dict[str, list[Energy]] = {}
    for one, run in zip(report.energy.runs, report.trace, strict=True):
        groups.setdefault(f"{run.recipe}, {state(run)}", []).append(one)
    return tuple(_together(f"{name}: {len(found)} runs", found) for name, found in groups.items())


def state(run: TracedRun) -> str:
    """A run's status in words; a smoke walk passes nothing."""
    return "ran through" if run.smoke and run.status == "passed" else run.status


def factors(report: Report) -> Table:
    """Emissions with the factors behind them."""
    seen = report.emissions
    where = f"{seen.intensity.name}, {seen.intensity.year}; {seen.intensity.source}"
    if seen.intensity.country is None:
        where += "; no country was given, central: mean weighted by generation"
    rows = [_row("Grid intensity", rate(seen.intensity), "gCO2e/kWh", where)]
    rows.append(
        (
            "PUE",
            UNKNOWN if seen.pue is None else units.number(seen.pue),
            "",
            "",
            "",
            seen.pue_source or "site over computers",
        )
    )
    grams = rounding.unit_of(seen.location_g.central if seen.location_g else 1.0, rounding.MASS)
    for name, band, source in (
        ("Emissions, location-based", seen.location_g, "energy times grid intensity"),
        ("Emissions, market-based", seen.market_g, "energy times the contract's intensity"),
        ("Embodied in the hardware", seen.embodied_g, "share of the machine's making, by time"),
        *((name, band, "GHG Protocol") for name, band in seen.scopes_g.items()),
        *((f"SCI of the {who}", band, "per 1,000 inferences, ISO/IEC 21031") for who, band in seen.sci.items()),
    ):
        unit = grams if band is None or not name.startswith("SCI") else rounding.unit_of(band.central, rounding.MASS)
        rows.append(_row(name, band, f"{unit[1]} CO2e", source, unit[0]))
    rows.append(_row("Water of the site", seen.water_site_l, "L", "evaporated on the site"))
    rows.append(_row("Water of the electricity", seen.water_source_l, "L", "used to generate it"))
    head = ("Quantity", "Low", "Central", "High", "Unit", "From")
    return Table(title="Factors and emissions", head=head, rows=tuple(rows), numbers=(1, 2, 3))


def rate(seen: Intensity) -> Band | None:
    """The intensity as a band; None where no factor knows the time."""
    if seen.low is None or seen.central is None or seen.high is None:
        return None
    return Band(low=seen.low, central=seen.central, high=seen.high)


def counted(report: Report) -> Table:
    """Runs and executions by their fate."""
    seen = report.counts
    parts = ("passed", "rejected", "failed", "cancelled", "stopped", "running")
    others = seen.runs - sum(getattr(seen, name) for name in parts)
    rows = [("runs", f"{seen.runs:,}")] + [(f"runs {name}", f"{getattr(seen, name):,}") for name in parts]
    rows += [("runs of another status", f"{others:,}")] if others else []
    rows += [
        ("of them resumed", f"{seen.resumed:,}"),
        ("of them smoke walks", f"{seen.smoke:,}"),
        ("executions of stages", f"{seen.executions:,}"),
        ("stages re-used", f"{seen.cached:,}"),
        ("goes killed or failed", f"{seen.cut_off:,}"),
        ("executions unmeasured", f"{seen.unmeasured:,}"),
        ("run folders unreadable", f"{seen.unreadable:,}"),
    ]
    return Table(title="Counts", head=("What", "Number"), rows=tuple(rows), numbers=(1,))


def seen_as(about: dict[str, Any]) -> str:
    """A machine in words, as the meter's header describes it; what was not seen is left out."""
    words = {
        "cpu": "{}",
        "threads_seen": "{} threads",
        "tdp_watts": "TDP {} W",
        "memory_gb": "{} GB of memory",
        "system": "{}",
    }
    seen = [form.format(about[name]) for name, form in words.items() if about.get(name)]
    return ", ".join([*seen, *(["a virtual machine"] if about.get("virtual") else [])]) or "not recorded"


def hardware(report: Report) -> Table:
    """Machines and methods."""
    rows: list[tuple[str, ...]] = []
    for machine in report.hardware:
        about, runs = seen_as(machine.about), f"{machine.runs:,}"
        for part, method in machine.method.items():
            rows.append((about, PARTS.get(part, part), method, machine.bands.get(part, ""), runs))
            about, runs = "", ""  # said once a machine
    head = ("Machine", "Part", "Known by", "Band", "Runs")
    return Table(title="Hardware", head=head, rows=tuple(rows), numbers=(4,))


def verdict(report: Report) -> Table | None:
    """The checks of the newest judged run."""
    if report.quality is None or report.quality.verdict is None:
        return None
    rows = tuple(
        (
            check.name,
            units.checked(check.name, check.value),
            units.checked(check.name, check.limit),
            check.state.replace("_", " "),
            check.why,
        )
        for check in report.quality.verdict.checks
    )
    return Table(title="Verdict", head=("Check", "Value", "Limit", "Result", "Why"), rows=rows, numbers=(1, 2))


def trace(run: TracedRun) -> Table:
    """A run's stages with the digest of what each made and of its samples."""
    shown = [stage for stage in run.stages if stage.counted]
    scale, unit, places = _scale(run.kwh, [stage.kwh for stage in shown])
    cells, total = rounding.column([stage.kwh.central * scale if stage.kwh else None for stage in shown], places)
    cell = {id(stage): text or "not measured" for stage, text in zip(shown, cells, strict=True)}
    rows = tuple(
        (
            stage.name,
            stage.ended,
            cell.get(id(stage), "0, counted where it was made"),
            stage.tier,
            (stage.digest or "none")[:12],
            (stage.samples or "none kept")[:12],
        )
        for stage in run.stages
    )
    head = ("Stage", "Ended", f"Energy, {unit}", "Known by", "Made", "Samples")
    foot = ("Together", "", total if run.kwh else "not measured", "", "", "")
    return Table(title=run.run_id, head=head, rows=rows, total=foot, numbers=(2,))


def _energy(title: str, what: str, parts: Sequence[Energy], whole: Energy, timed: bool, note: str = "") -> Table:
    scale, unit, places = _scale(whole.kwh, [part.kwh for part in parts])
    shown: list[list[str]] = []
    totals: list[str] = []
    for bound in BOUNDS:
        values = [getattr(part.kwh, bound) * scale if part.kwh else None for part in parts]
        cells, total = rounding.column(values, places)
        shown.append(
            [
                cell or ("none" if part.executions == 0 else "not measured")
                for cell, part in zip(cells, parts, strict=True)
            ]
        )
        totals.append(total if whole.kwh else "not measured")
    seconds, all_seconds = rounding.column([part.seconds for part in parts], 1)
    rows = []
    for place, part in enumerate(parts):
        known = part.tier + (f"; {part.unmeasured} unmeasured" if part.unmeasured and part.kwh else "")
        own = (f"{part.executions:,}", seconds[place] or "") if timed else ()
        rows.append((part.name, *own, *(column[place] for column in shown), known))
    head = (
        what,
        *(("Times", "Seconds") if timed else ()),
        *(f"{bound.title()}, {unit}" for bound in BOUNDS),
        "Known by",
    )
    missing = f"{whole.unmeasured} of {whole.executions} unmeasured" if whole.unmeasured else ""
    own = (f"{whole.executions:,}", all_seconds) if timed else ()
    numbers = tuple(range(1, 6 if timed else 4))
    total_row = ("Together", *own, *totals, missing)
    return Table(title=title, head=head, rows=tuple(rows), total=total_row, numbers=numbers, note=note)


def _scale(whole: Band | None, parts: Sequence[Band | None]) -> tuple[float, str, int]:
    """Factor, unit and decimals of energy columns: three digits of the total, and one of the least part if that can be.

    No part that was measured is shown as 0 unless it is less than a thousandth of the total.
    """
    if whole is None or not whole.central:
        return 1e3, "Wh", 3
    factor, unit = rounding.unit_of(whole.central, rounding.ENERGY)
    places = rounding.decimals(whole.central * factor)
    least = min((band.low for band in parts if band and band.low > 0), default=whole.low) * factor
    return factor, unit, min(places + 3, max(places, rounding.decimals(least) - 1))


def _row(name: str, band: Band | None, unit: str, source: str, scale: float = 1.0) -> tuple[str, ...]:
    if band is None:
        return (name, UNKNOWN, "", "", "", source)
    cells = (units.number(getattr(band, bound) * scale) for bound in BOUNDS)
    return (name, *cells, unit, source)


def _together(name: str, found: list[Energy]) -> Energy:
    bands = [one.kwh for one in found if one.kwh]
    return Energy(
        name=name,
        executions=sum(one.executions for one in found),
        unmeasured=sum(one.unmeasured for one in found),
        seconds=sum(one.seconds for one in found),
        tier=tiers_of(one.tier for one in found),
        kwh=Band(**{end: sum(getattr(band, end) for band in bands) for end in BOUNDS}) if bands else None,
        parts_kwh={},
    )
