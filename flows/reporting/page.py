"""A report as one self-contained page of HTML: no script, no font, no request to anywhere; data is escaped."""

import re
from pathlib import Path
from typing import Any

import jinja2

from flows import report as quality_of
from flows import units, written
from flows.reporting import rounding, tables
from flows.reporting.model import Benefit, Energy, Report

TEMPLATES = Path(__file__).parents[1] / "templates"
UNIT = r"(?<=\d) (?=(?:%|[kmµM]?Wh\b|[kmµ]?g\b|[kMG]?B\b|ms\b|s\b|min\b|h\b))"  # the blank before one must not break
WIDE, HIGH = 100.0, 40.0  # of a picture, in its own units


def html(report: Report) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": units.number, "percent": units.percent}
    seen = report.quality
    page = environment.get_template("report.html.j2").render(
        report=report,
        evaluation=seen.evaluation if seen else None,
        kept=written.kept(seen.evaluation) if seen else None,
        charts=quality_of.charts(seen.evaluation) if seen else [],
        request_bars=request_bars(report.benefit),
        curve=curve(report.benefit),
        bars=bars(report.energy.stages),
        energies=tables.energies(report),
        factors=tables.factors(report),
        counted=tables.counted(report),
        hardware=tables.hardware(report),
        verdict=tables.verdict(report),
        traces=[tables.trace(run) for run in report.trace] if len(report.trace) <= tables.ROWS else [],
        runs=report.trace,
        gpu=any(one.part == "gpu" for one in report.energy.components),
        state=tables.state,
    )
    return re.sub(UNIT, "\u00a0", page)


def bars(stages: tuple[Energy, ...]) -> list[dict[str, Any]]:
    """A bar a stage: its components one behind the other, and the band as a line."""
    top = max((one.kwh.high for one in stages if one.kwh), default=0.0)
    found: list[dict[str, Any]] = []
    for one in stages:
        row: dict[str, Any] = {"name": one.name, "note": f"{one.executions} times" if one.executions > 1 else ""}
        row |= {"text": rounding.energy(one.kwh.central if one.kwh else None), "pieces": [], "low": 0.0, "high": 0.0}
        if one.kwh and top > 0.0:
            at = 0.0
            for part, kwh in one.parts_kwh.items() or {"cpu": one.kwh.central}.items():
                wide = round(WIDE * kwh / top, 3)
                row["pieces"].append({"part": part, "at": round(at, 3), "wide": wide})
                at += wide
            row |= {"low": round(WIDE * one.kwh.low / top, 3), "high": round(WIDE * one.kwh.high / top, 3)}
        found.append(row)
    return found


def curve(benefit: Benefit) -> dict[str, Any] | None:
    """The pay-back's picture: net energy saved over requests, with its band; None where there is none."""
    points = benefit.curve
    if not points or benefit.break_even is None:
        return None
    top, bottom = max(one.high for one in points), min(one.low for one in points)
    last = points[-1].requests

    def place(requests: float, kwh: float) -> str:
        return f"{WIDE * requests / last:.2f},{HIGH * (top - kwh) / (top - bottom):.2f}"

    upper = [place(one.requests, one.high) for one in points]
    lower = [place(one.requests, one.low) for one in reversed(points)]
    return {
        "band": " ".join([*upper, *lower]),
        "line": " ".join(place(one.requests, one.central) for one in points),
        "zero": round(HIGH * top / (top - bottom), 2),
        "even": round(WIDE * benefit.break_even.central / last, 2),
        "top": rounding.energy(top),
        "bottom": f"−{rounding.energy(-bottom)}",
        "last": rounding.count(last),
        "middle": rounding.count(benefit.break_even.central),
    }


def request_bars(benefit: Benefit) -> list[dict[str, Any]]:
    """Energy of a request to each model."""
    known = {who: band.central for who, band in benefit.request_wh.items() if band}
    top = max(known.values(), default=0.0)
    return [
        {"name": who, "text": rounding.energy(wh / 1000), "width": round(WIDE * wh / top, 2)}
        for who, wh in known.items()
        if top > 0.0
    ]
