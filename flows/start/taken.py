"""What a run has taken so far, by the samples in its folder: stages that were killed or broke are in them, too."""

from pathlib import Path

from registry.records import Kwh
from tasks.meter import samples
from tasks.meter.samples import Go


def kwh(directory: Path) -> Kwh | None:
    """Energy before PUE, by the central estimate; None where some of it could not be measured.

    What a killed stage drew after its last sample is not known; it is taken to be a whole sample more.
    """
    each = [of(go) for go in samples.goes(directory / "samples.jsonl")]
    return None if None in each else Kwh(sum(one or 0.0 for one in each))


def of(go: Go) -> float | None:
    """Energy of one go at a stage; slices that another run counts are left out."""
    own = [one for one in go.slices if one.shared is None]
    read = [sum(one.kwh.values()) for one in own if one.kwh is not None]
    if len(read) < len(own):
        return None
    spent, took = float(sum(read)), sum(one.seconds for one in own)
    if go.ended is None and go.header is not None and took:
        spent += spent / took * go.header.slice_seconds
    return spent


def seconds(directory: Path) -> float:
    """Seconds that stages were at work in."""
    return float(sum(one.seconds for go in samples.goes(directory / "samples.jsonl") for one in go.slices))
