"""Energy, time and a basis become grams, litres and scopes. Pure arithmetic: the same energy can always be told anew.

Bounds of one method add up: stages are metered by the same method, so that their errors go the same way, and the low
of a sum is the sum of the lows. A product takes low with low and high with high, as all factors here are positive.
Location-based is the grid's intensity, market-based the contract's; certificates and offsets never enter the SCI.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from pydantic import BaseModel

from registry.carbon.factors import Layer, mean
from registry.carbon.hourly import Moment
from registry.carbon.inputs import Basis
from registry.records import STRICT, Band, Grams, Seconds, Served, scaled, summed

SECONDS_A_YEAR = 365.25 * 86400
NOT_REPORTED = "not reported"


class Used(BaseModel):
    """Energy before PUE that was drawn evenly over some seconds from `start` on."""

    model_config = STRICT
    start: Moment
    seconds: Seconds
    kwh: Band


class Emissions(BaseModel):
    """What an energy and a machine's time mean; None is not reported or not known, and `why` says of which figure why.

    Grams are of the site where the PUE is reported and else of the computers alone; with `uncovered_kwh` they are a
    lower bound: the factors do not know the time in which that much was used.
    """

    model_config = STRICT
    kwh: Band | None  # of the computers, before PUE
    site_kwh: Band | None
    location_g: Band | None
    market_g: Band | None
    embodied_g: Grams | None
    water_site_litres: Band | None  # evaporated on the site
    water_source_litres: Band | None  # used to generate the electricity
    scope2_location_g: Band | None
    scope2_market_g: Band | None
    scope3_location_g: Band | None
    intensity_g_per_kwh: Band | None  # location-based, weighed by the energy that it was used for
    uncovered_kwh: Band | None
    sources: tuple[str, ...]  # of the location-based intensities
    why: dict[str, str]


class Sci(BaseModel):
    """Software Carbon Intensity (ISO/IEC 21031:2024): ((E x I) + M) per R; without M there is no score."""

    model_config = STRICT
    r: str
    e_kwh: Band | None  # of the site where the PUE is reported
    i_g_per_kwh: Band | None
    m_g: Grams | None
    operational_g: Band | None  # E x I
    sci_g: Band | None
    why: str | None = None


def emissions(used: Iterable[Used], seconds: Seconds, basis: Basis) -> Emissions:
    """Of all energy that was measured, and the machine's seconds that it took (for its embodied share)."""
    pieces = list(used)
    kwh = summed([one.kwh for one in pieces])
    covered, uncovered, located, sources = _grams(pieces, basis.layers)
    _, outside, market, _ = _grams(pieces, (basis.market,) if basis.market else ())
    market = market if not outside else None
    location_g, market_g = _times(located, basis.overhead), _times(market, basis.overhead)
    embodied = embodied_g(seconds, basis)
    cloud, own = basis.operator == "cloud", basis.operator == "own"
    water = basis.water
    rates = (water.site_litres_per_kwh, water.source_litres_per_kwh) if water else (None, None)
    return Emissions(
        kwh=kwh,
        site_kwh=_times(kwh, basis.pue.value) if basis.pue else None,
        location_g=location_g,
        market_g=market_g,
        embodied_g=embodied,
        water_site_litres=_times(kwh, rates[0]) if rates[0] is not None else None,
        water_source_litres=_times(kwh, rates[1] * basis.overhead) if rates[1] is not None else None,
        scope2_location_g=location_g if own else None,
        scope2_market_g=market_g if own else None,
        scope3_location_g=_with(location_g, embodied) if cloud else _exact(embodied) if own and embodied else None,
        intensity_g_per_kwh=_mean_intensity(covered, located),
        uncovered_kwh=summed([one.kwh for one in uncovered]),
        sources=sources,
        why=_why(basis, bool(pieces), bool(uncovered), bool(outside)),
    )


def located_g(used: Iterable[Used], basis: Basis) -> Band | None:
    """Location-based grams of this energy alone, as `emissions` gives them; None where no factor knows its time."""
    return _times(_grams(list(used), basis.layers)[2], basis.overhead)


