"""A run that begins later in a worker: scheduled by a deployment of THE flow, where one has a worker that is online."""

from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import WorkerStatus
from prefect.deployments import run_deployment
from prefect.states import Cancelled

from flows import journal as journals
from flows import keys, reconcile, registered
from flows.recipe import load
from flows.settings import settings
from flows.start import decision as decisions
from flows.start.budget import Budget
from flows.start.decision import Decision


def deployment() -> str | None:
    """FLOW/NAME of the first deployment, by name, that a worker waits for; None where there is none."""
    ours = filters.FlowFilter(name=filters.FlowFilterName(any_=[reconcile.FLOW]))
    with get_client(sync_client=True) as client:
        for one in sorted(client.read_deployments(flow_filter=ours), key=lambda one: one.name):
            workers = client.read_workers_for_work_pool(one.work_pool_name) if one.work_pool_name else []
            if not one.paused and any(worker.status == WorkerStatus.ONLINE for worker in workers):
                return f"{reconcile.FLOW}/{one.name}"
    return None


def booked(recipe: str, decision: Decision, budget: Budget, name: str) -> dict[str, Any]:
    """Schedule the run in this deployment; returns its journal. What was booked before for this recipe stays so."""
    here = settings()
    keys.ready(here)
    chosen = registered.pinned(load(recipe), here.home)
    with journals.lock(here.home):
        reconcile.reconcile(here.home)
        for journal in journals.read_all(here.home):
            if journal["status"] == journals.SCHEDULED and journals.same_recipe(here.home, journal, chosen):
                return journal
        journal = journals.begin(here.home, chosen, None, journals.WAITING)
        directory = here.home / "runs" / str(journal["run_id"])
        decisions.write(directory, decision)
        parameters = {"recipe": str(directory / "recipe.json"), "smoke": False, **budget.model_dump()}
        flow_run: Any = run_deployment(
            name, parameters=parameters, scheduled_time=decision.start, timeout=0, as_subflow=False
        )
        journal |= {"status": journals.SCHEDULED, "pid": 0, "pid_created": 0.0, "prefect_run_id": str(flow_run.id)}
        journal |= {"starts": decision.start.isoformat(), "deployment": name, "budget": budget.model_dump()}
        journals.write(directory, journal)
    return journal


def withdraw(journal: dict[str, Any]) -> None:
    """End a scheduled run before it begins."""
    said = f"withdrawn before its start at {journal['starts']}"
    with get_client(sync_client=True) as client:
        gone: Any = Cancelled(message=said)
        client.set_flow_run_state(journal["prefect_run_id"], gone, force=True)
    home = settings().home
    journals.write(home / "runs" / str(journal["run_id"]), journal | {"status": "cancelled", "error": said})
