"""Dated factor files of the user's: CSV, YAML or JSON, a row a place and period, read strictly.

Columns (keys): region, intensity, unit, since, until (last day, UTC; empty in the last row: until further notice) and
source. Periods of a region must follow each other day by day: a gap or an overlap is refused, not bridged.
"""

import csv
import hashlib
import io
import json
import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from registry.carbon.factors import Factors, Period, country_name, known_country
from registry.records import STRICT, Band, ShrinkError

MASS = {"g": 1.0, "kg": 1000.0, "t": 1e6, "lb": 453.59237}
ENERGY = {"kwh": 1.0, "mwh": 1000.0, "gwh": 1e6, "mj": 1 / 3.6, "gj": 1000 / 3.6}
UNIT = re.compile(r"(g|kg|t|lb)(?:co2-?eq?)?/(kwh|mwh|gwh|mj|gj)")
Day = Annotated[date | None, BeforeValidator(lambda one: None if one == "" else one)]


class Row(BaseModel):
    """One row; in YAML and JSON one mapping of a list."""

    model_config = STRICT
    region: str = Field(description="three-letter country code, a region's behind a hyphen")
    intensity: float = Field(ge=0, allow_inf_nan=False, description="CO2e per energy, in `unit`")
    unit: str = Field(description="g, kg, t or lb CO2e per kWh, MWh, GWh, MJ or GJ")
    since: date = Field(description="first day")
    until: Day = Field(None, description="last day; none: until further notice")
    source: str = Field(min_length=1, description="who says so")


class Placed(NamedTuple):
    """A row and where it stands in its file."""

    row: Row
    where: str


