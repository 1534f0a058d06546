"""What only the user knows of carbon, water and money: one YAML file (SHRINK_CARBON), everything in it optional.

What it leaves out is not reported: it is null in every figure and never 0. Files that it names lie beside it.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from registry.carbon.factor_file import market_factors, read_factors
from registry.carbon.factors import Factors, Layer, bundled
from registry.carbon.profile_file import read_profile
from registry.records import STRICT, ShrinkError

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Operator = Literal["own", "cloud"]


class Pue(BaseModel):
    """How much energy the site takes for each that its computers take."""

    model_config = STRICT
    value: float = Field(ge=1, allow_inf_nan=False, description="the site's whole energy over its computers'")
    source: str = Field(description="who says so, and of which year")


class Water(BaseModel):
    """Water that an energy takes."""

    model_config = STRICT
    site_litres_per_kwh: Amount | None = Field(None, description="evaporated on the site, per kWh of its computers")
    source_litres_per_kwh: Amount | None = Field(None, description="used to generate it, per kWh of the whole site")
    source: str = Field(description="who says so, and of which year")


class Embodied(BaseModel):
    """What making the machine emitted, written off over its life (ISO/IEC 21031: TE, EL, RR / ToR)."""

    model_config = STRICT
    grams: Positive = Field(description="gCO2e of making and scrapping the machine")
    lifetime_years: Positive = Field(description="years that it is used")
    share: float = Field(gt=0, le=1, allow_inf_nan=False, description="of the machine that is ours; 1: all of it")
    source: str = Field(description="who says so, and of which year")


class Prices(BaseModel):
    """What energy and machine cost; both are added, so leave out the energy where the machine's hour includes it."""

    model_config = STRICT
    currency: str = Field(min_length=1, description="what the prices are in, such as EUR")
    kwh: Amount | None = Field(None, description="price of a kWh of the site")
    machine_hour: Amount | None = Field(None, description="price of the machine's hour")


class Market(BaseModel):
    """The intensity that a contract or certificates give the electricity bought."""

    model_config = STRICT
    intensity: Amount = Field(description="CO2e per energy, in `unit`")
    unit: str = Field(description="such as gCO2e/kWh, kgCO2e/kWh or lbCO2e/MWh")
    since: date | None = Field(None, description="first day (UTC) on which it holds; none: ever since")
    until: date | None = Field(None, description="last day (UTC) on which it holds; none: until further notice")
    source: str = Field(description="the contract or certificates")


class CarbonFile(BaseModel):
    """The file as it is written."""

    model_config = STRICT
    operator: Operator | None = Field(None, description="own: the machine is yours; cloud: you rent it (scopes)")
    region: str | None = Field(None, description="whose rows of `factors` hold; none: SHRINK_COUNTRY")
    factors: Path | None = Field(None, description="file of dated factors, CSV, YAML or JSON")
    profile: Path | None = Field(None, description="CSV of intensities by the hour; it goes before `factors`")
    market: Market | None = Field(None, description="for market-based figures beside the location-based")
    pue: Pue | None = Field(None, description="of the site")
    water: Water | None = Field(None, description="of the site and of its electricity")
    embodied: Embodied | None = Field(None, description="of the machine")
    prices: Prices | None = Field(None, description="of energy and machine")


class Basis(BaseModel):
    """All that turns kWh and hours into grams, litres and money; None is `not reported`."""

    model_config = STRICT
    grid: Factors | None = None  # dated factors of the place; None: only the hours that a profile knows
    profile: Layer | None = None
    operator: Operator | None = None
    market: Factors | None = None
    pue: Pue | None = None
    water: Water | None = None
    embodied: Embodied | None = None
    prices: Prices | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Location-based intensities, the first that knows a moment before the others."""
        return tuple(one for one in (self.profile, self.grid) if one is not None)

    @property
    def overhead(self) -> float:
        """What kWh of the computers are multiplied with; 1 where the PUE is not reported: then they stand alone."""
        return self.pue.value if self.pue else 1.0


def basis(path: Path | None, country: str | None) -> Basis:
    """The inputs of this file (None: none) and of the country; all is read and checked before anything is computed.

    Raises ShrinkError with file, field and remedy.
    """
    national = bundled(country)  # whatever the file says, the country must be one
    if path is None:
        return Basis(grid=national)
    given = _read(path)
    place = given.region or country
    if given.factors is not None:
        grid: Factors | None = read_factors(path.parent / given.factors, place)
    else:
        grid = bundled(place) if place or given.profile is None else None
    return Basis(
        grid=grid,
        profile=read_profile(path.parent / given.profile) if given.profile else None,
        operator=given.operator,
        market=_market(path, given.market),
        pue=given.pue,
        water=given.water,
        embodied=given.embodied,
        prices=given.prices,
    )


def _market(path: Path, given: Market | None) -> Factors | None:
    if given is None:
        return None
    where = f"carbon file '{path}', market"
    return market_factors(where, given.intensity, given.unit, given.since, given.until, given.source)


def _read(path: Path) -> CarbonFile:
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ShrinkError(f"SHRINK_CARBON = '{path}' cannot be read ({error.strerror}); give a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise ShrinkError(f"SHRINK_CARBON = '{path}' is not YAML{line}; write `pue: ...` and the like.") from None
    try:
        return CarbonFile.model_validate(said if said is not None else {})
    except ValidationError as error:
        raise ShrinkError(_sentence(path, error)) from None


def _sentence(path: Path, error: ValidationError) -> str:
    wrong = error.errors()[0]
    field = ".".join(map(str, wrong["loc"])) or "the file"
    if wrong["type"] == "extra_forbidden":
        return f"carbon file '{path}': {field} is no field of it; leave it out, or write it as the README's table does."
    if wrong["type"] == "missing":
        return f"carbon file '{path}': {field} is missing; add it."
    said = wrong["msg"].removeprefix("Input should be ")
    return f"carbon file '{path}': {field} = {wrong['input']!r} must be {said}; correct it."
