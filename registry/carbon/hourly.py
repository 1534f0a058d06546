"""The grid hour by hour, and the greenest moment to begin something that takes a while. Pure arithmetic.

A grid's intensity is a step function of time. The mean over a run that begins at t is then piecewise linear in t, so
that its least value lies where t or the run's end meets a step, or at an end of the window: these moments are all that
`greenest` has to look at.
"""

import itertools
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, model_validator

from registry.records import STRICT, ShrinkError

SAME = 1e-9  # by so much two means of the same hours may differ: they are sums of floats
Moment = Annotated[AwareDatetime, AfterValidator(lambda one: one.astimezone(UTC))]


class Slot(BaseModel):
    """From `start` on, until the next slot, a kWh of the grid comes with so many grams of CO2e."""

    model_config = STRICT
    start: Moment
    grams_per_kwh: float = Field(ge=0, allow_inf_nan=False)


class Profile(BaseModel):
    """A grid's intensity over time, one slot after the other without a gap, known until `end`; `source` says whose."""

    model_config = STRICT
    source: str
    slots: tuple[Slot, ...] = Field(min_length=1)
    end: Moment

    @model_validator(mode="after")
    def _in_order(self) -> "Profile":
        """Slots that do not follow each other would make a mean of the wrong hours."""
        edges = [*(slot.start for slot in self.slots), self.end]
        if any(after <= before for before, after in itertools.pairwise(edges)):
            raise ValueError("the slots of a profile must begin one after the other, the last before its end")
        return self

    @cached_property
    def edges(self) -> tuple[datetime, ...]:
        """Where the slots begin, and the end."""
        return (*(slot.start for slot in self.slots), self.end)

    def mean(self, start: datetime, seconds: float) -> float | None:
        """Mean grams per kWh over so many seconds from `start` on; None where not all of them are known."""
        stop = start + timedelta(seconds=seconds)
        if start < self.edges[0] or stop > self.end or start >= self.end:
            return None
        at = bisect_right(self.edges, start) - 1
        weighed, begun = 0.0, start
        while begun < stop:
            until = min(stop, self.edges[at + 1])
            weighed += self.slots[at].grams_per_kwh * (until - begun).total_seconds()
            at, begun = at + 1, until
        taken = (stop - start).total_seconds()
        return weighed / taken if taken else self.slots[at].grams_per_kwh


class Candidate(BaseModel):
    """A moment to begin, and the mean intensity of the hours that the run would then take."""

    model_config = STRICT
    start: Moment
    grams_per_kwh: float


class Choice(BaseModel):
    """The greenest of the candidates, the earliest of those that are equal; the first candidate is to begin at once."""

    model_config = STRICT
    chosen: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def at_once(self) -> Candidate:
        """What waiting is compared with."""
        return self.candidates[0]


def greenest(profile: Profile, now: datetime, within: float, seconds: float) -> Choice:
    """When to begin a run of so many seconds, at most `within` seconds from `now`, so that its mean intensity is least.

    A start whose run would reach beyond what the profile knows is no candidate. Raises ShrinkError where even a run
    that begins at once would.
    """
    last = now + timedelta(seconds=within)
    lasts = timedelta(seconds=seconds)
    moments = {now, last, *profile.edges, *(edge - lasts for edge in profile.edges)}
    known = [(moment, profile.mean(moment, seconds)) for moment in sorted(moments) if now <= moment <= last]
    found = [Candidate(start=moment, grams_per_kwh=mean) for moment, mean in known if mean is not None]
    if not found or found[0].start != now:
        first, end = profile.edges[0], profile.end
        raise ShrinkError(
            f"hourly profile '{profile.source}' knows {first:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and a run of "
            f"{seconds / 60:.0f} minutes from {now:%Y-%m-%d %H:%M} on reaches beyond; give one of these hours."
        )
    most = min(one.grams_per_kwh for one in found) * (1 + SAME)
    return Choice(chosen=next(one for one in found if one.grams_per_kwh <= most), candidates=tuple(found))
