"""What making a model cost: sums over stages that keep `not measured` apart from 0, grams of CO2e, and pay-back.

Grid intensities are the yearly national means bundled with CodeCarbon, read as a file; a run without a country
gets the whole range over the world's grids instead of a silent default.
"""

import importlib.util
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from registry.records import STRICT, Attempt, Band, Footprint, ShrinkError, StageRecord

SOURCE = "CodeCarbon's bundled global_energy_mix.json (Our World in Data)"
SMALLEST_GRID_TWH = 1.0  # smaller grids are left out of the world range
OLDEST_YEAR = 2021


class Total(BaseModel):
    """Energy of several stages; kwh is None when nothing was measured, a lower bound when `unmeasured` > 0."""

    model_config = STRICT
    kwh: Band | None
    cpu_kwh: float | None
    ram_kwh: float | None
    gpu_kwh: float | None
    seconds: float
    stages: int
    unmeasured: int
    tiers: tuple[str, ...]


class Grid(BaseModel):
    """Carbon intensity in gCO2e per kWh: of one country, or over all grids when the country is not known."""

    model_config = STRICT
    country: str | None
    name: str
    intensity: Band
    year: str = Field(description="year or years of the data")
    source: str = SOURCE


class Payback(BaseModel):
    """Requests after which the student has saved what making it cost; None = never or unknown, `why` says which."""

    model_config = STRICT
    requests: Band | None
    why: str


def total(footprints: Iterable[Footprint]) -> Total:
    """Sum footprints; unmeasured ones are counted and never taken for 0."""
    items = list(footprints)
    bands = [band for item in items if (band := item.kwh or item.at_least_kwh) is not None]
    return Total(
        kwh=add_bands(bands),
        cpu_kwh=_sum(item.cpu_kwh for item in items),
        ram_kwh=_sum(item.ram_kwh for item in items),
        gpu_kwh=_sum(item.gpu_kwh for item in items),
        seconds=sum(item.seconds for item in items),
        stages=len(items),
        unmeasured=sum(item.kwh is None for item in items),
        tiers=tuple(sorted({item.tier for item in items})),
    )


def spent(stages: Iterable[StageRecord], attempts: Iterable[Attempt] = ()) -> Total:
    """Energy behind some runs: every execution, and each reused stage once where its execution is not among them.

    And what was spent in vain: goes at a stage that were killed or failed, unless another run took their work up.
    """
    made = [record.footprint for record in charged(stages)]
    known = {footprint.samples for footprint in made if footprint.samples}
    return total([*made, *(one.footprint for one in attempts if one.footprint.samples not in known)])


def whole(added: Total) -> Footprint:
    """A total as one footprint, its energy None when a part was not measured: a part is not given out as the whole."""
    return Footprint(
        kwh=added.kwh if added.unmeasured == 0 else None,
        seconds=added.seconds,
        cpu_kwh=added.cpu_kwh,
        ram_kwh=added.ram_kwh,
        gpu_kwh=added.gpu_kwh,
        tier=", ".join(sorted({part for tier in added.tiers for part in tier.split(", ")})),
    )


def charged(stages: Iterable[StageRecord]) -> list[StageRecord]:
    """The records that `spent` adds up, in order."""
    records = list(stages)
    seen = {record.key for record in records if not record.cached}
    chosen: list[StageRecord] = []
    for record in records:
        if record.cached and record.key in seen:
            continue
        seen.add(record.key)
        chosen.append(record)
    return chosen


def add_bands(bands: Iterable[Band]) -> Band | None:
    """Sum of bands, None for no band: errors of one method go the same way, so bounds add up."""
    items = list(bands)
    if not items:
        return None
    return Band(
        low=sum(item.low for item in items),
        central=sum(item.central for item in items),
        high=sum(item.high for item in items),
    )


def grams(kwh: Band | None, grid: Grid, pue: float = 1.0) -> Band | None:
    """gCO2e of an energy (before PUE) on a grid; None stays None."""
    if kwh is None:
        return None
    if pue < 1.0:
        raise ShrinkError(f"pue = {pue} is below 1; give the ratio of a site's whole energy to its computers'.")
    rate = grid.intensity
    return Band(low=kwh.low * rate.low * pue, central=kwh.central * rate.central * pue, high=kwh.high * rate.high * pue)


def grid_of(country: str | None) -> Grid:
    """The grid of an ISO 3166 alpha-3 country, or the range over all grids (central: generation-weighted mean)."""
    mix = _mix()
    if country is None:
        return _world(mix)
    row = mix.get(country.upper())
    if row is None or not row.get("carbon_intensity"):
        raise ShrinkError(f"country = {country!r} has no grid intensity; give a three-letter code such as FRA or none.")
    rate = float(row["carbon_intensity"])
    return Grid(
        country=country.upper(),
        name=str(row["country_name"]),
        intensity=Band(low=rate, central=rate, high=rate),
        year=str(row["year"]),
    )


def request_wh(power: Footprint, milliseconds: float) -> Band | None:
    """Wh of one request of this latency at the mean power of a measured stage; None when that is unmeasured."""
    if power.kwh is None or power.seconds <= 0.0:
        return None
    share = milliseconds / power.seconds  # kWh x 1000 for Wh, ms / 1000 for s
    return Band(low=power.kwh.low * share, central=power.kwh.central * share, high=power.kwh.high * share)


def payback(cost: Band | None, teacher_wh: Band | None, student_wh: Band | None) -> Payback:
    """Requests = kWh spent / (teacher Wh - student Wh); both models are metered alike, so like bounds are paired."""
    if cost is None:
        return Payback(requests=None, why="unknown: the energy spent was not measured")
    if teacher_wh is None or student_wh is None:
        return Payback(requests=None, why="unknown: the energy of a request was not measured")
    saved = (
        teacher_wh.low - student_wh.low,
        teacher_wh.central - student_wh.central,
        teacher_wh.high - student_wh.high,
    )
    if saved[1] <= 0.0:
        return Payback(requests=None, why="never: a request to the student costs no less than one to the teacher")
    if min(saved) <= 0.0:
        return Payback(requests=None, why="unknown: within its uncertainty the student may save nothing")
    requests = Band(
        low=1000.0 * cost.low / max(saved),
        central=1000.0 * cost.central / saved[1],
        high=1000.0 * cost.high / min(saved),
    )
    return Payback(requests=requests, why="energy spent divided by the energy saved with each request")


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _world(mix: dict[str, dict[str, Any]]) -> Grid:
    rows = [
        row
        for row in mix.values()
        if row.get("carbon_intensity") and row["total_TWh"] >= SMALLEST_GRID_TWH and row["year"] >= OLDEST_YEAR
    ]
    rates = [float(row["carbon_intensity"]) for row in rows]
    weights = [float(row["total_TWh"]) for row in rows]
    years = [int(row["year"]) for row in rows]
    mean = sum(rate * weight for rate, weight in zip(rates, weights, strict=True)) / sum(weights)
    return Grid(
        country=None,
        name=f"range over {len(rows)} national grids",
        intensity=Band(low=min(rates), central=mean, high=max(rates)),
        year=f"{min(years)}-{max(years)}",
    )


@cache
def _mix() -> dict[str, dict[str, Any]]:
    spec = importlib.util.find_spec("codecarbon")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise ShrinkError("package = codecarbon is not installed; install the project's dependencies.")
    path = Path(places[0]) / "data" / "private_infra" / "global_energy_mix.json"
    data: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return data
