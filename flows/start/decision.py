"""`--within 12h`: which start is greenest by the user's hourly profile, kept in the run's folder as start.json.

What it saved is reckoned when the run is over: the energy of its stages at the hours in which they ran, beside the same
energy at the hours in which they would have run, had it started at once.
"""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ValidationError

from flows import journal as journals
from flows.planned import Plan
from flows.recipe import Recipe
from flows.settings import Settings
from flows.units import duration
from registry.carbon.factors import Day
from registry.carbon.hourly import Choice, Moment, Profile, greenest
from registry.carbon.inputs import basis
from registry.carbon.profile_file import between
from registry.records import STRICT, Band, ShrinkError

FILE = "start.json"
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
LONGEST = 7 * 86400  # seconds: no profile foretells a grid for longer
BEYOND = 10  # times the foretold duration, for which a typical day is repeated


class Decision(BaseModel):
    """When a run is to begin, out of which starts, by which profile, and why."""

    model_config = STRICT
    made: Moment
    within: str
    foretold_seconds: Band
    profile: Profile
    choice: Choice
    why: str

    @property
    def start(self) -> datetime:
        """The chosen moment."""
        return self.choice.chosen.start


def window(text: str) -> float:
    """Seconds of a window such as 12h, 90min or 2d; raises ShrinkError for what is none, or longer than a week."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(s|m|min|h|d)", text.strip())
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= LONGEST:
        raise ShrinkError(f"--within is '{text:.40}' but must be like 12h, 90min or 2d, above 0 and at most 7d.")
    return seconds


def decide(here: Settings, within: str, plan: Plan, now: datetime) -> Decision:
    """The greenest start at most `within` from now; raises ShrinkError without an hourly profile that knows it."""
    seconds, foretold = window(within), plan.total("seconds")
    given = basis(here.carbon, here.country).profile
    if not isinstance(given, Day | Profile):
        raise ShrinkError(
            "--within needs the grid's intensity by the hour: give a CSV file of it as `profile` in the YAML file that "
            "SHRINK_CARBON names."
        )
    until = now + timedelta(seconds=seconds + BEYOND * foretold.central, days=1)
    profile = between(given, now, until)
    choice = greenest(profile, now, seconds, foretold.central)
    return Decision(
        made=now, within=within, foretold_seconds=foretold, profile=profile, choice=choice, why=reason(choice, within)
    )


def reason(choice: Choice, within: str) -> str:
    """Why this start."""
    starts, rate, now = len(choice.candidates), choice.chosen.grams_per_kwh, choice.at_once.grams_per_kwh
    if choice.chosen == choice.at_once:
        return f"none of the {starts} starts within {within} is greener than {rate:.0f} g/kWh at once"
    return f"the greenest of {starts} starts within {within}: {rate:.0f} g/kWh, {now:.0f} at once"


def said(decision: Decision) -> str:
    """The decision in a line, with how long that is from when it was made."""
    waits = (decision.start - decision.made).total_seconds()
    if waits <= 0:
        return f"green start: at once; {decision.why}"
    return f"green start: {decision.start:%Y-%m-%d %H:%M:%S} UTC, in {duration(waits)}; {decision.why}"


def write(directory: Path, decision: Decision) -> None:
    """Keep a run's decision (temporary, fsync, rename)."""
    partial = directory / f".{FILE}.{os.getpid()}"
    with partial.open("w") as stream:
        stream.write(decision.model_dump_json(indent=1))
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(directory / FILE)


def read(directory: Path) -> Decision | None:
    """A run's decision; None where there is none that can be read."""
    try:
        return Decision.model_validate_json((directory / FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def pending(directory: Path, now: datetime) -> Decision | None:
    """The decision of a run that has computed nothing yet and whose start is still to come."""
    decision = read(directory)
    if decision is None or decision.start <= now or any(directory.glob("*/record.json")):
        return None
    return decision


def kept(home: Path, recipe: Recipe, within: str, now: datetime) -> Decision | None:
    """What was decided for this recipe and window by a command that ended while it waited."""
    for journal in reversed(journals.read_all(home)):
        if journal["status"] in journals.UNFINISHED and journals.same_recipe(home, journal, recipe):
            found = pending(home / "runs" / str(journal["run_id"]), now)
            return found if found is not None and found.within == within else None
    return None


def now() -> datetime:
    """This moment, UTC."""
    return datetime.now(UTC)
