"""A report as JSON, CSV, Markdown and Prometheus text: the same facts; the page is flows/reporting/page.py's.

JSON and CSV hold doubles as they are; CSV is long, one fact a row: section, item, quantity, bound, value, unit.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from flows.reporting import tables
from flows.reporting.model import Emissions, Energy, Report
from flows.reporting.tables import Table
from registry.card_tables import text
from registry.records import Band

HEAD = ("section", "item", "quantity", "bound", "value", "unit", "tier")
Fact = tuple[str, str, str, str, Any, str, str]


def json_text(report: Report) -> str:
    """All facts, as the published schema has them."""
    return report.model_dump_json(indent=1) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    found = Report.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def csv_text(report: Report) -> str:
    """One fact a row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows([_safe(cell) for cell in fact] for fact in facts(report))
    return out.getvalue()


def facts(report: Report) -> Iterator[Fact]:
    """Every number of a report, and its sentences, as rows; what is unknown has an empty value."""
    energy = report.energy
    yield "scope", "report", "title", "", report.title, "", ""
    for name, value in report.scope.model_dump().items():
        yield "scope", "report", name, "", value, "", ""
    yield from _energy("total", energy.total)
    for part in energy.components:
        yield from _band("component", part.part, "energy", part.kwh, "kWh", part.tier)
    for section, rows in (("stage", energy.stages), ("run", energy.runs)):
        for one in rows:
            yield from _energy(section, one)
    for name, band in (("idle", energy.idle_kwh), ("shared", energy.shared_kwh), ("re-used", energy.reused_kwh)):
        yield from _band("beside", name, "energy", band, "kWh")
    for why, number in energy.unmeasured.items():
        yield "unmeasured", why, "executions", "", number, "", ""
    yield from _emissions(report.emissions)
    yield from _band("benefit", "student", "break_even", report.benefit.break_even, f"{report.benefit.unit}s")
    yield from _band("benefit", "student", "cost", report.benefit.cost_kwh, "kWh")
    for who, band in report.benefit.request_wh.items():
        yield from _band("benefit", who, f"energy of a {report.benefit.unit}", band, "Wh")
    for name, value in report.counts.model_dump().items():
        yield "counts", "report", name, "", value, "", ""
    sections = (("boundary", report.boundary), ("actions", report.actions), ("limits", report.limits))
    for section, lines in (*sections, ("functional_unit", (report.functional_unit,))):
        for number, line in enumerate(lines, start=1):
            yield section, str(number), "sentence", "", line, "", ""
    for run in report.trace:
        for number, stage in enumerate(run.stages):
            item = f"{run.run_id}/{number:02d}-{stage.name}"
            yield from _band("trace", item, "energy", stage.kwh if stage.counted else None, "kWh", stage.tier)
            yield "trace", item, "ended", "", stage.ended, "", ""
            yield "trace", item, "samples", "sha256", stage.samples, "", ""


