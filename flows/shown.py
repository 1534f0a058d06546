"""What `shrink show MODEL@alias --json` says of a version: a fixed schema, null where something does not apply.

Registered as show.json in the version's evidence; version number, aliases and CO2e are added when it is asked for.
"""

from typing import Any

from registry import footprint as fp
from registry.records import Band, Evaluation, Footprint, StageRecord, Verdict


def shown(
    model: str,
    recipe_digest: str,
    digest: str,
    evaluation: Evaluation,
    verdict: Verdict,
    records: list[StageRecord],
    facts: dict[str, Any],
    country: str | None,
) -> dict[str, Any]:
    """The facts of a version; `facts` are those of the run's report (flows/report.py)."""
    teacher, student, floor = evaluation.teacher, evaluation.student, evaluation.floor
    return {
        "model": model,
        "digest": digest,
        "verdict": verdict.model_dump(mode="json"),
        "retention": evaluation.retention.model_dump(),
        "lift_retained": evaluation.lift_retained.model_dump(),
        "accuracy": {"teacher": teacher.accuracy, "student": student.accuracy, "floor": floor.accuracy},
        "bytes": {
            "teacher": teacher.bytes,
            "student": student.bytes,
            "floor": floor.bytes,
            "ratio": ratio(teacher.bytes, student.bytes),
        },
        "latency_ms": {
            "teacher": teacher.p50_ms,
            "student": student.p50_ms,
            "floor": floor.p50_ms,
            "ratio": ratio(teacher.p50_ms, student.p50_ms),
        },
        "parameters": {"teacher": teacher.parameters, "student": student.parameters},
        "footprint": emitted(energy(fp.whole(fp.spent(records))), country),
        "payback": {"requests": facts["payback"]["requests"], "sentence": facts["payback_sentence"]},
        "stages": [
            {
                "kind": record.kind,
                "method": record.method,
                "digest": record.digest,
                "seconds": record.footprint.seconds,
                "kwh": record.footprint.kwh.central if record.footprint.kwh else None,
            }
            for record in records
        ],
        "recipe_digest": recipe_digest,
    }


def energy(footprint: Footprint) -> dict[str, Any]:
    """Energy and time of all stages; null where one of them was not measured."""
    return {
        "kwh": footprint.kwh.central if footprint.kwh else None,
        "kwh_band": footprint.kwh.model_dump() if footprint.kwh else None,
        "seconds": footprint.seconds,
        "tier": footprint.tier,
    }


def emitted(footprint: dict[str, Any], country: str | None) -> dict[str, Any]:
    """The footprint with gCO2e: a number once the country is known, and always a range with the grids it is over."""
    grid = fp.grid_of(country)
    band = footprint["kwh_band"]
    grams = fp.grams(Band.model_validate(band), grid) if band else None
    over = f"{grid.name}, {grid.year}"
    return footprint | {
        "gco2e": grams.central if grams and country else None,
        "gco2e_range": {"low": grams.low, "high": grams.high, "grids": over} if grams else None,
    }


def ratio(above: float | None, below: float | None) -> float | None:
    """above / below, or None where that has no meaning."""
    return above / below if above is not None and below else None
