"""The raw samples of a run: `samples.jsonl` in its folder, one line a slice, flushed as it is read.

Lines carry `schema`, `at` (UTC) and `event`: `open` (the header: machine, methods, where the bands come from), `begin`
and `end` of a go at a stage, and `slice`: kWh of each part before PUE with its tier, `seconds` and `monotonic` (its
end) by a clock that never goes back. A go without `end` was killed; its slices are its energy all the same.
"""

import hashlib
import json
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from registry.records import STRICT, Attempt, Part, Tier
from tasks.meter.summing import SLICE_SECONDS, Idle, Slice, Span, footprint_of

SCHEMA = 1


class Header(BaseModel):
    """What the first line says of the machine and of how it is metered."""

    model_config = STRICT
    tiers: dict[Part, Tier]
    method: dict[Part, str]  # a sentence for each part
    bands: dict[Part, str]  # where low and high come from
    machine: dict[str, Any]
    slice_seconds: float = SLICE_SECONDS
    idle: Idle | None = None
    why: str | None = None  # why nothing is measured
    mode: str = "machine: everything that ran is counted"
    pue: str = "not applied"


class Go(BaseModel):
    """One go at a stage as the lines tell it."""

    model_config = STRICT
    stage: str
    attempt: str
    at: str
    monotonic: float
    slices: tuple[Slice, ...] = ()
    lines: tuple[str, ...] = Field((), repr=False)
    ended: float | None = None
    failed: bool = False
    header: Header | None = None


def now() -> datetime:
    """The wall clock; it may be set back at any time."""
    return datetime.now(UTC)


def line(event: str, **said: Any) -> str:
    """One line, without its end."""
    told = {name: value for name, value in said.items() if value is not None}
    stamp = {"schema": SCHEMA, "at": now().isoformat(timespec="milliseconds"), "event": event}
    return json.dumps({**stamp, **told}, sort_keys=True)


def append(path: Path, text: str) -> str | None:
    """Write a line and flush it; returns why it could not be written: a full disk must not end the metering."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError as error:
        return f"its samples could not be written ({error.strerror})"
    return None


def begin_again(path: Path) -> None:
    """End the line that a killed run left half written, so that the next one stands for itself."""
    if path.is_file() and (held := path.read_bytes()) and not held.endswith(b"\n"):
        append(path, "")


def digest(lines: Collection[str]) -> str:
    """SHA-256 of the slices' lines, as they stand in the file."""
    return hashlib.sha256("".join(f"{one}\n" for one in lines).encode()).hexdigest()


def goes(path: Path) -> list[Go]:
    """Every go at a stage in a run's samples, in order; lines that cannot be read are passed over."""
    found: dict[str, Go] = {}
    header: Header | None = None
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            said = json.loads(text)
            if said["schema"] != SCHEMA:
                continue
            match said["event"]:
                case "open":
                    header = Header.model_validate(said["header"])
                case "begin":
                    told = {name: said[name] for name in ("stage", "attempt", "at", "monotonic")}
                    found[said["attempt"]] = Go(**told, header=header)
                case "slice":
                    go, read = found[said["attempt"]], Slice.model_validate(said["slice"])
                    more = {"slices": (*go.slices, read), "lines": (*go.lines, text)}
                    found[said["attempt"]] = go.model_copy(update=more)
                case "end":
                    ended = {"ended": said["monotonic"], "failed": said["outcome"] != "finished"}
                    found[said["attempt"]] = found[said["attempt"]].model_copy(update=ended)
        except (ValueError, LookupError, TypeError, ValidationError):
            continue
    return list(found.values())


def lost(path: Path, known: Collection[str | None]) -> list[Attempt]:
    """The goes that left no record: killed or failed; `known` are the digests of samples that records name.

    Of a run whose process is still at work the last one may yet end: ask when it is over.
    """
    return [_lost(go) for go in goes(path) if digest(go.lines) not in known]


def _lost(go: Go) -> Attempt:
    killed = go.ended is None
    ended = (go.slices[-1].monotonic if go.slices else go.monotonic) if go.ended is None else go.ended
    header = go.header
    every = header.slice_seconds if header else SLICE_SECONDS
    tail = f"killed: what it drew after its last sample, {every:g} s at most, is not known" if killed else None
    span = Span(began=go.monotonic, ended=ended, slice_seconds=every)
    footprint = footprint_of(list(go.slices), span, header.idle if header else None, tail, digest(go.lines))
    return Attempt(stage=go.stage, ended="killed" if killed else "failed", started=go.at, footprint=footprint)
