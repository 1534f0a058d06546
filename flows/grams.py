"""Grams of CO2e of an energy that is told in one figure, by the carbon inputs of `SHRINK_CARBON` or `SHRINK_COUNTRY`.

The report looks at each sample; here the energy counts as drawn evenly until `end`, which differs only where the
intensity changes within a run.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from flows import units
from flows.reporting.drawn import moment
from registry.carbon.emissions import at_end, emissions
from registry.carbon.inputs import Basis
from registry.records import STRICT, Band, Seconds, StageRecord


class Told(BaseModel):
    """Grams as a band, the grid (or grids) they are over, and whether that is a grid that somebody named."""

    model_config = STRICT
    grams: Band
    over: str
    year: str
    named: bool
    at_least: bool  # the factors do not know a part of the time


def told(kwh: Band | None, seconds: float, end: datetime, basis: Basis) -> Told | None:
    """None where the energy was not measured, or the factors know nothing of that time."""
    if kwh is None:
        return None
    found = emissions([at_end(end, Seconds(seconds), kwh)], Seconds(seconds), basis)
    if found.location_g is None:
        return None
    named = basis.profile is not None or (basis.grid is not None and basis.grid.country is not None)
    names = ["hourly profile"] if basis.profile else []
    names += [basis.grid.name] if basis.grid and (basis.grid.country or not names) else []
    return Told(
        grams=found.location_g,
        over=" and ".join(names),
        year=basis.grid.year if basis.grid else "by the hour",
        named=named,
        at_least=found.uncovered_kwh is not None,
    )


def ended(records: Iterable[StageRecord]) -> datetime:
    """When the last of these stages was over."""
    return max(moment(one.started) + timedelta(seconds=one.footprint.seconds) for one in records)


def emitted(footprint: dict[str, Any], end: datetime, basis: Basis) -> dict[str, Any]:
    """The footprint with gCO2e: a number once a grid is named, and always a range with the grids it is over."""
    band = footprint["kwh_band"]
    found = told(Band.model_validate(band) if band else None, footprint["seconds"], end, basis)
    if found is None:
        return footprint | {"gco2e": None, "gco2e_range": None, "grid": None}
    span = {"low": found.grams.low, "high": found.grams.high, "grids": f"{found.over}, {found.year}"}
    code = basis.grid.country if basis.grid and basis.grid.country else found.over
    known = (found.grams.central, code) if found.named else (None, None)
    return footprint | {"gco2e": known[0], "gco2e_range": span, "grid": known[1]}


def text(footprint: dict[str, Any]) -> str | None:
    """The range of an emitted footprint in words; None where the energy was not measured."""
    found = footprint["gco2e_range"]
    return f"{units.span(found, 'mass')} ({found['grids']})" if found else None
