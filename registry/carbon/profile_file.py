"""Hourly profiles of the user's: a CSV of a typical day (hour 0 to 23) or of moments (timestamp), read strictly.

Columns: hour or timestamp; grams_per_kwh; utc_offset such as +01:00, the same in every row, which a timestamp with its
own offset (2026-01-31T13:00Z) does not need. Moments follow each other in equal steps of an hour at most.
"""

import csv
import hashlib
import io
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from registry.carbon.factors import Day
from registry.carbon.hourly import Profile, Slot
from registry.records import ShrinkError

LONGEST_STEP = timedelta(hours=1)
OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")
COLUMNS = ({"hour", "grams_per_kwh", "utc_offset"}, {"timestamp", "grams_per_kwh", "utc_offset"})


def read_profile(path: Path) -> Day | Profile:
    """The profile of this file. Raises ShrinkError: file, line, field, remedy."""
    name = f"hourly profile '{path}'"
    try:
        raw = path.read_bytes()
        reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(f"{name}, line {reader.line_num}", row) for row in reader]
    except OSError as error:
        raise ShrinkError(f"profile = '{path}' cannot be read ({error.strerror}); give a CSV file that can.") from None
    except (UnicodeDecodeError, csv.Error):
        raise ShrinkError(f"{name} is not CSV in UTF-8; give hour or timestamp, grams_per_kwh, utc_offset.") from None
    columns = set(reader.fieldnames or ())
    if columns not in (*COLUMNS, COLUMNS[1] - {"utc_offset"}):
        had = ", ".join(sorted(columns)) or "none"
        raise ShrinkError(f"{name} has columns {had}; give hour or timestamp, grams_per_kwh and utc_offset.")
    if not rows or any(None in row or None in row.values() for _, row in rows):
        raise ShrinkError(f"{name} has a row that is shorter or longer than its first, or none; correct it.")
    rates = [_rate(where, row["grams_per_kwh"]) for where, row in rows]
    offset = _offset(rows)
    sha256 = hashlib.sha256(raw).hexdigest()
    source = f"hourly profile {path.name} (SHA-256 {sha256[:12]})"
    if "timestamp" in columns:
        return _moments(source, rows, rates, offset)
    if offset is None:
        raise ShrinkError(f"{rows[0][0]}: utc_offset is empty; give the local time's, such as +01:00.")
    return Day(source=source, offset=offset, grams_per_kwh=_day(name, rows, rates), sha256=sha256)


def between(profile: Day | Profile, since: datetime, until: datetime) -> Profile:
    """A profile as moments; a typical day is repeated from `since` until `until` (whole hours around them)."""
    if isinstance(profile, Profile):
        return profile
    start = since.astimezone(UTC) + profile.offset
    start = start.replace(minute=0, second=0, microsecond=0) - profile.offset
    slots = list[Slot]()
    while start < until or not slots:
        hour = (start + profile.offset).hour
        slots.append(Slot(start=start, grams_per_kwh=profile.grams_per_kwh[hour]))
        start += timedelta(hours=1)
    return Profile(source=profile.source, slots=tuple(slots), end=start)


def _rate(where: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise ShrinkError(f"{where}: grams_per_kwh = {cell!r} must be a finite number of 0 or more; correct it.")
    return value


def _offset(rows: list[tuple[str, dict[str, str]]]) -> timedelta | None:
    """What all rows say of UTC; None where they say nothing."""
    said = {row.get("utc_offset", "") for _, row in rows}
    for where, row in rows:
        if len(said) > 1 and row["utc_offset"] != rows[0][1]["utc_offset"]:
            raise ShrinkError(f"{where}: utc_offset = {row['utc_offset']!r} differs from the first row's; give one.")
    one = said.pop()
    if one in ("", "Z"):
        return timedelta() if one else None
    match = OFFSET.fullmatch(one)
    if match is None or int(match[2]) > 14 or int(match[3]) > 59:
        raise ShrinkError(f"{rows[0][0]}: utc_offset = {one!r} must be like +01:00; correct it.")
    size = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return size if match[1] == "+" else -size


def _day(name: str, rows: list[tuple[str, dict[str, str]]], rates: list[float]) -> tuple[float, ...]:
    found = dict[int, float]()
    for (where, row), value in zip(rows, rates, strict=True):
        hour = row["hour"].strip()
        if not hour.isdecimal() or int(hour) > 23:
            raise ShrinkError(f"{where}: hour = {row['hour']!r} must be a whole number from 0 to 23; correct it.")
        if int(hour) in found:
            raise ShrinkError(f"{where}: hour = {hour} stands twice; leave one of them out.")
        found[int(hour)] = value
    if missing := sorted(set(range(24)) - set(found)):
        raise ShrinkError(f"{name} has a gap: hour {missing[0]} is missing; give all hours from 0 to 23.")
    return tuple(found[hour] for hour in range(24))


def _moments(
    source: str, rows: list[tuple[str, dict[str, str]]], rates: list[float], offset: timedelta | None
) -> Profile:
    moments = [_moment(where, row["timestamp"], offset) for where, row in rows]
    step = moments[1] - moments[0] if len(moments) > 1 else LONGEST_STEP
    for (before, after), (where, row) in zip(pairwise(moments), rows[1:], strict=True):
        if after <= before:
            raise ShrinkError(f"{where}: timestamp = {row['timestamp']} does not lie behind the one before; sort them.")
        if after - before != step or step > LONGEST_STEP:
            raise ShrinkError(
                f"{where}: timestamp = {row['timestamp']} leaves a gap or changes the step, which is "
                f"{step.total_seconds() / 60:.0f} minutes (an hour at most); add what is missing."
            )
    slots = tuple(Slot(start=start, grams_per_kwh=value) for start, value in zip(moments, rates, strict=True))
    return Profile(source=source, slots=slots, end=moments[-1] + step)


def _moment(where: str, cell: str, offset: timedelta | None) -> datetime:
    try:
        read = datetime.fromisoformat(cell.strip())
    except ValueError:
        raise ShrinkError(f"{where}: timestamp = {cell!r} must be like 2026-01-31T13:00Z; correct it.") from None
    if read.tzinfo is not None:
        return read.astimezone(UTC)
    if offset is None:
        raise ShrinkError(f"{where}: timestamp = {cell!r} has no UTC offset; add it, or a column utc_offset.")
    return read.replace(tzinfo=UTC) - offset