def embodied_g(seconds: Seconds, basis: Basis) -> Grams | None:
    """The machine's embodied grams that fall on a time: M = TE x TS x RS; None where they are not reported."""
    if basis.embodied is None:
        return None
    given = basis.embodied
    return Grams(given.grams * (seconds / (given.lifetime_years * SECONDS_A_YEAR)) * given.share)


def sci(served: Served, unit: str, at: datetime, basis: Basis) -> Sci:
    """The score of 1,000 inferences, on the grid at the time they were measured."""
    r = f"1,000 {unit}s"
    each = Seconds(served.seconds_per_1000.median)
    known = mean(basis.layers, at, each)
    intensity = known[0] if known else None
    energy = _times(served.wh_per_1000, basis.overhead / 1000.0)
    embodied = embodied_g(each, basis)
    operational = _product(energy, intensity) if energy and intensity else None
    missing = {
        "the energy of serving was not measured": energy is None,
        "the factors do not know the time of measuring": intensity is None,
        "the machine's embodied carbon is not reported": embodied is None,
    }
    why = "; ".join(text for text, is_missing in missing.items() if is_missing) or None
    score = _with(operational, embodied) if embodied is not None else None
    return Sci(r=r, e_kwh=energy, i_g_per_kwh=intensity, m_g=embodied, operational_g=operational, sci_g=score, why=why)


def _grams(
    pieces: list[Used], layers: tuple[Layer, ...]
) -> tuple[list[Used], list[Used], Band | None, tuple[str, ...]]:
    """The pieces whose time a layer knows, those whose time none does, grams of the former before PUE, the sources."""
    covered, uncovered, found, sources = list[Used](), list[Used](), list[Band](), dict[str, None]()
    for piece in pieces:
        known = mean(layers, piece.start, piece.seconds)
        if known is None:
            uncovered.append(piece)
            continue
        covered.append(piece)
        found.append(_product(piece.kwh, known[0]))
        sources |= dict.fromkeys(known[1])
    return covered, uncovered, summed(found), tuple(sources)


def _mean_intensity(covered: list[Used], grams: Band | None) -> Band | None:
    """Grams over kWh, bound by bound; None where there is no energy to divide by."""
    kwh = summed([one.kwh for one in covered])
    if grams is None or kwh is None or min(kwh.low, kwh.central, kwh.high) <= 0.0:
        return None
    return Band(low=grams.low / kwh.low, central=grams.central / kwh.central, high=grams.high / kwh.high)


def _why(basis: Basis, measured: bool, uncovered: bool, outside: bool) -> dict[str, str]:
    """Of each figure that is missing or a lower bound, why."""
    unreported = {
        "site_kwh": "the PUE",
        "market_g": "a market-based intensity",
        "embodied_g": "the machine's embodied carbon",
        "water_site_litres": "the site's water per kWh",
        "water_source_litres": "the water per kWh generated",
        "scopes": "whether the machine is your own or a cloud's",
    }
    water = (basis.water.site_litres_per_kwh, basis.water.source_litres_per_kwh) if basis.water else (None, None)
    given = (basis.pue, basis.market, basis.embodied, *water, basis.operator)
    why = {
        figure: f"{NOT_REPORTED}: {what}"
        for (figure, what), one in zip(unreported.items(), given, strict=True)
        if one is None
    }
    if uncovered:
        why["location_g"] = "a lower bound: the factors do not know the time in which a part was used"
    if outside and basis.market:
        why["market_g"] = "the contract does not hold for the time in which a part was used"
    return why if measured else why | {"kwh": "the energy was not measured"}


def _product(kwh: Band, rate: Band) -> Band:
    return Band(low=kwh.low * rate.low, central=kwh.central * rate.central, high=kwh.high * rate.high)


def _times(band: Band | None, factor: float) -> Band | None:
    return scaled(band, factor) if band else None


def _with(band: Band | None, grams: Grams | None) -> Band | None:
    return summed([band, *([_exact(grams)] if grams is not None else [])]) if band else None


def _exact(grams: Grams) -> Band:
    return Band(low=grams, central=grams, high=grams)


def at_end(end: datetime, seconds: Seconds, kwh: Band) -> Used:
    """The energy of one sample, which was read when its seconds were over."""
    return Used(start=end - timedelta(seconds=seconds), seconds=seconds, kwh=kwh)
