"""A plan as it stands in a run's directory, and what became of it: foretold beside measured, stage by stage."""

import statistics
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from registry.records import STRICT, Band, ShrinkError, StageRecord

FILE = "plan.json"
SCORED = ("parameters", "bytes", "ram_mb", "seconds", "kwh")


class StagePlan(BaseModel):
    """What is foretold of one stage; `work` is seconds of the reference thread, before they are made this machine's."""

    model_config = STRICT
    name: str
    kind: str
    method: str | None
    role: str
    reused: bool  # it stands in the index: nothing is computed
    known: bool  # there is a rule for its kind
    parameters: int | None
    bytes: int
    ram_mb: float
    work: float
    seconds: Band
    kwh: Band


class Plan(BaseModel):
    """All that a run will do; `pace` says where the times come from."""

    model_config = STRICT
    recipe: str
    recipe_digest: str
    threads: int
    pace: str
    stages: tuple[StagePlan, ...]

    @property
    def computed(self) -> tuple[StagePlan, ...]:
        """The stages that are not re-used."""
        return tuple(stage for stage in self.stages if not stage.reused)

    def total(self, field: str) -> Band:
        """The sum of seconds or kwh over all stages."""
        return added([getattr(stage, field) for stage in self.stages])


def write(directory: Path, plan: Plan) -> None:
    """Keep a run's plan; one that goes on keeps its first."""
    if not (directory / FILE).exists():
        partial = directory / f".{FILE}"
        partial.write_text(plan.model_dump_json(indent=1))
        partial.rename(directory / FILE)


def read(directory: Path) -> Plan | None:
    """The plan of a run's directory; None when there is none that can be read."""
    try:
        return Plan.model_validate_json((directory / FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def pairs(directory: Path) -> list[tuple[StagePlan, StageRecord]]:
    """The stages of a run that were computed there, each with what was foretold of it."""
    found, plan = [], read(directory)
    for stage in plan.stages if plan else ():
        try:
            record = StageRecord.model_validate_json((directory / stage.name / "record.json").read_text())
        except (OSError, ValidationError):
            continue
        if (record.kind, record.method) == (stage.kind, stage.method):
            found.append((stage, record))
    return found


def score(directory: Path) -> dict[str, Any]:
    """Foretold and measured of every computed stage, and by quantity the errors; raises ShrinkError without a plan."""
    plan = read(directory)
    if plan is None:
        raise ShrinkError(f"run '{directory.name}' has no plan; runs that are started now have one.")
    found = pairs(directory)
    seen = [compared(stage, record) for stage, record in found]
    stages = [{"name": stage.name, **one} for (stage, _), one in zip(found, seen, strict=True)]
    errors: dict[str, dict[str, float] | None] = {}
    for field in SCORED:
        ratios = [abs(ratio - 1) for one in seen if field in one and (ratio := one[field]["ratio"]) is not None]
        errors[field] = (
            {"stages": len(ratios), "median": statistics.median(ratios), "worst": max(ratios)} if ratios else None
        )
    told = {"run_id": directory.name, "recipe": plan.recipe, "pace": plan.pace}
    return {**told, "stages": stages, "errors": errors, "total": {"seconds": took(found), "kwh": drew(found)}}


def took(found: list[tuple[StagePlan, StageRecord]]) -> dict[str, Any]:
    """Seconds of all computed stages together: foretold, measured, and whether they came within the band."""
    said = added([stage.seconds for stage, _ in found])
    came = sum(record.footprint.seconds for _, record in found)
    return {"foretold": said.model_dump(), "measured": came, "within": said.low <= came <= said.high}


def drew(found: list[tuple[StagePlan, StageRecord]]) -> dict[str, Any]:
    """The same of their energy in kWh, which is a band itself; null where one was not measured."""
    said = added([stage.kwh for stage, _ in found])
    bands = [record.footprint.kwh for _, record in found if record.footprint.kwh is not None]
    came = added(bands) if len(bands) == len(found) else None
    within = said.low <= came.central <= said.high if came else None
    return {"foretold": said.model_dump(), "measured": came and came.model_dump(), "within": within}


def added(bands: list[Band]) -> Band:
    """The sum of bands: errors of one method go the same way, so bounds add up."""
    low, central, high = (sum(getattr(band, end) for band in bands) for end in ("low", "central", "high"))
    return Band(low=low, central=central, high=high)


def compared(stage: StagePlan, record: StageRecord) -> dict[str, dict[str, float | None]]:
    """{quantity: foretold, measured and foretold / measured}; what was not measured is left out."""
    measured = {
        "parameters": record.measured.get("parameters"),
        "bytes": record.bytes,
        "ram_mb": record.peak_rss_mb,
        "seconds": record.footprint.seconds,
        "kwh": record.footprint.kwh.central if record.footprint.kwh else None,
    }
    found: dict[str, dict[str, float | None]] = {}
    for field, value in measured.items():
        said = getattr(stage, field)
        said = said.central if isinstance(said, Band) else said
        if value is not None and said is not None:
            found[field] = {"foretold": said, "measured": value, "ratio": said / value if value else None}
    return found
