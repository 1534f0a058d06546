"""The period of a report: dates in UTC, or so many days back (30d), both ends inside."""

import re
from datetime import UTC, date, datetime, timedelta

from pydantic import BaseModel

from registry.records import STRICT, ShrinkError

DAYS = re.compile(r"(\d{1,5})d")


class Period(BaseModel):
    """From the start of one day to the end of another; None is open."""

    model_config = STRICT
    since: date | None = None
    until: date | None = None

    def holds(self, started: str) -> bool:
        """Whether a run that began then (ISO 8601) is in it; one of no readable time is, where both ends are open."""
        if self.since is None and self.until is None:
            return True
        try:
            when = datetime.fromisoformat(started)
        except ValueError:
            return False
        day = (when.astimezone(UTC) if when.tzinfo else when).date()
        return (self.since is None or self.since <= day) and (self.until is None or day <= self.until)


def period(since: str | None, until: str | None, today: date) -> Period:
    """The period that two options name; raises ShrinkError for what is no date or ends before it begins."""
    found = Period(since=_day("since", since, today), until=_day("until", until, today))
    if found.since and found.until and found.since > found.until:
        raise ShrinkError(f"--since {found.since} is after --until {found.until}; swap them.")
    return found


def last_month(today: date) -> Period:
    """The calendar month before this day."""
    end = today.replace(day=1) - timedelta(days=1)
    return Period(since=end.replace(day=1), until=end)


def _day(option: str, text: str | None, today: date) -> date | None:
    if text is None:
        return None
    try:
        if back := DAYS.fullmatch(text):
            return today - timedelta(days=int(back[1]))
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            raise ValueError(text)
        return date.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ShrinkError(
            f"--{option} is '{text}' but must be a date like 2026-11-01, or days back like 30d."
        ) from None