def read_factors(path: Path, place: str | None) -> Factors:
    """The factors of a place; without one, of the only place in the file. Raises ShrinkError: file, line, remedy."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ShrinkError(f"factors = '{path}' cannot be read ({error.strerror}); give a file that can.") from None
    rows = [_placed(where, said) for where, said in _rows(path, raw)]
    for row, where in rows:
        known_country(row.region, f"{where}: region")
        rate(where, row.intensity, row.unit)
    regions = list(dict.fromkeys(one.row.region.upper() for one in rows))
    for region in regions:
        _in_order([one for one in rows if one.row.region.upper() == region])
    chosen = _chosen(path, regions, place)
    own = sorted((one for one in rows if one.row.region.upper() == chosen), key=lambda one: one.row.since)
    periods = tuple(_period(one) for one in own)
    until = own[-1].row.until
    return Factors(
        country=chosen,
        name=country_name(chosen),
        periods=periods,
        year="-".join(dict.fromkeys((str(own[0].row.since.year), str(until.year) if until else "now"))),
        source=f"factor file {path.name}",
        sha256=hashlib.sha256(raw).hexdigest(),
    )


def market_factors(
    where: str, intensity: float, unit: str, since: date | None, until: date | None, source: str
) -> Factors:
    """The one factor of a contract. Raises ShrinkError for an unknown unit or days in the wrong order."""
    if since and until and until < since:
        raise ShrinkError(f"{where}.until = {until} lies before since = {since}; exchange or correct them.")
    period = Period(start=_day(since), end=_after(until), grams_per_kwh=rate(where, intensity, unit), source=source)
    return Factors(country=None, name="market", periods=(period,), year=str(since.year if since else ""), source=source)


def rate(where: str, intensity: float, unit: str) -> Band:
    """Grams per kWh of a number in another unit; ShrinkError where the unit is not known."""
    plain = re.sub(r"[\s._₂]", lambda found: "2" if found[0] == "₂" else "", unit).lower()
    match = UNIT.fullmatch(plain)
    if match is None:
        less = "; CO2 alone leaves the other gases out" if "co2/" in plain else ""
        known = "gCO2e/kWh, kgCO2e/kWh, kgCO2e/MWh, lbCO2e/MWh or the like"
        raise ShrinkError(f"{where}: unit = {unit!r} is not known; write {known}{less}.")
    value = intensity * MASS[match[1]] / ENERGY[match[2]]
    return Band(low=value, central=value, high=value)


def _rows(path: Path, raw: bytes) -> list[tuple[str, Any]]:
    name = f"factor file '{path}'"
    try:
        text = raw.decode("utf-8-sig")
        if path.suffix.lower() == ".csv":
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            rows: list[tuple[str, Any]] = [(f"{name}, line {reader.line_num}", _cells(one)) for one in reader]
        else:
            said = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
            if not isinstance(said, list):
                raise ShrinkError(f"{name}: it must be a list of factors with region, intensity, unit, since, source.")
            rows = [(f"{name}, factor {at}", one) for at, one in enumerate(said, 1)]
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, yaml.YAMLError):
        raise ShrinkError(f"{name} is not what its name says; give .csv, .json or .yaml in UTF-8.") from None
    if not rows:
        raise ShrinkError(f"{name} has no factors; add a row with region, intensity, unit, since, until and source.")
    return rows


def _cells(row: dict[str | None, Any]) -> dict[str, Any]:
    """A row without the cells that a short line does not have, whose names must be strings for pydantic."""
    return {"(beyond the last column)" if key is None else key: cell for key, cell in row.items() if cell is not None}


def _placed(where: str, said: Any) -> Placed:
    try:
        return Placed(Row.model_validate(said), where)
    except ValidationError as error:
        wrong = error.errors()[0]
    field = ".".join(map(str, wrong["loc"])) or "the row"
    if wrong["type"] == "missing":
        raise ShrinkError(f"{where}: {field} is missing; add it.")
    if wrong["type"] == "extra_forbidden":
        raise ShrinkError(f"{where}: {field} is no column of a factor file; leave it out.")
    said = wrong["msg"].removeprefix("Input should be ")
    raise ShrinkError(f"{where}: {field} = {wrong['input']!r} must be {said}; correct it.")


def _in_order(rows: list[Placed]) -> None:
    rows = sorted(rows, key=lambda one: one.row.since)
    for row, where in rows:
        if row.until is not None and row.until < row.since:
            raise ShrinkError(f"{where}: until = {row.until} lies before since = {row.since}; correct one of them.")
    for (row, _), (after, where) in pairwise(rows):
        if row.until is None or after.since <= row.until:
            ends = f"only ends on {row.until}" if row.until else "has no end"
            raise ShrinkError(
                f"{where}: since = {after.since} overlaps the period of {row.region} from {row.since}, which {ends}; "
                "end it on the day before."
            )
        if after.since != row.until + timedelta(days=1):
            raise ShrinkError(
                f"{where}: since = {after.since} leaves a gap: {row.region} is known until {row.until}; add a period "
                f"from {row.until + timedelta(days=1)} to {after.since - timedelta(days=1)}."
            )


def _chosen(path: Path, regions: list[str], place: str | None) -> str:
    if place is None and len(regions) == 1:
        return regions[0]
    listed = ", ".join(regions[:10]) + (" ..." if len(regions) > 10 else "")
    if place is None:
        raise ShrinkError(f"factor file '{path}' has regions {listed}; choose one by region or SHRINK_COUNTRY.")
    if place.upper() not in regions:
        raise ShrinkError(f"region = {place!r} is not in factor file '{path}' but {listed}; add or choose one.")
    return place.upper()


def _period(one: Placed) -> Period:
    row, where = one
    amount = rate(where, row.intensity, row.unit)
    return Period(start=_day(row.since), end=_after(row.until), grams_per_kwh=amount, source=row.source)


def _day(one: date | None) -> datetime | None:
    return datetime(one.year, one.month, one.day, tzinfo=UTC) if one else None


def _after(one: date | None) -> datetime | None:
    start = _day(one)
    return start + timedelta(days=1) if start else None
