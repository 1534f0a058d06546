"""The report of one or more runs: facts from their records alone, then one self-contained page of HTML.

`build` is pure and gives numbers (None where something was not measured); `render_html` only formats them.
"""

from pathlib import Path
from typing import Any

import jinja2

from registry import footprint as fp
from registry.records import Band, Evaluation, Footprint, StageRecord, Verdict

TEMPLATES = Path(__file__).parent / "templates"
ENDED = ("passed", "rejected")  # a rejected student is a finished run
MODELS = ("teacher", "student", "floor")
COMPARED = (
    ("accuracy", "Accuracy on the test split", "longer is better"),
    ("bytes", "Size on disk", "shorter is better"),
    ("p50_ms", "Median latency, one thread, batch 1", "shorter is better"),
)
TIER_TEXT = {
    "cpu counter": "CPU energy was read from a hardware counter.",
    "cpu modelled": "CPU energy is modelled from the machine's load and an assumed maximum power, not read from a "
    "counter; the band allows a factor of 2.5 either way.",
    "cpu constant": "CPU energy is a constant power multiplied by time.",
    "ram constant": "Memory energy is a constant guessed from the amount of memory installed, multiplied by time.",
    "ram counter": "Memory energy was read from a hardware counter.",
    "gpu counter": "GPU energy was read from the device's own counter.",
}


def build(
    runs: list[dict[str, Any]],
    country: str | None = None,
    pue: float = 1.0,
    title: str | None = None,
) -> dict[str, Any]:
    """Facts of these runs (run.json dicts, oldest first); quality comes from the last run that has an evaluation."""
    owners = [run["run_id"] for run in runs for _ in run.get("stages", [])]
    stages = [StageRecord.model_validate(record) for run in runs for record in run.get("stages", [])]
    judged = next((run for run in reversed(runs) if run.get("evaluation")), None)
    evaluation = Evaluation.model_validate(judged["evaluation"]) if judged else None
    verdict = Verdict.model_validate(judged["verdict"]) if judged and judged.get("verdict") else None
    spent, grid = fp.spent(stages), fp.grid_of(country)
    power = _power(judged)
    requests = _requests(evaluation, power)
    facts: dict[str, Any] = {
        "title": title or (f"{judged['recipe']}: what it cost and what it won" if judged else "What it cost"),
        "runs": [{key: run.get(key) for key in ("run_id", "recipe", "status", "started")} for run in runs],
        "run_id": judged["run_id"] if judged else None,
        "version": judged.get("version") if judged else None,
        "digest": judged.get("digest") if judged else None,
        "spent": spent.model_dump(),
        "co2e_g": _dump(fp.grams(spent.kwh, grid, pue)),
        "grid": grid.model_dump(),
        "pue": pue,
        "bytes_ratio": evaluation.teacher.bytes / evaluation.student.bytes if evaluation else None,
        "payback": fp.payback(spent.kwh, requests["teacher"], requests["student"]).model_dump(),
        "request_wh": {name: _dump(band) for name, band in requests.items()},
        "stages": _stage_rows(stages, owners),
        "evaluation": evaluation.model_dump() if evaluation else None,
        "comparison": _comparison(evaluation),
        "verdict": verdict.model_dump() if verdict else None,
    }
    facts["limits"] = limits(facts)
    return facts


def render_html(facts: dict[str, Any]) -> str:
    """One self-contained page: no script, no font, no request to anywhere; every text from data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        energy=energy, wh=wh, mass=mass, size=size, number=number, span=span, count=count, duration=duration
    )
    return environment.get_template("report.html.j2").render(**facts, models=MODELS)


def limits(facts: dict[str, Any]) -> list[str]:
    """What these figures do not say, sentence by sentence, from the facts."""
    return [*_limits_energy(facts), *_limits_carbon(facts), *_limits_quality(facts)]


def number(value: float | None) -> str:
    """Three significant digits without an exponent; a dash for None."""
    if value is None:
        return "—"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.2g}"
    digits = 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}" if abs(value) >= 1 else f"{value:.3g}"


def count(value: float | None) -> str:
    """A large count to two or three digits, in words from a million on."""
    if value is None:
        return "—"
    for limit, word in ((1e9, "billion"), (1e6, "million")):
        if value >= limit:
            return f"{number(value / limit)} {word}"
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 1000 else f"{value:,.0f}"


def energy(kwh: float | None) -> str:
    """kWh in the unit that reads best."""
    if kwh is None:
        return "not measured"
    if kwh >= 0.1:
        return f"{number(kwh)} kWh"
    return f"{number(kwh * 1000)} Wh" if kwh >= 1e-4 else f"{number(kwh * 1e6)} mWh"


def wh(kwh: float | None) -> str:
    """kWh as Wh, for columns and charts that want one unit."""
    return "not measured" if kwh is None else f"{number(kwh * 1000)} Wh"


def mass(grams: float | None) -> str:
    """Grams in the unit that reads best."""
    if grams is None:
        return "not measured"
    return f"{number(grams / 1000)} kg" if grams >= 1000 else f"{number(grams)} g"


def size(value: float | None) -> str:
    """Bytes as decimal kB, MB or GB."""
    if value is None:
        return "—"
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{number(value / limit)} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Seconds as s, min or h."""
    if seconds < 120:
        return f"{number(seconds)} s"
    return f"{number(seconds / 60)} min" if seconds < 7200 else f"{number(seconds / 3600)} h"


