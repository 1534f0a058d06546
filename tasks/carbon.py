"""Energy of a stage: one prewarmed CodeCarbon tracker per run in the parent process, read in short slices.

A stage is metered as consecutive slices. Each is appended to the run's samples.jsonl (tasks/meter/samples.py) and
flushed, so that a killed run keeps what it had spent, and no hardware counter can wrap unseen within a slice. The whole
machine is counted, by the one run that holds its slot (tasks/meter/slot.py). PUE and grams are the report's business,
and a measurement that fails in any part is `unmeasured` with the reason, never 0.
"""

import queue
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from registry.records import Band, Footprint, Part, Seconds, Tier
from tasks.meter import samples, slot, summing, tracker
from tasks.meter.summing import SLICE_SECONDS, Idle, Slice, Span

WINDOW_SECONDS = 0.5  # of a slice in a window of serving
IDLE = "idle.json"
END = "\n"  # no window is called so
FIRST_SECONDS = 1.0  # slices grow from here to a meter's own: a kill loses no more than half of a young stage


class Meter(BaseModel):
    """An open meter; `tracker` is None when energy cannot be measured on this machine (`why`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    tracker: Any
    tiers: dict[Part, Tier]
    samples: Path
    slice_seconds: float = SLICE_SECONDS
    idle: Idle | None = None
    slot: Path | None = None  # None: nobody else counts this machine
    name: str = "a run"
    why: str | None = None


def open_meter(
    country: str | None,
    path: Path,
    slice_seconds: float = SLICE_SECONDS,
    home: Path | None = None,
    lock: Path | None = None,
) -> Meter:
    """Start and warm the run's one tracker (about 2 s); a failure gives a meter that says `unmeasured`.

    The machine's idle draw is kept in `home`; `lock` is the machine's slot where it is not the common one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    samples.begin_again(path)
    common = {"samples": path, "slice_seconds": slice_seconds, "slot": lock or slot.place(), "name": path.parent.name}
    try:
        running = tracker.opened(country)
        running.start_task("hardware")  # what stands behind it is known after the first task
        running.stop_task("hardware")
        hardware = running._hardware
        tiers = tracker.tiers_of(hardware)
        idle = tracker.resting(running, tiers, home and home / IDLE, hardware)
        header = tracker.header(hardware, tiers, idle, slice_seconds)
    except Exception as error:  # whatever a third-party meter raises, the run goes on unmeasured
        why = f"the meter did not open ({type(error).__name__}: {error})"
        header = samples.Header(tiers={}, method={}, bands={}, machine={}, slice_seconds=slice_seconds, why=why)
        samples.append(path, samples.line("open", header=header.model_dump(mode="json")))
        return Meter(tracker=None, tiers={}, why=why, **common)
    samples.append(path, samples.line("open", header=header.model_dump(mode="json")))
    return Meter(tracker=running, tiers=tiers, idle=idle, **common)


@dataclass
class Gauge:
    """A go at a stage while it is metered: `cut` begins a window of serving, `footprint` tells what there was."""

    meter: Meter
    stage: str
    attempt: str = field(default_factory=lambda: secrets.token_hex(6))
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    slices: list[Slice] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    asked: "queue.Queue[str | None]" = field(default_factory=queue.Queue)
    died: str | None = None  # why its samples are not whole
    wall: datetime | None = None  # of the slice before

    def cut(self, window: str | None) -> None:
        """From now on slices belong to this window of serving, or to none."""
        self.asked.put(window)

    def footprint(self) -> Footprint:
        """What the go took, once the block has ended, normally or not."""
        ended = time.monotonic() if self.ended is None else self.ended
        span = Span(self.began, ended, self.meter.slice_seconds)
        died = "it is still being metered" if self.ended is None else self.died
        return summing.footprint_of(self.slices, span, self.meter.idle, died, samples.digest(self.lines))

    def window(self, label: str) -> tuple[Band | None, float]:
        """Energy of the machine in a window of serving, None where a reading failed, and its seconds."""
        return summing.of_window(self.slices, label)

    def shared(self) -> str | None:
        """Who else was metered on this machine during a window of serving."""
        return next((one.shared for one in self.slices if one.window and one.shared), None)


@contextmanager
def measure(meter: Meter, stage: str = "stage") -> Iterator[Gauge]:
    """Meter the block; the yielded gauge gives its Footprint once the block has ended, normally or not.

    >>> with measure(meter, "distill") as gauge: ...
    >>> gauge.footprint().kwh
    """
    gauge = Gauge(meter, stage)
    _note(gauge, samples.line("begin", stage=stage, attempt=gauge.attempt, monotonic=gauge.began))
    thread = threading.Thread(target=_read, args=(gauge,), daemon=True)
    thread.start()
    outcome = "failed"
    try:
        yield gauge
        outcome = "finished"
    finally:
        gauge.cut(END)
        thread.join()
        gauge.ended = time.monotonic()
        told = {"stage": stage, "attempt": gauge.attempt, "monotonic": gauge.ended, "outcome": outcome}
        _note(gauge, samples.line("end", **told, footprint=gauge.footprint().model_dump(mode="json")))


def _read(gauge: Gauge) -> None:
    """The thread that reads slice after slice; it says why when it cannot go on."""
    held: int | str = "" if gauge.meter.slot else -1
    try:
        window: str | None = None
        while window != END:
            if isinstance(held, str) and gauge.meter.slot:
                held = slot.take(gauge.meter.slot, f"run {gauge.meter.name}")
            window = _slice(gauge, window, held if isinstance(held, str) else None)
    except BaseException as error:
        gauge.died = f"the meter died ({type(error).__name__}: {error})"
    finally:
        if isinstance(held, int) and gauge.meter.slot:
            slot.leave(held)


def _slice(gauge: Gauge, window: str | None, shared: str | None) -> str | None:
    """Meter until a window begins or ends, the stage ends, or the slice is over; returns the next slice's window."""
    meter, began = gauge.meter, time.monotonic()
    why = meter.why
    if meter.tracker is not None:
        try:
            meter.tracker.start_task(f"{gauge.stage}-{time.monotonic_ns()}")
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
    following = window
    with suppress(queue.Empty):
        young = WINDOW_SECONDS if window else max(FIRST_SECONDS, began - gauge.began)
        following = gauge.asked.get(timeout=min(meter.slice_seconds, young))
    kwh = None
    if why is None:
        try:
            kwh = tracker.read(meter.tracker, meter.tiers)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
    ended = time.monotonic()
    told = {"window": window, "shared": shared, "clock": _clock(gauge), "why": why}
    read = Slice(seconds=Seconds(ended - began), monotonic=ended, tiers=meter.tiers, kwh=kwh, **told)
    text = samples.line("slice", stage=gauge.stage, attempt=gauge.attempt, slice=_plain(read))
    gauge.slices.append(read)
    gauge.lines.append(text)
    _note(gauge, text)
    return following


def _plain(read: Slice) -> dict[str, Any]:
    """A slice as its line has it: `kwh` is there even where it is null."""
    return read.model_dump(mode="json", exclude_none=True) | {"kwh": read.kwh}


def _clock(gauge: Gauge) -> str | None:
    """What the wall clock did between two slices, where it went back: kept and marked, times are the other clock's."""
    before, gauge.wall = gauge.wall, samples.now()
    if before is None or gauge.wall >= before:
        return None
    return f"went back by {(before - gauge.wall).total_seconds():.3f} s"


def _note(gauge: Gauge, text: str) -> None:
    gauge.died = samples.append(gauge.meter.samples, text) or gauge.died
