"""What one stage took and left."""

from typing import Any

from pydantic import BaseModel

from registry.records.base import STRICT, Band


class Footprint(BaseModel):
    """Energy before PUE and time of one stage or run; kwh is None when it was not measured (never 0)."""

    model_config = STRICT
    kwh: Band | None
    seconds: float
    cpu_kwh: float | None = None
    ram_kwh: float | None = None
    gpu_kwh: float | None = None
    tier: str = "unmeasured"


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
