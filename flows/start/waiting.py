"""A run that begins later: its Prefect run is scheduled for that moment, its folder says `waiting`, this process waits.

Ctrl-C ends the wait and the scheduled run; a kill leaves a folder that the next `shrink run --within` or `shrink
resume` goes on with, and a scheduled run that the next start ends.
"""

import logging
import time
from typing import TYPE_CHECKING, Any

from prefect import tags
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Scheduled

from flows import compress, keys, reconcile, registered
from flows import journal as journals
from flows.recipe import Recipe, load
from flows.settings import Settings, settings
from flows.start import decision as decisions
from flows.start.budget import Budget
from flows.start.decision import Decision

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

progress_log = logging.getLogger("progress")
NAP = 30.0  # seconds: a machine that was asleep meanwhile looks at its clock again


def run(recipe: str, decision: Decision, budget: Budget) -> dict[str, Any]:
    """Wait for the decided start and run the flow then; returns the journal. Raises what `compress.start` does."""
    here = settings()
    keys.ready(here)
    chosen = registered.pinned(load(recipe), here.home)
    journal, flow_run = booked(here, chosen, decision, budget)
    directory = here.home / "runs" / str(journal["run_id"])
    try:
        until(decision)
    except BaseException:
        ended(here, journal, flow_run)
        raise
    return compress.start(str(directory / "recipe.json"), budget=budget, flow_run=flow_run)


def booked(here: Settings, recipe: Recipe, decision: Decision, budget: Budget) -> tuple[dict[str, Any], "FlowRun"]:
    """The run's folder with its decision, and its run in Prefect, scheduled."""
    with journals.lock(here.home):
        reconcile.reconcile(here.home)
        journal = journals.begin(here.home, recipe, None, journals.WAITING)
    directory = here.home / "runs" / str(journal["run_id"])
    decisions.write(directory, decision)
    parameters = {"recipe": str(directory / "recipe.json"), "smoke": False, **budget.model_dump()}
    with tags(journals.process_tag()) as current, get_client(sync_client=True) as client:
        state: Any = Scheduled(scheduled_time=decision.start)
        flow_run = client.create_flow_run(compress.compress, parameters=parameters, tags=current, state=state)
    journal |= {"prefect_run_id": str(flow_run.id), "starts": decision.start.isoformat(), "budget": budget.model_dump()}
    journals.write(directory, journal)
    return journal, flow_run


def until(decision: Decision) -> None:
    """Sleep until the decided start."""
    progress_log.info("waiting", extra={"waiting": f"{decisions.said(decision)}; Ctrl-C ends the wait"})
    while (left := (decision.start - decisions.now()).total_seconds()) > 0:
        time.sleep(min(left, NAP))


def ended(here: Settings, journal: dict[str, Any], flow_run: "FlowRun") -> None:
    """Nothing was begun: the folder and Prefect say so."""
    said = f"stopped while it waited for its start at {journal['starts']}"
    journals.write(here.home / "runs" / str(journal["run_id"]), journal | {"status": "cancelled", "error": said})
    with get_client(sync_client=True) as client:
        gone: Any = Cancelled(message=said)
        client.set_flow_run_state(flow_run.id, gone, force=True)
