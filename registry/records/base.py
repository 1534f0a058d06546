"""What every record stands on: strict frozen models, the error that is the user's to mend, an interval, a band."""

from pydantic import BaseModel, ConfigDict

STRICT = ConfigDict(frozen=True, extra="forbid")


class ShrinkError(ValueError):
    """Something the user can mend; its text is one sentence with field, value and remedy (exit code 2)."""


class Interval(BaseModel):
    """A point estimate with its 95 % interval."""

    model_config = STRICT
    point: float
    low: float
    high: float


class Band(BaseModel):
    """A modelled quantity: low, central and high estimate in one unit."""

    model_config = STRICT
    low: float
    central: float
    high: float
