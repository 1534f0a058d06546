"""What making a model cost: sums over stages that keep `not measured` apart from 0. (CO2e: registry/carbon.)"""

from collections.abc import Iterable

from pydantic import BaseModel

from registry.records import STRICT, Attempt, Band, Footprint, StageRecord, scaled, summed


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


def total(footprints: Iterable[Footprint]) -> Total:
    """Sum footprints; unmeasured ones are counted and never taken for 0."""
    items = list(footprints)
    bands = [band for item in items if (band := item.kwh or item.at_least_kwh) is not None]
    return Total(
        kwh=summed(bands),
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


def request_wh(power: Footprint, milliseconds: float) -> Band | None:
    """Wh of one request of this latency at the mean power of a measured stage; None when that is unmeasured."""
    if power.kwh is None or power.seconds <= 0.0:
        return None
    return scaled(power.kwh, milliseconds / power.seconds)  # kWh x 1000 for Wh, ms / 1000 for s


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
