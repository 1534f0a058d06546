"""Grams of CO2e that a kWh comes with, at a place and a time: by dated factors, by an hourly profile, or bundled.

Without a file of the user's, the yearly national means that CodeCarbon ships stand in, read as a file and named with
its version; without a country, the whole range over the world's grids instead of a silent default.
"""

import hashlib
import importlib.util
import json
from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from registry.carbon.hourly import Moment, Profile
from registry.records import STRICT, Band, ShrinkError

SMALLEST_GRID_TWH = 1.0  # smaller grids are left out of the world range
OLDEST_YEAR = 2021


class Period(BaseModel):
    """From `start` until `end` (None: open) a kWh comes with so many grams; `source` says who says so."""

    model_config = STRICT
    start: Moment | None
    end: Moment | None
    grams_per_kwh: Band
    source: str


class Factors(BaseModel):
    """Intensities of one place, period after period without a gap; `sha256` is of the file they came from."""

    model_config = STRICT
    country: str | None = Field(description="ISO 3166 alpha-3 code, a region's behind a hyphen; null: the whole world")
    name: str
    periods: tuple[Period, ...]
    year: str = Field(description="year or years of the data")
    source: str
    sha256: str | None = None

    @property
    def begins(self) -> tuple[datetime, ...]:
        """When its periods begin, as far as they have a beginning."""
        return tuple(one.start for one in self.periods if one.start is not None)


class Day(BaseModel):
    """A typical day, repeated: an intensity for each local hour from 0 to 23; `offset` is local time's from UTC."""

    model_config = STRICT
    source: str
    offset: timedelta
    grams_per_kwh: tuple[float, ...] = Field(min_length=24, max_length=24)
    sha256: str | None = None


Layer = Factors | Day | Profile  # whoever of several knows the moment first is believed


class Held(NamedTuple):
    """An intensity that holds at a moment and `until` another (None: for good)."""

    grams_per_kwh: Band
    source: str
    until: datetime | None


def held(layers: Iterable[Layer], moment: datetime) -> Held | None:
    """The intensity at a moment, of the first layer that knows it; None where none does."""
    at, ahead = moment.astimezone(UTC), list[datetime]()
    for layer in layers:
        found = _held(layer, at)
        if found is not None and not ahead:
            return found
        if found is not None:  # until a layer before it, which does not know this moment, knows one
            return found._replace(until=min((*ahead, *([found.until] if found.until else []))))
        edges = layer.edges if isinstance(layer, Profile) else layer.begins if isinstance(layer, Factors) else ()
        ahead += [edge for edge in edges if edge > at][:1]
    return None


def mean(layers: tuple[Layer, ...], start: datetime, seconds: float) -> tuple[Band, tuple[str, ...]] | None:
    """The mean intensity over a time, and its sources; None where a part of the time is not known."""
    at, end, sources = start, start + timedelta(seconds=seconds), list[str]()
    weighed = (0.0, 0.0, 0.0)
    while True:
        now = held(layers, at)
        if now is None:
            return None
        sources.append(now.source)
        until = end if now.until is None else min(end, now.until)
        rate, share = now.grams_per_kwh, (until - at) / (end - start) if end > start else 1.0
        low, central, high = weighed
        weighed = (low + share * rate.low, central + share * rate.central, high + share * rate.high)
        at = until
        if at >= end:
            return Band(low=weighed[0], central=weighed[1], high=weighed[2]), tuple(dict.fromkeys(sources))


def steady(layers: tuple[Layer, ...], start: datetime, end: datetime) -> bool:
    """Whether one intensity holds all this time, so that when in it energy was drawn makes no difference."""
    now = held(layers, start)
    if now is None:
        return not layers
    return now.until is None or now.until >= end


def bundled(country: str | None) -> Factors:
    """CodeCarbon's yearly mean of a country, or the range over all grids (central: generation-weighted mean).

    Raises ShrinkError for a country that it does not know.
    """
    mix, sha256 = _mix()
    source = f"codecarbon {version('codecarbon')}, global_energy_mix.json (Our World in Data)"
    if country is None:
        name, rate, year = _world(mix)
    else:
        row = mix.get(country.upper())
        if row is None or not row.get("carbon_intensity"):
            raise ShrinkError(
                f"country = {country!r} has no grid intensity; give a three-letter code such as FRA or none."
            )
        value = float(row["carbon_intensity"])
        name, rate, year = str(row["country_name"]), Band(low=value, central=value, high=value), str(row["year"])
    period = Period(start=None, end=None, grams_per_kwh=rate, source=f"{source}, {year}")
    code = country.upper() if country else None
    return Factors(country=code, name=name, periods=(period,), year=year, source=source, sha256=sha256)


def known_country(code: str, where: str) -> None:
    """Refuse a code that does not begin with a country's three letters; `where` names the field (and its file)."""
    row = _mix()[0].get(code.upper().split("-")[0])
    if row is None or not row.get("carbon_intensity"):
        raise ShrinkError(
            f"{where} = {code!r} has no grid intensity; give a three-letter code such as FRA (or FRA-IDF) or none."
        )


def country_name(code: str) -> str:
    """A country's name, with the region that is named behind it."""
    first, _, region = code.upper().partition("-")
    return str(_mix()[0][first]["country_name"]) + (f" ({region})" if region else "")


def _held(layer: Layer, moment: datetime) -> Held | None:
    if isinstance(layer, Day):
        local = moment + layer.offset
        hour = local.replace(minute=0, second=0, microsecond=0)
        return Held(_exact(layer.grams_per_kwh[hour.hour]), layer.source, hour + timedelta(hours=1) - layer.offset)
    if isinstance(layer, Profile):
        if not layer.edges[0] <= moment < layer.end:
            return None
        at = bisect_right(layer.edges, moment) - 1
        return Held(_exact(layer.slots[at].grams_per_kwh), layer.source, layer.edges[at + 1])
    for period in layer.periods:
        if (period.start is None or period.start <= moment) and (period.end is None or moment < period.end):
            return Held(period.grams_per_kwh, period.source, period.end)
    return None


def _exact(value: float) -> Band:
    return Band(low=value, central=value, high=value)


def _world(mix: dict[str, dict[str, Any]]) -> tuple[str, Band, str]:
    rows = [
        row
        for row in mix.values()
        if row.get("carbon_intensity") and row["total_TWh"] >= SMALLEST_GRID_TWH and row["year"] >= OLDEST_YEAR
    ]
    rates = [float(row["carbon_intensity"]) for row in rows]
    weights = [float(row["total_TWh"]) for row in rows]
    years = [int(row["year"]) for row in rows]
    central = sum(rate * weight for rate, weight in zip(rates, weights, strict=True)) / sum(weights)
    band = Band(low=min(rates), central=central, high=max(rates))
    return f"range over {len(rows)} national grids", band, f"{min(years)}-{max(years)}"


@cache
def _mix() -> tuple[dict[str, dict[str, Any]], str]:
    spec = importlib.util.find_spec("codecarbon")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise ShrinkError("package = codecarbon is not installed; install the project's dependencies.")
    text = (Path(places[0]) / "data" / "private_infra" / "global_energy_mix.json").read_bytes()
    data: dict[str, dict[str, Any]] = json.loads(text)
    return data, hashlib.sha256(text).hexdigest()
