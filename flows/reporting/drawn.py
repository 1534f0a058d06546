"""When a stage's energy was drawn: by its raw samples where the intensity changed meanwhile, else by its own time.

A sample's moment is its go's begin by the wall clock plus what the clock that never goes back says since.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from registry.carbon.emissions import Used, at_end
from registry.carbon.factors import Layer, steady
from registry.records import Footprint, spread, summed
from tasks.meter import samples
from tasks.meter.samples import Go

MARGIN = timedelta(minutes=1)  # a record's begin is written in seconds, and by another clock than its samples
Read = Callable[[Path], dict[str, Go]]


def reader() -> Read:
    """A function that gives the goes of a samples.jsonl by the digest of their lines, reading each file once."""
    return cache(lambda path: {samples.digest(go.lines): go for go in samples.goes(path)})


def drawn(started: str, footprint: Footprint, path: Path | None, layers: tuple[Layer, ...], read: Read) -> list[Used]:
    """The energy of an execution with its times, nothing where it was not measured; `path` is its run's samples.jsonl.

    Of a stage without samples, as older runs have them, the energy counts as evenly drawn over its time.
    """
    kwh = footprint.kwh or footprint.at_least_kwh
    if kwh is None:
        return []
    start = moment(started)
    end = start + timedelta(seconds=footprint.seconds)
    if path is not None and footprint.samples and not steady(layers, start - MARGIN, end + MARGIN):
        go = read(path).get(footprint.samples)
        if go is not None:
            return pieces(go)
    return [Used(start=start, seconds=footprint.seconds, kwh=kwh)]


def pieces(go: Go) -> list[Used]:
    """What was read in a go at a stage and counts in its run, sample by sample."""
    began, found = moment(go.at), list[Used]()
    for one in go.slices:
        if one.kwh is None or one.shared is not None:
            continue
        kwh = summed([spread(energy, one.tiers[part]) for part, energy in one.kwh.items()])
        if kwh is not None:
            found.append(at_end(began + timedelta(seconds=one.monotonic - go.monotonic), one.seconds, kwh))
    return found


def moment(stamp: str) -> datetime:
    """A time as it stands in records; without an offset it is UTC."""
    read = datetime.fromisoformat(stamp)
    return read if read.tzinfo else read.replace(tzinfo=UTC)
