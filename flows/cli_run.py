"""The commands `shrink run | resume | cancel`: thin doors to THE flow; heavy imports stand inside."""

import json
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import console as screen
from flows import summed
from flows.cli_common import Json, RunId, connected, fail, first_line, say, unfinished
from flows.settings import settings
from registry.records import ShrinkError

if TYPE_CHECKING:
    from flows.planned import Plan
    from flows.start.budget import Budget
    from flows.start.decision import Decision

    Decide = Callable[[str, Plan], Decision]
Kwh = Annotated[float | None, typer.Option("--max-kwh", help="stop before the stage that would go over this energy")]
Minutes = Annotated[float | None, typer.Option("--max-minutes", help="stop before the stage that would take longer")]


def run(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")] = "sentiment",
    smoke: Annotated[bool, typer.Option("--smoke", help="only the whole chain on a 2-layer clone: a minute")] = False,
    smoke_first: Annotated[bool, typer.Option("--smoke-first", help="first the 2-layer clone, then for real")] = False,
    within: Annotated[
        str | None, typer.Option("--within", help="begin at the greenest time in 12h, 90min, 2d, by the hourly profile")
    ] = None,
    max_kwh: Kwh = None,
    max_minutes: Minutes = None,
    as_json: Json = False,
) -> None:
    """Compress by a recipe, judge, register and promote; goes on where an interrupted run stopped."""
    from flows.start import budget as budgets

    begun = begin_of(within) if within is not None else None
    if begun is not None and smoke:
        raise ShrinkError("--smoke is a minute's walk and begins at once: leave --within out, or take --smoke-first.")
    carried_out(recipe, smoke, smoke_first, budgets.given(max_kwh, max_minutes), begun, as_json)


def begin_of(within: str) -> "Decide":
    """What decides on the start of a recipe whose run is foretold; raises ShrinkError for a window that is none."""
    from flows.recipe import load
    from flows.start import decision as decisions

    decisions.window(within)

    def decide(recipe: str, plan: "Plan") -> "Decision":
        here, now = settings(), decisions.now()
        kept = decisions.kept(here.home, load(recipe), within, now)
        return kept or decisions.decide(here, within, plan, now)

    return decide


def carried_out(
    recipe: str, smoke: bool, smoke_first: bool, budget: "Budget", decide: "Decide | None", as_json: bool
) -> None:
    """The run from its checks to its last line; ends the command with its exit code."""
    from flows.start import budget as budgets

    if as_json:
        screen.to_stderr()  # standard output is for the JSON alone
    plan = check(recipe)
    decision = decide(recipe, plan) if decide else None
    if over := budgets.foretold(budget, plan):
        screen.tell(over)
    for one in (signal.SIGINT, signal.SIGTERM):  # a shell may have made SIGINT ignored
        signal.signal(one, signal.default_int_handler)
    got = connected(start=True)
    if smoke or smoke_first:
        screen.tell("smoke: the whole chain on a 2-layer clone and a few rows; its scores mean nothing")
        journal = execute(recipe, smoke=True, budget=budget)
        screen.tell(f"smoke: the whole chain ran on a 2-layer clone ({len(journal['stages'])} stages)\n")
    if smoke:
        screen.tell(f"registered as {journal['recipe']}, to be looked at; next: shrink run {recipe}")
    if decision and (booked := scheduled(recipe, decision, budget)):
        until = f"{str(booked['starts'])[:19].replace('T', ' ')} UTC, in {booked['deployment']}"
        say(booked, as_json, f"run {booked['run_id']} is scheduled for {until}; `shrink cancel` withdraws it")
        return
    if not smoke:
        journal = execute(recipe, smoke=False, budget=budget, decision=decision)
        from registry.carbon.inputs import basis

        given = basis(settings().carbon, settings().country)
        summed.summary(journal, facts_of(journal), got, given, again=registered_before(journal))
    if as_json:
        typer.echo(json.dumps(journal, indent=1))
    raise typer.Exit(0 if journal["status"] == "passed" else 3)


def scheduled(recipe: str, decision: "Decision", budget: "Budget") -> dict[str, Any] | None:
    """The journal of the run that a deployment's worker will begin; None where no worker is online."""
    from flows.start import booking

    name = booking.deployment()
    return booking.booked(recipe, decision, budget, name) if name else None


def withdrawn(journal: dict[str, Any]) -> None:
    """End a run that is scheduled in Prefect."""
    connected()
    from flows.start import booking

    booking.withdraw(journal)