def span(band: dict[str, float] | None, unit: str) -> str:
    """`low to high` of a band in one of the units above (energy, mass, count, number)."""
    if band is None:
        return ""
    write = {"energy": energy, "mass": mass, "count": count, "number": number}[unit]
    return f"{write(band['low'])} to {write(band['high'])}"


def _dump(band: Band | None) -> dict[str, float] | None:
    return band.model_dump() if band else None


def _power(run: dict[str, Any] | None) -> Footprint | None:
    """The footprint whose mean power stands for serving: that of the run's evaluation."""
    records = [StageRecord.model_validate(record) for record in run.get("stages", [])] if run else []
    found = [record.footprint for record in records if record.kind == "evaluate" and record.footprint.kwh]
    return found[-1] if found else None


def _requests(evaluation: Evaluation | None, power: Footprint | None) -> dict[str, Band | None]:
    if evaluation is None or power is None:
        return dict.fromkeys(MODELS)
    return {name: fp.request_wh(power, getattr(evaluation, name).p50_ms) for name in MODELS}


def _stage_rows(stages: list[StageRecord], owners: list[str]) -> list[dict[str, Any]]:
    counted = {id(record) for record in fp.charged(stages)}
    top = max((record.footprint.kwh.high for record in stages if record.footprint.kwh), default=0.0)
    return [
        {
            "run_id": owner,
            "kind": record.kind,
            "method": record.method,
            "role": record.role,
            "cached": record.cached,
            "counted": id(record) in counted,
            "seconds": record.footprint.seconds,
            "bytes": record.bytes,
            "kwh": _dump(record.footprint.kwh),
            "tier": record.footprint.tier,
            "bar": _bar(record.footprint.kwh, top),
        }
        for record, owner in zip(stages, owners, strict=True)
    ]


def _bar(band: Band | None, top: float) -> dict[str, float] | None:
    if band is None or top <= 0.0:
        return None
    return {name: round(100 * value / top, 2) for name, value in band.model_dump().items()}


def _comparison(evaluation: Evaluation | None) -> list[dict[str, Any]]:
    if evaluation is None:
        return []
    scores = evaluation.model_dump()
    charts = []
    for field, label, sense in COMPARED:
        top = 1.0 if field == "accuracy" else max(scores[name][field] for name in MODELS)
        bars = [
            {"name": name, "value": scores[name][field], "width": round(100 * scores[name][field] / (top or 1), 2)}
            for name in MODELS
        ]
        charts.append({"field": field, "label": label, "sense": sense, "bars": bars})
    return charts


def _limits_energy(facts: dict[str, Any]) -> list[str]:
    spent, rows = facts["spent"], facts["stages"]
    lines = []
    if spent["unmeasured"]:
        lines.append(
            f"{spent['unmeasured']} of {spent['stages']} stages could not be measured; they are missing from every "
            "total, which is therefore a lower bound."
        )
    named = {part for tier in spent["tiers"] for part in tier.split(", ")}
    lines += [text for part, text in TIER_TEXT.items() if part in named]
    if spent["kwh"]:
        lines.append("The whole machine is counted: anything else that ran at the same time is in these figures.")
    reused = sum(row["cached"] and row["counted"] for row in rows)
    if reused:
        lines.append(f"{reused} reused stages are charged once with the energy of their first execution.")
    unfinished = [run["run_id"] for run in facts["runs"] if run["status"] not in ENDED]
    if unfinished:
        lines.append(
            f"{len(unfinished)} of {len(facts['runs'])} runs did not finish; the energy of stages they did finish is "
            "counted."
        )
    lines.append("Training the original teacher, making the hardware and the network are not included.")
    return lines


def _limits_carbon(facts: dict[str, Any]) -> list[str]:
    grid, lines = facts["grid"], []
    if grid["country"] is None:
        lines.append(f"No country was given, so CO2e is a {grid['name']} ({grid['year']}), not an estimate of one.")
    else:
        lines.append(
            f"CO2e uses the mean of {grid['name']} in {grid['year']}, not the hour or the contract of this run."
        )
    if facts["pue"] == 1.0:
        lines.append("Cooling and power conversion of the site are not included (PUE 1).")
    if facts["payback"]["requests"]:
        lines.append(
            "Pay-back assumes that a request draws the mean power of the evaluation for its median latency, at one "
            "thread and batch 1; batching or another machine changes it."
        )
    return lines


def _limits_quality(facts: dict[str, Any]) -> list[str]:
    evaluation, lines = facts["evaluation"], []
    if evaluation is None:
        return ["No run has been evaluated: nothing is said about quality, size or speed."]
    kept, won = evaluation["retention"], evaluation["win_over_floor"]
    lines.append(
        f"Quality rests on {evaluation['examples']:,} test examples: retention lies between {kept['low']:.1%} and "
        f"{kept['high']:.1%} with 95 % confidence, on this task and data alone."
    )
    if won["low"] <= 0.0:
        lines.append("The student is not shown to be better than the simple floor: its interval includes 0.")
    if evaluation["flips_to_wrong"]:
        lines.append(
            f"{evaluation['flips_to_wrong']:,} examples that the teacher had right are wrong now "
            f"({evaluation['flips_to_right']:,} the other way); an average hides which."
        )
    if facts["verdict"] is None:
        lines.append("No gate has judged this student.")
    return lines
