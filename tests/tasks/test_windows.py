"""Energy of serving: windows that take turns on the same inputs, and what is said where the meter cannot tell."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry.records import Band, Part, Seconds, Served, ServingEnergy, Tier, Window
from tasks import carbon, progress, windows

MODELLED: dict[Part, Tier] = {"cpu": "modelled", "ram": "constant"}
COUNTED: dict[Part, Tier] = {"cpu": "counter", "ram": "constant"}


def band(central: float) -> Band:
    return Band(low=central / 2, central=central, high=central * 2)


def sleeper(seconds: float, seen: list[int]) -> windows.Call:
    def one(place: int) -> int:
        seen.append(place)
        time.sleep(seconds)
        return 2

    return one


def test_models_take_turns_on_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str | None] = []
    monkeypatch.setattr(progress, "window", labels.append)
    slow: list[int] = []
    fast: list[int] = []
    calls = {"teacher": sleeper(0.004, slow), "student": sleeper(0.001, fast)}
    taken = windows.taken(calls, 4, 6, {"teacher": 70, "student": 7}, "request")
    names = [label for label in labels if label]
    assert names[:4] == ["teacher.0", "student.0", "student.1", "teacher.1"] and labels[1::2] == [None] * 10
    assert len(names) == 10 and {name.split(".")[0] for name in names} == {"teacher", "student"}
    assert set(slow) >= set(fast[6:]), "both answer the same inputs"
    teacher, student = taken.teacher, taken.student
    assert teacher.macs_per_inference == 70 and len(teacher.windows) == 5
    assert teacher.seconds_per_1000.least <= teacher.seconds_per_1000.median <= teacher.seconds_per_1000.most
    assert teacher.seconds_per_1000.median >= 2.0
    assert student.seconds_per_1000.median < teacher.seconds_per_1000.median
    assert all(one.seconds >= 6 * 0.004 for one in teacher.windows), "six requests to the slower one"
    assert teacher.cpu_seconds_per_1000.median < 1.0, "it slept"
    assert teacher.wh_per_1000 is None and taken.why == "nobody metered it" and taken.tier == "unmeasured"


def serving(seconds: float) -> ServingEnergy:
    def served(inferences: int) -> Served:
        one = Window(seconds=Seconds(seconds), inferences=inferences, cpu_seconds=Seconds(seconds))
        return windows.summary((one,) * windows.TURNS, None)

    return ServingEnergy(unit="request", teacher=served(100), student=served(400))


def test_energy_comes_from_the_meter_and_says_how_well_it_is_known() -> None:
    kwh = {"teacher.0": 1e-6, "teacher.1": 3e-6, "teacher.2": 2e-6, "teacher.3": 2e-6, "teacher.4": 9e-6}

    def metered(label: str) -> windows.Metered:
        return band(kwh.get(label, 2e-6)), 2.5

    found = windows.filled(serving(2.5), metered, MODELLED, None)
    assert found.teacher.wh_per_1000 == Band(low=0.01, central=0.02, high=0.04)
    assert found.teacher.wh_per_1000_across is not None
    assert (found.teacher.wh_per_1000_across.least, found.teacher.wh_per_1000_across.most) == pytest.approx(
        (0.01, 0.09)
    )
    assert found.student.wh_per_1000 is not None and found.student.wh_per_1000.central == pytest.approx(0.005)
    assert found.ratio_is_time and found.why is None and found.tier == "cpu modelled, ram constant"
    assert not windows.filled(serving(2.5), metered, COUNTED, None).ratio_is_time
    assert windows.filled(serving(2.5), metered, MODELLED, "run other").shared_with == "run other"
    assert "raise `rounds`" in str(windows.filled(serving(0.1), metered, MODELLED, None).why)


def test_a_window_that_was_not_metered_voids_its_model_and_says_so() -> None:
    found = windows.filled(
        serving(2.5), lambda label: (None if label == "teacher.3" else band(1e-6), 2.5), MODELLED, None
    )
    assert found.teacher.wh_per_1000 is None and found.student.wh_per_1000 is not None
    assert found.why == "1 of 10 windows were not metered" and found.tier == "unmeasured"
    assert found.teacher.cpu_seconds_per_1000.median == pytest.approx(25.0)


def test_what_the_stage_says_is_cut_by_the_meter(tmp_path: Path) -> None:
    """The meter's part of the protocol with a reading that grows by itself: a window gets what fell into it."""
    reading: Any = SimpleNamespace(cpu_energy=1e-6, ram_energy=1e-6, gpu_energy=0.0, energy_consumed=2e-6)
    fake = SimpleNamespace(start_task=lambda name: None, stop_task=lambda: reading)
    meter = carbon.Meter(tracker=fake, tiers=MODELLED, samples=tmp_path / "samples.jsonl")

    def answer(place: int) -> int:
        time.sleep(0.005)
        return 1

    with pytest.MonkeyPatch.context() as patch, carbon.measure(meter, "evaluate") as gauge:
        patch.setattr(progress, "window", gauge.cut)
        taken = windows.taken({"teacher": answer, "student": answer}, 4, 4, {"teacher": 1, "student": 1}, "request")
    found = windows.filled(taken, gauge.window, meter.tiers, gauge.shared())
    assert all(one.kwh is not None for each in (found.teacher, found.student) for one in each.windows)
    assert "an indication" in str(found.why) and found.teacher.wh_per_1000 is not None
