"""Energy and what goes with it: units carried by types, how well each part is known, and energy of serving.

A number's unit is its type (`Kwh`, `Wh`, `Grams` ...), of a Band it is in the field's name. Energy is before PUE.
"""

from typing import Literal, NewType

from pydantic import BaseModel

from registry.records.base import STRICT, Band

Kwh = NewType("Kwh", float)
Wh = NewType("Wh", float)
Watts = NewType("Watts", float)
Grams = NewType("Grams", float)  # of CO2e
Litres = NewType("Litres", float)
Seconds = NewType("Seconds", float)
Part = Literal["cpu", "ram", "gpu"]
Tier = Literal["counter", "modelled", "constant"]
PARTS: tuple[Part, ...] = ("cpu", "ram", "gpu")
SPREAD: dict[Tier, tuple[float, float]] = {"counter": (0.95, 1.05), "modelled": (0.4, 2.5), "constant": (0.2, 1.5)}
SPREAD_FROM: dict[Tier, str] = {
    "counter": "a hardware counter: its makers give it to a few per cent, 5 % is taken",
    "modelled": "a model of load and TDP: two common models of the same load lie 2.5 times apart, which is taken",
    "constant": "a constant for each memory module (5 W): an idle one draws about 1 W, a busy one up to 7 W",
}


class Component(BaseModel):
    """Energy of one part of the machine, and by which method it is known."""

    model_config = STRICT
    tier: Tier
    kwh: Band


class Across(BaseModel):
    """A quantity over several windows of measuring."""

    model_config = STRICT
    median: float
    least: float
    most: float


class Window(BaseModel):
    """One window of serving: so many inferences one after the other; kwh is of the whole machine meanwhile."""

    model_config = STRICT
    seconds: Seconds
    inferences: int
    cpu_seconds: Seconds  # of the answering process, all its threads
    kwh: Band | None = None  # None: not measured


class Served(BaseModel):
    """What one model's inferences took; the windows of the compared models took turns on the same inputs."""

    model_config = STRICT
    windows: tuple[Window, ...]
    macs_per_inference: int | None = None
    cpu_seconds_per_1000: Across
    seconds_per_1000: Across
    wh_per_1000: Band | None = None  # the median over the windows of each bound; None: not measured
    wh_per_1000_across: Across | None = None  # of the central estimate


class ServingEnergy(BaseModel):
    """Energy of serving on one machine, models that took turns; `ratio_is_time`: no counter stands behind the CPU.

    Then the model's power follows the load alone, and teacher and student differ in energy as they do in time.
    """

    model_config = STRICT
    unit: Literal["request", "written token"]  # that an inference is
    teacher: Served
    student: Served
    floor: Served | None = None
    tier: str = "unmeasured"
    ratio_is_time: bool = True
    shared_with: str | None = None  # another run that was metered at the same time: it burdens both models alike
    why: str | None = None  # why energy is unmeasured, or only an indication


def wh_of(energy: Kwh) -> Wh:
    """Watt-hours of kilowatt-hours."""
    return Wh(energy * 1000.0)


def kwh_of(energy: Wh) -> Kwh:
    """Kilowatt-hours of watt-hours."""
    return Kwh(energy / 1000.0)


def drawn(power: Watts, seconds: Seconds) -> Kwh:
    """Energy of a power over a time."""
    return Kwh(power * seconds / 3.6e6)


def spread(energy: Kwh, tier: Tier) -> Band:
    """Low, central and high estimate of an energy that this method gave."""
    low, high = SPREAD[tier]
    return Band(low=energy * low, central=energy, high=energy * high)


def scaled(band: Band, factor: float) -> Band:
    """A band in another unit, or of a share."""
    return Band(low=band.low * factor, central=band.central * factor, high=band.high * factor)


def summed(bands: list[Band]) -> Band | None:
    """Sum of bands, None for none: errors of one method go the same way, so bounds add up."""
    if not bands:
        return None
    return Band(
        low=sum([one.low for one in bands]),
        central=sum([one.central for one in bands]),
        high=sum([one.high for one in bands]),
    )
