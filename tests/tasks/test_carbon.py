"""The meter: sums of parts, bands, and `unmeasured` with the reason instead of 0 whatever the tracker does."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry.records import Kwh, Part, Tier
from tasks import carbon
from tasks.meter import samples, slot, summing, tracker
from tasks.meter.summing import Idle, Slice, Span, footprint_of

TIERS: dict[Part, Tier] = {"cpu": "modelled", "ram": "constant"}
PROGRAM = """
import sys, time
from pathlib import Path
from tasks import carbon
folder, slot, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
meter = carbon.open_meter(None, folder / "samples.jsonl", 0.2, lock=slot)
assert meter.tracker is not None, meter.why
print("open", flush=True)
sys.stdin.readline()
with carbon.measure(meter, "distill") as gauge:
    time.sleep(seconds)
print(gauge.footprint().model_dump_json(), flush=True)
"""


def fake(stop: Any) -> Any:
    return SimpleNamespace(start_task=lambda name: None, stop_task=stop)


def reading(cpu: float = 1e-6, ram: float = 2e-6) -> Any:
    return SimpleNamespace(duration=1.0, cpu_energy=cpu, ram_energy=ram, gpu_energy=0.0, energy_consumed=cpu + ram)


def events(path: Path, event: str) -> list[dict[str, Any]]:
    return [told for text in path.read_text().splitlines() if (told := json.loads(text))["event"] == event]


def metered(folder: Path, stop: Any, **more: Any) -> carbon.Meter:
    return carbon.Meter(tracker=fake(stop), tiers=TIERS, samples=folder / "samples.jsonl", slice_seconds=0.05, **more)


def piece(end: float, seconds: float = 1.0, **more: Any) -> Slice:
    kwh: dict[Part, Kwh] = {"cpu": Kwh(1e-6), "ram": Kwh(2e-6)}
    return Slice.model_validate({"seconds": seconds, "monotonic": end, "tiers": TIERS, "kwh": kwh, **more})


def test_slices_add_up_and_are_written(tmp_path: Path) -> None:
    meter = metered(tmp_path, reading)
    with carbon.measure(meter, "distill") as gauge:
        time.sleep(0.18)
    result, slices = gauge.footprint(), events(meter.samples, "slice")
    assert len(slices) >= 2 and slices[0]["stage"] == "distill"
    assert result.kwh is not None and result.cpu_kwh is not None and result.ram_kwh is not None
    assert math.isclose(result.kwh.central, 3e-6 * len(slices))
    assert math.isclose(result.kwh.central, result.cpu_kwh + result.ram_kwh)
    assert result.kwh.low == pytest.approx(sum(part.kwh.low for part in result.components.values()))
    assert result.kwh.low < result.kwh.central < result.kwh.high
    assert result.tier == "cpu modelled, ram constant"
    assert result.gpu_kwh is None and result.why is None
    assert math.isclose(sum(one["slice"]["seconds"] for one in slices), result.seconds, rel_tol=0.5)


def explode() -> Any:
    raise RuntimeError("no counter")


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        (lambda: None, "the tracker returned nothing"),
        (explode, "1 of 1 readings failed: RuntimeError: no counter"),
        (lambda: reading(0.0, 0.0), "the tracker returned nothing"),
        (lambda: reading(cpu=0.0), "the meter of cpu shows nothing"),
    ],
)
def test_failures_are_unmeasured_never_zero(tmp_path: Path, stop: Any, why: str) -> None:
    with carbon.measure(metered(tmp_path, stop), "x") as gauge:
        pass
    result = gauge.footprint()
    assert result.kwh is None and result.tier == "unmeasured" and result.seconds > 0.0
    assert why in str(result.why)


def test_what_is_missing_voids_the_stage_and_leaves_a_lower_bound() -> None:
    span = Span(0.0, 3.0, 1.0)
    lost = footprint_of([piece(1.0), piece(2.0, kwh=None, why="no counter"), piece(3.0)], span)
    assert lost.kwh is None and lost.why == "1 of 3 readings failed: no counter"
    assert lost.at_least_kwh is not None and lost.at_least_kwh.central == pytest.approx(6e-6)
    assert footprint_of([piece(1.0), piece(2.0), piece(3.0)], span).kwh is not None
    assert footprint_of([piece(1.0), piece(3.5)], Span(0.0, 3.5, 1.0)).kwh is not None
    gap = footprint_of([piece(1.0), piece(9.0)], Span(0.0, 9.0, 1.0))
    assert gap.kwh is None and gap.why == "no reading for 7 s"
    assert footprint_of([piece(1.0)], Span(0.0, 60.0, 1.0)).why == "no reading for 59 s"
    assert footprint_of([], span).why == "nothing was read"
    gpu = footprint_of([piece(1.0, tiers={**TIERS, "gpu": "counter"})], span._replace(ended=2.0))
    assert gpu.kwh is None and "gpu" in str(gpu.why)


def test_no_tracker_and_an_error_in_the_stage(tmp_path: Path) -> None:
    meter = carbon.Meter(tracker=None, tiers={}, samples=tmp_path / "s.jsonl", why="no meter here")
    with pytest.raises(KeyError), carbon.measure(meter, "x") as gauge:
        raise KeyError("stage")
    assert gauge.footprint().kwh is None and "no meter here" in str(gauge.footprint().why)
    assert events(meter.samples, "end")[0]["outcome"] == "failed"


def test_open_meter_survives_a_broken_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "opened", lambda country: fake(lambda name: None))
    meter = carbon.open_meter(None, tmp_path / "deep" / "s.jsonl", lock=tmp_path / "slot")
    assert meter.tracker is None
    assert "did not open" in events(meter.samples, "open")[0]["header"]["why"]


def test_a_meter_that_dies_in_the_middle_leaves_unmeasured(tmp_path: Path) -> None:
    left = [reading(), reading()]

    def stop() -> Any:
        if not left:
            raise SystemExit("the thread is gone")
        return left.pop()

    with carbon.measure(metered(tmp_path, stop), "x") as gauge:
        time.sleep(0.25)
    result = gauge.footprint()
    assert result.kwh is None and "the meter died (SystemExit: the thread is gone)" in str(result.why)
    assert result.at_least_kwh is not None and result.at_least_kwh.central == pytest.approx(6e-6)


def test_samples_that_cannot_be_written_leave_unmeasured(tmp_path: Path) -> None:
    meter = metered(tmp_path, reading)
    with carbon.measure(meter, "x") as gauge:
        time.sleep(0.12)
        meter.samples.rename(tmp_path / "aside")
        meter.samples.mkdir()
        time.sleep(0.12)
    result = gauge.footprint()
    assert result.kwh is None and "its samples could not be written (Is a directory)" in str(result.why)


def test_a_clock_that_goes_back_is_marked_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, told = datetime(2026, 1, 1, tzinfo=UTC), iter(range(10_000))

    def back() -> datetime:
        count = next(told)
        return begin + timedelta(seconds=count) - (timedelta(hours=1) if count > 6 else timedelta())

    monkeypatch.setattr(samples, "now", back)
    meter = metered(tmp_path, reading)
    with carbon.measure(meter, "x") as gauge:
        time.sleep(0.3)
    result, slices = gauge.footprint(), events(meter.samples, "slice")
    marks = [str(one["slice"]["clock"]) for one in slices if "clock" in one["slice"]]
    assert len(marks) == 1 and marks[0].startswith("went back by 359")
    assert result.kwh is not None and math.isclose(result.kwh.central, 3e-6 * len(slices))
    assert 0.3 <= result.seconds < 5.0


def test_tiers() -> None:
    cpu = type("CPU", (), {"_mode": "intel_rapl"})()
    gpu = type("GPU", (), {})()
    ram = type("RAM", (), {})()
    assert tracker.tiers_of([cpu, gpu, ram]) == {"cpu": "counter", "gpu": "counter", "ram": "constant"}


def test_real_tracker_says_what_it_measures_and_how(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    meter = carbon.open_meter(None, tmp_path / "s.jsonl", slice_seconds=0.3, home=tmp_path, lock=tmp_path / "slot")
    assert meter.tracker is not None
    with carbon.measure(meter, "sleep") as gauge:
        time.sleep(0.7)
    result = gauge.footprint()
    assert result.kwh is not None and result.kwh.central > 0.0
    assert result.seconds < 3.0
    assert meter.idle is not None and sum(meter.idle.watts.values()) > 0.0 and (tmp_path / carbon.IDLE).is_file()
    assert (result.idle_kwh is not None) == (meter.idle.load <= summing.QUIET)
    assert "codecarbon" not in capfd.readouterr().err
    header = events(meter.samples, "open")[0]["header"]
    assert set(header["method"]) == set(header["bands"]) == set(header["tiers"]) == set(meter.tiers)
    assert header["machine"]["threads_seen"] == os.cpu_count() and header["idle"]["load"] <= 1.0
    if meter.tiers["cpu"] == "modelled":
        assert "threads seen" in header["method"]["cpu"]
    (go,) = samples.goes(meter.samples)
    assert samples.digest(go.lines) == result.samples and go.ended
    assert samples.lost(meter.samples, {result.samples}) == []


def test_idle_draw_is_told_beside_and_only_of_a_machine_that_was_idle() -> None:
    span = Span(0.0, 1.0, 1.0)
    watts = {"cpu": 1.8, "ram": 3.6}
    told = {"at": "then", "seconds": 1.0, "watts": watts, "tiers": TIERS, "machine": "here"}
    quiet, busy = (Idle.model_validate({**told, "load": load}) for load in (0.05, 0.8))
    bare, beside = footprint_of([piece(1.0)], span), footprint_of([piece(1.0)], span, quiet)
    assert beside.idle_kwh is not None and beside.idle_kwh.central == pytest.approx(5.4 / 3.6e6)
    assert beside.kwh == bare.kwh, "it is never subtracted"
    assert footprint_of([piece(1.0)], span, busy).idle_kwh is None


def test_an_idle_draw_taken_at_work_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "IDLE_SECONDS", 0.05)
    running, kept = fake(reading), tmp_path / "idle.json"
    first = tracker.resting(running, TIERS, kept, [])
    assert first is not None and Idle.model_validate_json(kept.read_text()) == first
    kept.write_text(first.model_copy(update={"load": 0.01, "at": "kept"}).model_dump_json())
    assert (again := tracker.resting(running, TIERS, kept, [])) and again.at == "kept", "once is enough"
    more = dict.fromkeys(TIERS, 9999.0)
    kept.write_text(first.model_copy(update={"load": 0.9, "at": "kept", "watts": more}).model_dump_json())
    assert (lower := tracker.resting(running, TIERS, kept, [])) and lower.at != "kept"


def test_counters_are_read_through_a_wrap_around(tmp_path: Path) -> None:
    """A tree like the kernel's, since no machine of ours shows its own: 100 J, of them some behind the wrap."""
    from codecarbon.external.hardware import CPU

    domain = tmp_path / "powercap" / "intel-rapl" / "intel-rapl:0"
    domain.mkdir(parents=True)
    for name, value in (("name", "package-0"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "262143000000")):
        (domain / name).write_text(value)
    running = tracker.opened(None)
    running.start_task("first")
    running.stop_task("first")
    counted = CPU(str(tmp_path), "intel_rapl", "a processor", 65, rapl_dir=str(domain.parent))
    running._hardware = [item for item in running._hardware if type(item).__name__ == "RAM"] + [counted]
    tiers = tracker.tiers_of(running._hardware)
    assert tiers == {"ram": "constant", "cpu": "counter"}
    meter = carbon.Meter(tracker=running, tiers=tiers, samples=tmp_path / "samples.jsonl")
    with carbon.measure(meter, "train") as gauge:
        time.sleep(0.2)
        (domain / "energy_uj").write_text(str(100_000_000 - (262143328850 - 262143000000)))
        gauge.cut(None)
        time.sleep(0.2)
    result = gauge.footprint()
    assert result.cpu_kwh == pytest.approx(100.0 / 3.6e6) and result.tier == "cpu counter, ram constant"
    assert result.components["cpu"].kwh.high == pytest.approx(1.05 * 100.0 / 3.6e6)


