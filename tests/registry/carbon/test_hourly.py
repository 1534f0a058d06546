"""The greenest start is no worse than any other minute of the window, and means are those of a plain sum."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.carbon.hourly import Profile, Slot, greenest
from registry.records import ShrinkError

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def profile(rates: list[int], minutes: int = 60, start: datetime = NOON) -> Profile:
    slots = tuple(Slot(start=start + at * minutes * MINUTE, grams_per_kwh=rate) for at, rate in enumerate(rates))
    return Profile(source="test", slots=slots, end=start + len(rates) * minutes * MINUTE)


def minute_by_minute(rates: list[int], minutes: int, first: int, lasts: int) -> float | None:
    """The mean over whole minutes, added up one by one."""
    if first + lasts > len(rates) * minutes:
        return None
    return sum(rates[at // minutes] for at in range(first, first + lasts)) / lasts


@given(
    rates=st.lists(st.integers(0, 900), min_size=2, max_size=12),
    minutes=st.sampled_from([5, 15, 60]),
    at=st.integers(0, 40),
    within=st.integers(0, 500),
    lasts=st.integers(1, 300),
)
def test_no_minute_of_the_window_is_greener(rates: list[int], minutes: int, at: int, within: int, lasts: int) -> None:
    tried = {start: minute_by_minute(rates, minutes, start, lasts) for start in range(at, at + within + 1)}
    known = {start: mean for start, mean in tried.items() if mean is not None}
    now = NOON + at * MINUTE
    if at not in known:
        with pytest.raises(ShrinkError, match="reaches beyond"):
            greenest(profile(rates, minutes), now, within * 60.0, lasts * 60.0)
        return
    choice = greenest(profile(rates, minutes), now, within * 60.0, lasts * 60.0)
    after = (choice.chosen.start - now) / MINUTE
    assert choice.chosen.grams_per_kwh == pytest.approx(min(known.values()))
    assert at + round(after) == min(start for start, mean in known.items() if mean == min(known.values())), "earliest"
    assert choice.at_once.start == now and choice.at_once.grams_per_kwh == pytest.approx(known[at])


def test_equal_hours_begin_at_once() -> None:
    assert greenest(profile([300] * 8), NOON, 4 * 3600, 1800).chosen.start == NOON


def test_equal_means_are_equal_however_they_are_added_up() -> None:
    """Steps of five seconds at 0.1, a run of 12.345 s: sums of different floats."""
    rates = tuple(Slot(start=NOON + step * timedelta(seconds=5), grams_per_kwh=0.1) for step in range(720))
    grid = Profile(source="test", slots=rates, end=NOON + 60 * MINUTE)
    assert greenest(grid, NOON, 1800, 12.345).chosen.start == NOON


def test_a_run_across_two_hours_begins_within_an_hour() -> None:
    """90 minutes over 500, 100, 200, 500: from 13:00 on, 60 at 100 and 30 at 200."""
    choice = greenest(profile([500, 100, 200, 500]), NOON, 3 * 3600, 90 * 60)
    assert choice.chosen.start == NOON + 60 * MINUTE
    assert choice.chosen.grams_per_kwh == pytest.approx((60 * 100 + 30 * 200) / 90)


def test_hours_of_another_zone_are_the_same_moments() -> None:
    summer = datetime.fromisoformat("2026-03-29T14:00+02:00")
    assert profile([1, 2], start=summer) == profile([1, 2])


@pytest.mark.parametrize("rates", [[1.0, float("nan")], [float("inf")], [-1.0]])
def test_what_is_no_intensity_is_refused(rates: list[float]) -> None:
    with pytest.raises(ValidationError):
        profile(rates)  # type: ignore[arg-type]


def test_slots_that_go_back_are_refused() -> None:
    slots = (Slot(start=NOON, grams_per_kwh=1), Slot(start=NOON - MINUTE, grams_per_kwh=2))
    with pytest.raises(ValidationError, match="one after the other"):
        Profile(source="test", slots=slots, end=NOON + MINUTE)
