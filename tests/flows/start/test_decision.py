"""Which start is taken, and what it saved: bad windows are refused, the counterfactual is a plain sum."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.planned import Plan, StagePlan
from flows.settings import Settings
from flows.start import decision as decisions
from flows.start import saved
from flows.start.saved import Drawn
from registry.carbon.hourly import Profile, Slot
from registry.records import Band, Footprint, Seconds, ShrinkError
from tests.flows.test_cli import Shrink, refused, shrink

__all__ = ["shrink"]  # a fixture
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NONE = Band(low=0, central=0, high=0)


def plan(seconds: float) -> Plan:
    said = Band(low=seconds / 2, central=seconds, high=seconds * 2)
    one = StagePlan(
        name="00-data", kind="data", method=None, role="data", reused=False, known=True, parameters=None, bytes=1,
        ram_mb=1, work=1, seconds=said, kwh=NONE,
    )  # fmt: skip
    return Plan(recipe="r", recipe_digest="d", threads=1, pace="", stages=(one,))


def carbon_file(folder: Path, rows: str) -> Path:
    (folder / "hours.csv").write_text(rows)
    (folder / "carbon.yaml").write_text("profile: hours.csv\n")
    return folder / "carbon.yaml"


def decided(folder: Path, within: str, seconds: float, green: int = 15) -> decisions.Decision:
    """By a typical day in UTC, 100 g/kWh in one hour and 500 in the others, asked at noon."""
    rows = "hour,grams_per_kwh,utc_offset\n" + "".join(
        f"{hour},{100 if hour == green else 500},+00:00\n" for hour in range(24)
    )
    here = Settings(home=folder / "home", carbon=carbon_file(folder, rows))
    return decisions.decide(here, within, plan(seconds), NOON)


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 43200), ("90min", 5400), ("30m", 1800), ("1.5h", 5400), ("7d", 604800)]
)
def test_windows_are_read(text: str, seconds: float) -> None:
    assert decisions.window(text) == seconds


@pytest.mark.parametrize("text", ["0", "0h", "-3h", "400d", "soon", "", "12", "nan h", "1e3h", "infh", "12h later"])
def test_what_is_no_window_is_refused(shrink: Shrink, text: str) -> None:
    said = refused(shrink("run", "sentiment", "--within", text))
    assert "--within is '" in said and "must be like 12h, 90min or 2d" in said


@pytest.mark.parametrize(("option", "value"), [("--max-kwh", "nan"), ("--max-kwh", "0"), ("--max-minutes", "-1")])
def test_what_is_no_budget_is_refused(shrink: Shrink, option: str, value: str) -> None:
    assert "must be a number above 0" in refused(shrink("run", "sentiment", option, value))


def test_a_smoke_walk_does_not_wait(shrink: Shrink) -> None:
    assert "leave --within out" in refused(shrink("run", "sentiment", "--smoke", "--within", "2h"))


def test_without_a_profile_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match=r"--within needs the grid's intensity by the hour: give a CSV file"):
        decisions.decide(Settings(home=tmp_path, carbon=None), "12h", plan(60), NOON)


def test_the_greenest_hour_is_taken_and_told(tmp_path: Path) -> None:
    decision = decided(tmp_path, "12h", 1800)
    assert decision.start == NOON + 3 * HOUR and decision.choice.at_once.grams_per_kwh == 500
    assert "2026-11-28 15:00:00 UTC, in 3.00 h; the greenest of" in decisions.said(decision)
    assert "100 g/kWh, 500 at once" in decision.why


def test_outside_the_window_it_starts_at_once(tmp_path: Path) -> None:
    decision = decided(tmp_path, "1h", 1800)
    assert decision.start == NOON and "none of the" in decisions.said(decision)


def test_a_decision_is_kept_until_a_stage_is_computed(tmp_path: Path) -> None:
    decision = decided(tmp_path, "12h", 1800)
    decisions.write(tmp_path, decision)
    assert decisions.pending(tmp_path, NOON + HOUR) == decision
    assert decisions.pending(tmp_path, NOON + 4 * HOUR) is None, "its time has come"
    (tmp_path / "00-data").mkdir()
    (tmp_path / "00-data" / "record.json").write_text("{}")
    assert decisions.pending(tmp_path, NOON + HOUR) is None


def drawn(at: datetime, kwh: float | None, hours: float = 0.5) -> Drawn:
    band = None if kwh is None else Band(low=kwh / 2, central=kwh, high=2 * kwh)
    return Drawn(at, Footprint(kwh=band, seconds=Seconds(3600 * hours)))


def test_the_saving_is_the_same_energy_at_the_other_hours(tmp_path: Path) -> None:
    """2 kWh in the green hour and 1 in the one behind it, instead of both at 500: 1 500 g against 700."""
    decision = decided(tmp_path, "12h", 1800)
    one = saved.reckoned(decision, [drawn(NOON + 3 * HOUR, 2), drawn(NOON + 4 * HOUR, 1)])
    assert one.were_grams == Band(low=350, central=700, high=1400)
    assert one.would_have_been_grams == Band(low=750, central=1500, high=3000)
    assert one.saved_grams == Band(low=400, central=800, high=1600)
    assert one.waited_seconds == Seconds(3 * 3600)
    said = saved.sentence(one)
    assert "would have been 1.50 kg (750 g to 3.00 kg) at once: 800 g (400 g to 1.60 kg) saved" in said


def test_a_start_that_came_too_late_says_that_it_cost(tmp_path: Path) -> None:
    """Asked for in the green hour, chosen at once, and held up until the next."""
    decision = decided(tmp_path, "12h", 1800, green=12)
    one = saved.reckoned(decision, [drawn(NOON + HOUR, 1)])
    assert one.saved_grams is not None and one.saved_grams.central == -400
    assert "nothing saved: 400 g (200 g to 800 g) more" in saved.sentence(one)


def test_a_start_at_once_saves_nothing(tmp_path: Path) -> None:
    one = saved.reckoned(decided(tmp_path, "1h", 1800), [drawn(NOON + timedelta(seconds=20), 1)])
    assert one.saved_grams == NONE and "at once, nothing saved" in saved.sentence(one)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([], "nothing was drawn"),
        ([drawn(NOON + 3 * HOUR, 1), drawn(NOON + 4 * HOUR, None)], "1 of 2 stages were not measured"),
        ([drawn(NOON + 100 * HOUR, 1)], "does not know all these hours"),
    ],
)
def test_what_is_not_known_is_no_saving(tmp_path: Path, found: list[Drawn], why: str) -> None:
    one = saved.reckoned(decided(tmp_path, "12h", 1800), found)
    assert one.saved_grams is None and why in (one.unknown or "") and why in saved.sentence(one)


def test_a_profile_that_ends_early_is_refused(tmp_path: Path) -> None:
    rows = "timestamp,grams_per_kwh\n2026-11-28T12:00Z,100\n2026-11-28T13:00Z,200\n"
    here = Settings(home=tmp_path / "home", carbon=carbon_file(tmp_path, rows))
    with pytest.raises(ShrinkError, match="knows 2026-11-28 12:00 to 2026-11-28 14:00 UTC, and a run of 180 minutes"):
        decisions.decide(here, "1h", plan(3 * 3600), NOON)


def test_both_kinds_of_profile_have_a_source(tmp_path: Path) -> None:
    whole: Any = decided(tmp_path, "12h", 1800).profile
    assert isinstance(whole, Profile) and isinstance(whole.slots[0], Slot) and "hours.csv" in whole.source
