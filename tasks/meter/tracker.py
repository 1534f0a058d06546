"""CodeCarbon's tracker, opened and described: which method stands behind each part, and what was assumed."""

import json
import logging
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from registry.records import PARTS, SPREAD_FROM, Kwh, Part, Seconds, Tier, Watts
from tasks.meter import samples
from tasks.meter.samples import Header
from tasks.meter.summing import QUIET, Idle

PLACEHOLDER_COUNTRY = "CHE"  # the tracker demands one; its emissions are never read
COUNTER_MODES = ("intel_rapl", "windows_emi", "intel_power_gadget")
WATTS_A_THREAD = 4  # CodeCarbon's, for a processor that its table does not have
IDLE_SECONDS = 1.0
LOOK_SECONDS = 3.0  # between two looks at the load within a slice, whose power the model takes the mean of


def opened(country: str | None) -> Any:
    """A tracker of the whole machine that keeps to itself: no files, no network, no PUE."""
    import codecarbon

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    running = codecarbon.OfflineEmissionsTracker(
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
    running._scheduler_monitor_power.interval = LOOK_SECONDS  # its own, a second, takes 3 CPU seconds an hour
    return running


def read(tracker: Any, tiers: dict[Part, Tier]) -> dict[Part, Kwh]:
    """End the tracker's task; kWh of each part in it. RuntimeError where it returns nothing."""
    data = tracker.stop_task()
    if data is None or not data.energy_consumed > 0.0:
        raise RuntimeError("the tracker returned nothing")
    found = {"cpu": data.cpu_energy, "ram": data.ram_energy, "gpu": data.gpu_energy}
    return {part: Kwh(float(found[part])) for part in tiers}


def tiers_of(hardware: list[Any]) -> dict[Part, Tier]:
    """Which method stands behind each part: a hardware counter, a model of load, or a constant."""
    tiers: dict[Part, Tier] = {}
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


def header(hardware: list[Any], tiers: dict[Part, Tier], idle: Idle | None, slice_seconds: float) -> Header:
    """What is metered by which method, in sentences."""
    return Header(
        tiers=tiers,
        method={part: _method(part, tiers[part], hardware) for part in tiers},
        bands={part: SPREAD_FROM[tiers[part]] for part in tiers},
        machine=machine(hardware),
        slice_seconds=slice_seconds,
        idle=idle,
    )


def machine(hardware: list[Any]) -> dict[str, Any]:
    """The machine as it could be seen from inside."""
    cpu = next((item for item in hardware if type(item).__name__ == "CPU"), None)
    return {
        "cpu": str(cpu._model) if cpu else None,
        "threads_seen": psutil.cpu_count(),
        "virtual": _virtual(),
        "tdp_watts": float(cpu._tdp) if cpu and cpu._tdp else None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
    }


def resting(tracker: Any, tiers: dict[Part, Tier], kept: Path | None, hardware: list[Any]) -> Idle | None:
    """The machine's idle draw: as measured here before, else now for a second.

    One that was taken at work is taken again until the machine was quiet, and the lower one kept.
    """
    about = machine(hardware)
    name = f"{platform.node()}: {about['cpu']}, {about['threads_seen']} threads"
    before = _kept(kept, name)
    if kept is None or (before is not None and before.load <= QUIET):
        return before
    busy, began = psutil.cpu_times(), time.monotonic()
    tracker.start_task("idle")
    time.sleep(IDLE_SECONDS)
    energy, seconds = read(tracker, tiers), time.monotonic() - began
    now = Idle(
        at=samples.now().isoformat(timespec="seconds"),
        seconds=Seconds(seconds),
        load=_load(busy, psutil.cpu_times()),
        watts={part: Watts(kwh * 3.6e6 / seconds) for part, kwh in energy.items()},
        tiers=tiers,
        machine=name,
    )
    if before is not None and sum(before.watts.values()) <= sum(now.watts.values()):
        return before
    partial = kept.with_name(f".{kept.name}.{os.getpid()}")
    with suppress(OSError):
        partial.write_text(now.model_dump_json(indent=1))
        partial.rename(kept)
    return now


def _kept(path: Path | None, name: str) -> Idle | None:
    if path is None or not path.is_file():
        return None
    try:
        found = Idle.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return found if found.machine == name else None


def _load(before: Any, after: Any) -> float:
    whole = sum(after[:8]) - sum(before[:8])  # without guests' time, which user and nice hold already
    idle = after.idle - before.idle + getattr(after, "iowait", 0.0) - getattr(before, "iowait", 0.0)
    return float(min(1.0, max(0.0, 1.0 - idle / whole))) if whole > 0 else 1.0


def _virtual() -> bool | None:
    with suppress(OSError):
        return " hypervisor" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return None


def _method(part: Part, how: Tier, hardware: list[Any]) -> str:
    """A sentence on one part."""
    about = machine(hardware)
    if part == "ram":
        return f"a constant for the {about['memory_gb']} GB seen, at CodeCarbon's 5 W for each module it guesses"
    if part == "gpu" or how == "counter":
        return "hardware counters of the whole device, whoever uses it"
    tdp, threads = about["tdp_watts"], about["threads_seen"]
    if tdp == WATTS_A_THREAD * threads:
        took = f"no power is known for '{about['cpu']}', so {WATTS_A_THREAD} W for each of the {threads} threads seen"
    else:
        took = f"{tdp:g} W for '{about['cpu']}' at full load, with {threads} threads seen"
    share = "; this machine is virtual and its host's threads are unknown: it is counted as if it had no neighbours"
    return f"CodeCarbon's model of load and power: {took}{share if about['virtual'] else ''}"
