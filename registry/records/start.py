"""What waiting for a greener hour came to: a counterfactual, the same energy at the hours it would have been drawn."""

from pydantic import BaseModel

from registry.records.base import STRICT, Band
from registry.records.energy import Seconds


class CarbonStart(BaseModel):
    """A run's start within a window, chosen by an hourly profile; grams of CO2e before PUE, location-based.

    `would_have_been_grams`: of the same energy had the run started when it was asked for. `saved_grams` is that less
    what the run came to, below 0 where waiting cost. Each end of a band is of that end of the energy. None where it is
    not known; `unknown` says why.
    """

    model_config = STRICT
    asked: str  # UTC, ISO 8601, as all moments here
    within: str
    profile: str
    candidates: int
    at_once_grams_per_kwh: float  # foretold, as the next
    chosen_grams_per_kwh: float
    chosen: str
    why: str
    began: str | None = None
    waited_seconds: Seconds | None = None
    were_grams: Band | None = None
    would_have_been_grams: Band | None = None
    saved_grams: Band | None = None
    unknown: str | None = None