def markdown(report: Report) -> str:
    """The report as Markdown, for a repository, an artifact in Prefect or a mail."""
    scope = report.scope
    period = f"{scope.since or scope.first or '—'} to {scope.until or scope.last or '—'}"
    told = [tables.factors(report), tables.counted(report), tables.hardware(report), tables.verdict(report)]
    many = len(report.trace) > tables.ROWS
    parts = [
        f"# {text(report.title)}",
        f"{period} (UTC), {report.counts.runs:,} runs."
        + (f" Restates {report.restates.digest}: {text(report.restates.reason)}" if report.restates else ""),
        "\n".join(f"- **{one.text}** {text(one.says)} ({text(one.between)})" for one in report.figures),
        "## Boundary\n\n" + _list((*report.boundary, f"Functional unit: {report.functional_unit}.")),
        *map(_table, tables.energies(report)),
        *(_table(one) for one in told if one is not None and one.rows),
        "## Benefit\n\n" + _list((report.benefit.sentence, *report.benefit.said)),
        "## What to do\n\n" + _list(report.actions),
        "## What these figures do not say\n\n" + _list(report.limits),
        "## Where they come from\n\n"
        + ("Every stage of every run stands in the report's JSON and CSV." if many else ""),
        *([] if many else [_table(tables.trace(run), 3) for run in report.trace]),
        *(["## Unreadable\n\n" + _list(report.unreadable)] if report.unreadable else []),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def prometheus(report: Report) -> str:
    """Totals as gauges in Prometheus' text format, for node_exporter's textfile collector."""
    registry = CollectorRegistry()
    model = report.scope.model or ""

    def told(name: str, says: str, bands: dict[tuple[str, ...], Band | None], labels: tuple[str, ...]) -> None:
        gauge = Gauge(f"shrink_report_{name}", says, ["model", *labels, "bound"], registry=registry)
        for values, band in bands.items():
            for bound in tables.BOUNDS if band else ():
                gauge.labels(model, *values, bound).set(getattr(band, bound))

    parts: dict[tuple[str, ...], Band | None] = {(one.part,): one.kwh for one in report.energy.components}
    told("energy_kwh", "Energy of the report's runs, before PUE.", {(): report.energy.total.kwh}, ())
    told("component_energy_kwh", "Energy by component, before PUE.", parts, ("component",))
    told("emissions_grams", "Location-based gCO2e of the report's runs.", {(): report.emissions.location_g}, ())
    told("break_even_requests", "Requests until it has paid back.", {(): report.benefit.break_even}, ())
    counts = Gauge("shrink_report_count", "Runs and executions by fate.", ["model", "what"], registry=registry)
    for name, value in report.counts.model_dump().items():
        counts.labels(model, name).set(value)
    return generate_latest(registry).decode()


def _energy(section: str, one: Energy) -> Iterator[Fact]:
    yield from _band(section, one.name, "energy", one.kwh, "kWh", one.tier)
    yield section, one.name, "time", "", one.seconds, "s", ""
    yield section, one.name, "executions", "", one.executions, "", ""
    yield section, one.name, "unmeasured", "", one.unmeasured, "", ""


def _emissions(seen: Emissions) -> Iterator[Fact]:
    rate = seen.intensity
    band = tables.rate(rate)
    yield from _band("emissions", rate.name, "intensity", band, "gCO2e/kWh")
    yield "emissions", rate.name, "source", "", f"{rate.source}, {rate.year}", "", ""
    yield "emissions", "site", "pue", "", seen.pue, "", ""
    own = (("location", seen.location_g), ("market", seen.market_g), ("embodied", seen.embodied_g))
    for name, grams in (*own, *seen.scopes_g.items()):
        yield from _band("emissions", name, "emissions", grams, "gCO2e")
    for who, grams in seen.sci.items():
        yield from _band("emissions", who, "sci", grams, "gCO2e per 1,000 inferences")
    for kind, grouped in (("stage", seen.by_stage_g), ("run", seen.by_run_g)):
        for name, grams in grouped.items():
            yield from _band(kind, name, "emissions", grams, "gCO2e")
    for name, litres in (("site", seen.water_site_l), ("generation", seen.water_source_l)):
        yield from _band("emissions", name, "water", litres, "L")
    yield from _band("emissions", "not covered", "energy", seen.uncovered_kwh, "kWh")
    for name, why in seen.not_reported.items():
        yield "emissions", name, "why not", "", why, "", ""


def _band(section: str, item: str, quantity: str, band: Band | None, unit: str, tier: str = "") -> Iterator[Fact]:
    for bound in tables.BOUNDS:
        yield section, item, quantity, bound, getattr(band, bound) if band else None, unit, tier


def _safe(cell: Any) -> Any:
    """Text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell


def _table(table: Table, level: int = 2) -> str:
    rules = "|".join("---:" if place in table.numbers else "---" for place in range(len(table.head)))
    rows = [table.head, *table.rows, *([table.total] if table.total else [])]
    lines = ["| " + " | ".join(map(text, row)) + " |" for row in rows]
    body = "\n".join([lines[0], f"|{rules}|", *lines[1:]])
    return f"{'#' * level} {text(table.title)}\n\n{body}" + (f"\n\n{table.note}" if table.note else "")


def _list(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {text(line)}" for line in lines)
