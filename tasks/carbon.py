"""Energy of a stage: one prewarmed CodeCarbon tracker per run in the parent process, read in short slices.

A stage is measured as consecutive start_task/stop_task slices. Each slice is appended to a JSON Lines file and
flushed, so that a killed run keeps what it had spent, and no hardware counter can wrap unseen within a slice.
The whole machine is counted (machine mode): hold a meter slot while measuring. PUE and grams are the report's
business, and a measurement that fails in any part is `unmeasured`, never 0.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from registry.records import Band, Footprint

SLICE_SECONDS = 15.0
PLACEHOLDER_COUNTRY = "CHE"  # the tracker demands one; its emissions are never read
PARTS = ("cpu", "ram", "gpu")
# How far the truth may lie from a reading, as factors (low, high). Counters: a few per cent by their makers.
# Modelled CPU: TDP x load differs 2.5 x between CodeCarbon's own two modes. RAM: 5 W a guessed module, while
# idle modules take about 1 W and busy ones up to 7 W.
SPREAD: dict[str, tuple[float, float]] = {"counter": (0.95, 1.05), "modelled": (0.4, 2.5), "constant": (0.2, 1.5)}
COUNTER_MODES = ("intel_rapl", "windows_emi", "intel_power_gadget")


class Meter(BaseModel):
    """An open meter; `tracker` is None when energy cannot be measured on this machine, `tiers` part -> method."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    tracker: Any
    tiers: dict[str, str]
    samples: Path
    slice_seconds: float = SLICE_SECONDS


class Slice(BaseModel):
    """Energy of one start_task/stop_task slice in kWh, before PUE."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seconds: float
    cpu: float
    ram: float
    gpu: float


def open_meter(country: str | None, samples: Path, slice_seconds: float = SLICE_SECONDS) -> Meter:
    """Start and warm the run's one tracker (about 2 s); a failure gives a meter that says `unmeasured`."""
    samples.parent.mkdir(parents=True, exist_ok=True)
    try:
        tracker = _tracker(country)
        tracker.start_task("warm-up")
        if tracker.stop_task("warm-up") is None:
            raise RuntimeError("the tracker returned nothing")
        tiers = tiers_of(tracker._hardware)
    except Exception as error:  # whatever a third-party meter raises, the run goes on unmeasured
        _append(samples, {"event": "unmeasured", "why": f"{type(error).__name__}: {error}"})
        return Meter(tracker=None, tiers={}, samples=samples, slice_seconds=slice_seconds)
    _append(samples, {"event": "open", "tiers": tiers, "mode": "machine", "pue": 1.0})
    return Meter(tracker=tracker, tiers=tiers, samples=samples, slice_seconds=slice_seconds)


@contextmanager
def measure(meter: Meter, stage: str = "stage") -> Iterator[Callable[[], Footprint]]:
    """Meter the block; the yielded function gives its Footprint once the block has ended, normally or not.

    >>> with measure(meter, "distill") as footprint: ...
    >>> footprint().kwh
    """
    stop = threading.Event()
    slices: list[Slice | None] = []
    began = time.perf_counter()
    ended: list[float] = []
    opened = _begin(meter, stage)
    thread = threading.Thread(target=_slice_loop, args=(meter, stage, slices, stop, opened), daemon=True)
    thread.start()

    def footprint() -> Footprint:
        seconds = (ended[0] if ended else time.perf_counter()) - began
        return footprint_of(slices if ended else [None], seconds, meter.tiers)

    try:
        yield footprint
    finally:
        stop.set()
        thread.join()
        ended.append(time.perf_counter())
        summary = footprint()
        _append(meter.samples, {"event": "stage", "stage": stage, "footprint": summary.model_dump()})


def footprint_of(slices: list[Slice | None], seconds: float, tiers: dict[str, str]) -> Footprint:
    """Add slices up to a Footprint; one missing slice, or a part that must draw power and shows none, voids it."""
    whole = [item for item in slices if item is not None]
    sums = {part: sum(getattr(item, part) for item in whole) for part in PARTS if part in tiers}
    dead = [part for part in ("cpu", "ram") if not sums.get(part, 0.0) > 0.0]
    if seconds > 1.0 and "gpu" in sums and not sums["gpu"] > 0.0:
        dead.append("gpu")
    if not whole or len(whole) != len(slices) or dead:
        return Footprint(kwh=None, seconds=seconds, tier="unmeasured")
    return Footprint(
        kwh=band_of(sums, tiers),
        seconds=seconds,
        cpu_kwh=sums["cpu"],
        ram_kwh=sums["ram"],
        gpu_kwh=sums.get("gpu"),
        tier=", ".join(f"{part} {tiers[part]}" for part in PARTS if part in tiers),
    )


def band_of(sums: dict[str, float], tiers: dict[str, str]) -> Band:
    """Low, central and high estimate of the sum of parts; each part spreads by its method."""
    low = sum(value * SPREAD[tiers[part]][0] for part, value in sums.items())
    high = sum(value * SPREAD[tiers[part]][1] for part, value in sums.items())
    return Band(low=low, central=sum(sums.values()), high=high)


def tiers_of(hardware: list[Any]) -> dict[str, str]:
    """Which method stands behind each part: a hardware counter, a model of load, or a constant."""
    tiers: dict[str, str] = {}
    for item in hardware:
        name = type(item).__name__
        part = str(getattr(item, "chip_part", name)).lower()
        if name == "CPU":
            mode = str(item._mode)
            tiers["cpu"] = "counter" if mode in COUNTER_MODES else "constant" if mode == "constant" else "modelled"
        elif name == "RAM":
            tiers["ram"] = "constant"
        elif part in PARTS:
            tiers[part] = "counter"  # NVML, amdsmi, a power-management chip or PowerMetrics
    return tiers


def _tracker(country: str | None) -> Any:
    import codecarbon

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    return codecarbon.OfflineEmissionsTracker(
        country_iso_code=country or PLACEHOLDER_COUNTRY,
        tracking_mode="machine",
        allow_multiple_runs=True,
        output_methods=[],
        output_handlers=[],
        emissions_endpoint=None,
        electricitymaps_api_token=None,
        cloud_provider=None,
        cloud_region=None,
        region=None,
        force_cpu_power=None,
        force_ram_power=None,
        pue=1.0,
        wue=0.0,
        log_level="critical",
    )


def _slice_loop(meter: Meter, stage: str, slices: list[Slice | None], stop: threading.Event, opened: bool) -> None:
    while True:
        last = stop.wait(meter.slice_seconds)
        reading = _end(meter) if opened else None
        slices.append(reading)
        _append(meter.samples, {"event": "slice", "stage": stage, "kwh": reading and reading.model_dump()})
        if last:
            return
        opened = _begin(meter, stage)


def _begin(meter: Meter, stage: str) -> bool:
    if meter.tracker is None:
        return False
    try:
        meter.tracker.start_task(f"{stage}-{time.monotonic_ns()}")
    except Exception:
        return False
    return True


def _end(meter: Meter) -> Slice | None:
    try:
        data = meter.tracker.stop_task()
        if data is None or not data.energy_consumed > 0.0:
            return None
        return Slice(seconds=data.duration, cpu=data.cpu_energy, ram=data.ram_energy, gpu=data.gpu_energy)
    except Exception:
        return None


def _append(path: Path, event: dict[str, Any]) -> None:
    line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **event}, sort_keys=True)
    with suppress(OSError), path.open("a", encoding="utf-8") as stream:  # a full disk must not stop the metering
        stream.write(line + "\n")
        stream.flush()