def registered_before(journal: dict[str, Any]) -> bool:
    """Whether an earlier run made the very version that this one ends with."""
    from flows.journal import read_all

    if journal["version"] is None:
        return False
    same = [run for run in read_all(settings().home) if run["recipe"] == journal["recipe"]]
    return any(run["version"] == journal["version"] for run in same if run["run_id"] < journal["run_id"])


def check(recipe: str) -> "Plan":
    """Refuse a wrong recipe, model or data before any server starts; returns what is foretold of the run."""
    from flows import plan, registered, sources
    from flows.preflight import preflight
    from flows.recipe import BEHAVIOUR, load
    from infra.services import status
    from registry.carbon.inputs import basis

    chosen, here = load(recipe), settings()
    basis(here.carbon, here.country)  # the report comes last: what is wrong there must not wait for it
    if registered.used(chosen):  # whose teacher MLflow knows
        connected(start=True)
    teacher, data = sources.peek(chosen.teacher, here.home), sources.peek(chosen.data_source, here.home)
    others = {name: sources.peek(source, here.home, name == BEHAVIOUR) for name, source in chosen.more.items()}
    preflight(chosen, teacher, data, others)
    foretold = plan.make(chosen, teacher, data, here, others)
    plan.refuse(foretold, here)
    if set(status(here.home).values()) != {"healthy"}:
        screen.tell("starting S3, MLflow and Prefect")
    return foretold


def execute(recipe: str, smoke: bool, budget: "Budget", decision: "Decision | None" = None) -> dict[str, Any]:
    """Run the flow with its progress on the screen; what stops it says how to go on, with exit code 1."""
    from flows.compress import start
    from flows.start import waiting
    from flows.start.budget import OverBudget

    logging.raiseExceptions = False  # while Prefect is away its log handler would write so to standard error
    watcher = screen.watch()
    try:
        return waiting.run(recipe, decision, budget) if decision else start(recipe, smoke, budget)
    except (ShrinkError, typer.Exit):
        raise
    except OverBudget as error:
        watcher.close()
        fail(f"{error}; `shrink resume` with more of it goes on with the finished stages.", 1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # impatient second one: Prefect's clean-up would print a traceback
        watcher.close()
        fail(f"stopped; {way_on()}.", 1)
    except Exception as error:
        watcher.close()
        fail(f"failed: {first_line(error)}; {way_on()}.", 1)
    finally:
        watcher.close()


def way_on() -> str:
    """What to type after a run has been stopped: there may have been no time to begin it."""
    if not unfinished():
        return "no run was begun, type it again"
    return "`shrink resume` goes on with the finished stages, and with a training at its last checkpoint"


def facts_of(journal: dict[str, Any]) -> dict[str, Any]:
    """What the run's version says of itself."""
    path = settings().home / "runs" / str(journal["run_id"]) / "evidence" / "show.json"
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def resume(run_id: RunId = None, max_kwh: Kwh = None, max_minutes: Minutes = None, as_json: Json = False) -> None:
    """Go on with an interrupted run, within its budget or another; finished stages are re-used, verified."""
    from flows.journal import UNFINISHED, find, read_all
    from flows.start import budget as budgets
    from flows.start import decision as decisions

    changed = budgets.given(max_kwh, max_minutes)

    home = settings().home
    if run_id is None:
        stopped = [journal for journal in read_all(home) if journal["status"] in UNFINISHED]
        if not stopped:
            raise ShrinkError("no run is interrupted; `shrink runs` lists them, `shrink run` starts one.")
        journal = stopped[-1]
    else:
        journal = find(home, run_id)
        if journal["status"] not in UNFINISHED:
            end = "`shrink cancel` stops it" if journal["status"] == "running" else "there is nothing to go on with"
            raise ShrinkError(f"run '{journal['run_id']}' is {journal['status']}; {end}.")
    budget, directory = budgets.renewed(journal, changed), home / "runs" / str(journal["run_id"])
    waits = decisions.pending(directory, decisions.now())
    decide = (lambda recipe, plan: waits) if waits else None
    carried_out(str(directory / "recipe.json"), False, False, budget, decide, as_json)


def cancel(run_id: RunId = None, as_json: Json = False) -> None:
    """Stop a run that is going on; its finished stages stay for `shrink resume`."""
    from flows.control import stop

    journal = stop(settings().home, run_id, withdrawn)
    text = f"run {journal['run_id']} is {journal['status']}; `shrink resume {journal['run_id']}` goes on with it"
    say({"run_id": journal["run_id"], "status": journal["status"]}, as_json, text)