def test_the_slot_names_its_holder_and_believes_no_link(tmp_path: Path) -> None:
    path = tmp_path / "slot"
    held = slot.take(path, "run\none")
    assert isinstance(held, int) and path.stat().st_mode & 0o777 == 0o666, "other users' runs write their names, too"
    assert slot.take(path, "run two") == "runone"
    slot.leave(held)
    again = slot.take(path, "run two")
    assert isinstance(again, int)
    slot.leave(again)
    (tmp_path / "link").symlink_to(tmp_path / "somewhere")
    said = slot.take(tmp_path / "link", "run three")
    assert isinstance(said, str) and "cannot be opened" in said and not (tmp_path / "somewhere").exists()
    assert slot.place().name == "shrink-meter.lock" and slot.place().is_absolute()


def program(folder: Path, lock: Path, seconds: float) -> "subprocess.Popen[str]":
    folder.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(folder), str(lock), str(seconds)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_at_once_count_the_machine_once(tmp_path: Path) -> None:
    lock = tmp_path / "slot"
    with program(tmp_path / "first", lock, 2.0) as first, program(tmp_path / "second", lock, 2.5) as second:
        assert said(first) == said(second) == "open\n"
        go_on(first)
        time.sleep(0.3)
        go_on(second)
        one, other = (json.loads(said(process)) for process in (first, second))
    assert one["kwh"] is not None and one["shared_kwh"] is None and one["why"] is None
    assert other["kwh"] is None and "which held the machine's meter" in other["why"] and "run first" in other["why"]
    assert other["at_least_kwh"] is not None, "it counts on where the first one ended"
    mine, theirs = (samples.goes(tmp_path / name / "samples.jsonl")[0].slices for name in ("first", "second"))
    counted = sorted((own.monotonic - own.seconds, own.monotonic) for own in (*mine, *theirs) if own.shared is None)
    assert all(before[1] <= after[0] for before, after in pairwise(counted)), "nobody counts what another counts"
    assert any(own.shared for own in theirs)
    total = one["kwh"]["central"] + other["at_least_kwh"]["central"]
    assert other["shared_kwh"]["central"] > 0.2 * total, "the overlap, which would have counted twice"


