"""Which runs a report is of: their journals, read from the home alone, and what else lies in their folders."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from flows import journal as journals
from flows import units
from flows.reporting.period import Period
from registry.footprint import total
from registry.gate import SMOKE
from registry.records import Footprint, ShrinkError


class Gathered(NamedTuple):
    """Runs of a report (oldest first), those of before that its pay-back counts too, and what could not be read."""

    runs: list[dict[str, Any]]
    history: list[dict[str, Any]]  # every run up to the report's end, those of the report among them
    headers: dict[str, dict[str, Any]]  # what a run's samples say of machine and method, by run id
    unreadable: list[str]
    asked: Period = Period()  # as it was asked for
    model: str | None = None
    folder: Path | None = None  # of the runs' folders, in which their samples are


def gather(home: Path, model: str | None = None, asked: Period | None = None) -> Gathered:
    """The runs of a model (of all without one) that began in a period; raises ShrinkError where there are none."""
    period = asked or Period()
    everything = journals.read_all(home)
    unreadable = damaged(home, {str(run["run_id"]) for run in everything})
    chosen = everything if model is None else of_model(everything, model)
    runs = [run for run in chosen if period.holds(str(run.get("started")))]
    if not runs and (period.since or period.until):
        raise ShrinkError(nothing(period, model, chosen))
    until = Period(until=period.until)
    history = [run for run in everything if until.holds(str(run.get("started")))]
    whole = [journals.with_stages(home, run) for run in history]
    by_id = {str(run["run_id"]): run for run in whole}
    mine = [by_id[str(run["run_id"])] for run in runs]
    folder = home / "runs"
    headers = {str(run["run_id"]): header(folder / str(run["run_id"]) / "samples.jsonl") for run in mine}
    return Gathered(mine, whole, headers, unreadable, period, model, folder)


def alone(run: dict[str, Any], folder: Path) -> Gathered:
    """One run, for the report that is stored with its version."""
    name = str(run["run_id"])
    headers = {name: header(folder / "samples.jsonl")}
    return Gathered([run], [run], headers, [], model=str(run["recipe"]), folder=folder.parent)


def beside(found: Gathered) -> list[str]:
    """What the smoke walks of a model took, which a report of its runs leaves out; nothing where there were none."""
    name = f"{found.model}{SMOKE}"
    walks = [run for run in found.history if run["recipe"] == name and found.asked.holds(str(run.get("started")))]
    if not walks:
        return []
    made = (one for run in walks for one in run["stages"] if not one["cached"])
    spent = total(Footprint.model_validate(one["footprint"]) for one in made).kwh
    said = units.energy(spent.central if spent else None)
    return [f"its smoke walks, which are not among them: {said} (`shrink report {name}`)"]


def damaged(home: Path, read: set[str]) -> list[str]:
    """Runs whose run.json is there and cannot be read; `read` are those that could."""
    rest = (path for path in sorted((home / "runs").glob("*/run.json")) if path.parent.name not in read)
    return [path.parent.name for path in rest if journals.read(path) is None]


def nothing(period: Period, model: str | None, runs: list[dict[str, Any]]) -> str:
    """The sentence that a period without runs is refused by: it names the months that have some."""
    since, until = period.since or "the first run", period.until or "now"
    months = sorted({str(run.get("started"))[:7] for run in runs})
    whose = f"of '{model}' " if model else ""
    if not months:
        return f"no run {whose}began from {since} to {until}; {journals.NO_RUNS}."
    shown = ", ".join(months if len(months) <= 12 else [*months[:5], "…", *months[-5:]])
    return f"no run {whose}began from {since} to {until}; there are runs in {shown}."


def of_model(runs: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """The runs of a model by its name; ShrinkError where there are none."""
    name, _, alias = model.partition("@")
    if alias:
        raise ShrinkError(
            f"model is '{model}' but a report is of all its runs: give '{name}', or `shrink show {model}`."
        )
    found = [run for run in runs if run["recipe"] == name]
    if not found:
        from flows.recipe import instead

        known = sorted({str(run["recipe"]) for run in runs})
        hint = instead(name, known, "there are runs of") if known else "there are no runs yet."
        raise ShrinkError(f"model '{name}' has no runs; {hint}")
    return found


def header(path: Path) -> dict[str, Any]:
    """What the first line of a run's samples says of machine and method; nothing where there is none."""
    try:
        with path.open(encoding="utf-8") as stream:
            said = json.loads(stream.readline() or "{}")
    except (OSError, ValueError):
        return {}
    found = said.get("header", said) if isinstance(said, dict) else {}
    return found if isinstance(found, dict) else {}
