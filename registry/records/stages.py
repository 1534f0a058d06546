"""What one stage took and left."""

from typing import Any, Literal

from pydantic import BaseModel

from registry.records.base import STRICT, Band
from registry.records.energy import Component, Kwh, Part, Seconds


class Footprint(BaseModel):
    """Energy before PUE and time of one stage or run; kwh is None when not all of it was measured (never 0).

    Then `why` says why, and `at_least_kwh` holds what was read. `shared_kwh` was drawn while another run held the
    machine's meter: it stands in that run's total and is no part of kwh or at_least_kwh. `idle_kwh` is what the
    machine draws in this time with nothing to do: told beside, a part of kwh, never subtracted.
    """

    model_config = STRICT
    kwh: Band | None
    seconds: Seconds
    cpu_kwh: Kwh | None = None
    ram_kwh: Kwh | None = None
    gpu_kwh: Kwh | None = None
    tier: str = "unmeasured"
    components: dict[Part, Component] = {}  # of kwh or at_least_kwh; empty in records of before it was kept
    at_least_kwh: Band | None = None
    shared_kwh: Band | None = None
    idle_kwh: Band | None = None
    why: str | None = None
    samples: str | None = None  # SHA-256 of the lines in the run's samples.jsonl that this was summed from


class Attempt(BaseModel):
    """A go at a stage that left no artifact: it was killed or failed; its energy was spent."""

    model_config = STRICT
    stage: str
    ended: Literal["killed", "failed"]
    started: str
    footprint: Footprint


class StageRecord(BaseModel):
    """What is known of one stage's execution; `digest` names the artifact it made."""

    model_config = STRICT
    key: str
    kind: str
    method: str | None
    role: str
    digest: str
    bytes: int
    inputs: dict[str, str]
    config: dict[str, Any]
    footprint: Footprint
    cpu_seconds: float
    peak_rss_mb: float
    started: str
    measured: dict[str, Any] = {}
    cached: bool = False