def test_what_a_killed_process_had_spent_is_known(tmp_path: Path) -> None:
    path = tmp_path / "run" / "samples.jsonl"
    with program(tmp_path / "run", tmp_path / "slot", 60.0) as process:
        assert said(process) == "open\n"
        go_on(process)
        while not path.is_file() or path.read_text().count('"slice"') < 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    with path.open("a") as stream:
        stream.write('{"schema": 1, "event": "sl')  # what a killed writer leaves
    read = events_of(path)
    (attempt,) = samples.lost(path, set())
    footprint = attempt.footprint
    assert attempt.ended == "killed" and attempt.stage == "distill" and footprint.kwh is None
    assert footprint.at_least_kwh is not None
    assert footprint.at_least_kwh.central == pytest.approx(sum(sum(one["slice"]["kwh"].values()) for one in read))
    assert "after its last sample, 0.2 s at most" in str(footprint.why)
    assert samples.lost(path, {footprint.samples}) == []
    meter = carbon.open_meter(None, path, lock=tmp_path / "slot")  # the run goes on: its slot is free again
    with carbon.measure(meter, "distill") as gauge:
        time.sleep(0.1)
    assert gauge.footprint().kwh is not None
    assert samples.lost(path, {gauge.footprint().samples}) == [attempt]


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines() if '"event": "slice"' in text]


def test_windows_of_serving_are_cut_out(tmp_path: Path) -> None:
    with carbon.measure(metered(tmp_path, reading), "evaluate") as gauge:
        gauge.cut("teacher.0")
        time.sleep(0.12)
        gauge.cut(None)
        time.sleep(0.05)
    (band, seconds), count = gauge.window("teacher.0"), sum(one.window == "teacher.0" for one in gauge.slices)
    assert band is not None and band.central == pytest.approx(3e-6 * count) and count >= 2
    assert 0.1 < seconds < gauge.footprint().seconds
    assert gauge.window("student.0") == (None, 0)
    assert summing.of_window([piece(1.0, window="a"), piece(2.0, window="a", kwh=None)], "a") == (None, 2.0)
