"""The meter: sums of parts, bands, and `unmeasured` instead of 0 whatever the tracker does."""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import carbon

TIERS = {"cpu": "modelled", "ram": "constant"}


def fake(stop: Any) -> Any:
    return SimpleNamespace(start_task=lambda name: None, stop_task=stop)


def reading(cpu: float = 1e-6, ram: float = 2e-6) -> Any:
    return SimpleNamespace(duration=1.0, cpu_energy=cpu, ram_energy=ram, gpu_energy=0.0, energy_consumed=cpu + ram)


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_slices_add_up_and_are_written(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    meter = carbon.Meter(tracker=fake(reading), tiers=TIERS, samples=samples, slice_seconds=0.05)
    with carbon.measure(meter, "distill") as footprint:
        time.sleep(0.18)
    result = footprint()
    slices = [event for event in events(samples) if event["event"] == "slice"]
    assert len(slices) >= 2
    assert result.kwh is not None and result.cpu_kwh is not None and result.ram_kwh is not None
    assert math.isclose(result.kwh.central, 3e-6 * len(slices))
    assert math.isclose(result.kwh.central, result.cpu_kwh + result.ram_kwh)
    assert result.kwh.low < result.kwh.central < result.kwh.high
    assert result.tier == "cpu modelled, ram constant"
    assert result.gpu_kwh is None


def explode() -> Any:
    raise RuntimeError("no counter")


@pytest.mark.parametrize("stop", [lambda: None, explode, lambda: reading(0.0, 0.0), lambda: reading(cpu=0.0)])
def test_failures_are_unmeasured_never_zero(tmp_path: Path, stop: Any) -> None:
    meter = carbon.Meter(tracker=fake(stop), tiers=TIERS, samples=tmp_path / "s.jsonl")
    with carbon.measure(meter, "x") as footprint:
        pass
    assert footprint().kwh is None
    assert footprint().tier == "unmeasured"
    assert footprint().seconds > 0.0


def test_one_lost_slice_voids_the_stage() -> None:
    good = carbon.Slice(seconds=1.0, cpu=1.0, ram=1.0, gpu=0.0)
    assert carbon.footprint_of([good, None], 2.0, TIERS).kwh is None
    assert carbon.footprint_of([good], 2.0, {**TIERS, "gpu": "counter"}).kwh is None


def test_no_tracker_and_an_error_in_the_stage(tmp_path: Path) -> None:
    meter = carbon.Meter(tracker=None, tiers={}, samples=tmp_path / "s.jsonl")
    with pytest.raises(KeyError), carbon.measure(meter, "x") as footprint:
        raise KeyError("stage")
    assert footprint().kwh is None


def test_open_meter_survives_a_broken_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carbon, "_tracker", lambda country: fake(lambda name: None))
    meter = carbon.open_meter(None, tmp_path / "deep" / "s.jsonl")
    assert meter.tracker is None
    assert events(meter.samples)[0]["event"] == "unmeasured"


def test_tiers() -> None:
    cpu = type("CPU", (), {"_mode": "intel_rapl"})()
    gpu = type("GPU", (), {})()
    ram = type("RAM", (), {})()
    assert carbon.tiers_of([cpu, gpu, ram]) == {"cpu": "counter", "gpu": "counter", "ram": "constant"}


def test_real_tracker_measures_something(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    meter = carbon.open_meter(None, tmp_path / "s.jsonl", slice_seconds=0.3)
    assert meter.tracker is not None
    with carbon.measure(meter, "sleep") as footprint:
        time.sleep(0.7)
    result = footprint()
    assert result.kwh is not None and result.kwh.central > 0.0
    assert result.seconds < 3.0
    assert "codecarbon" not in capfd.readouterr().err
