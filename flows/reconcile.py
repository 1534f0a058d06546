"""What dead runs left behind, put right when the next run starts; runs that are alive elsewhere are not touched.

A killed process leaves a journal that says running, a Prefect run and MLflow runs that never end, and half-written
directories. `reconcile` is called under the journals' lock and may itself be killed: the journal is written last.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from flows import journal as journals
from flows import servers
from flows.journal import Journal
from registry import runs

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

log = logging.getLogger("flows.reconcile")
FLOW = "compress"


def reconcile(home: Path) -> None:
    """End, in Prefect and MLflow, the runs whose process is gone, and sweep what they had half written."""
    known = journals.read_all(home)
    dead = [journal for journal in known if not settled(home, journal)]
    booked = [journal for journal in known if journal["status"] == journals.SCHEDULED]
    gone = [journal for journal in known if journal not in booked and not journals.alive(journal)]
    crash_flow_runs({str(journal["prefect_run_id"]) for journal in gone})
    for journal in booked:
        end_booking(home, journal)
    for journal in dead:
        runs.kill_run(servers.client(), str(journal["recipe"]), str(journal["run_id"]))
        sweep_run(home / "runs" / str(journal["run_id"]))
        journals.write(home / "runs" / str(journal["run_id"]), journal | {"mlflow_ended": True})
    for directory in (home / "runs").glob("*"):
        ours = journals.NAME.fullmatch(directory.name)  # a home may be a folder that has a runs/ of another program
        if ours and not (directory / "run.json").exists():  # killed before its first word; a living one holds our lock
            shutil.rmtree(directory, ignore_errors=True)
    sweep_cache(home)


def end_booking(home: Path, journal: Journal) -> None:
    """Say so of a scheduled run that ended in Prefect before it began: withdrawn there, or refused."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(journal["prefect_run_id"]).state
            ended = state.name if state is not None and state.is_final() else None
        except ObjectNotFound:
            ended = "deleted"
    if ended is not None:
        error = f"{ended} in Prefect before it began"
        journals.write(home / "runs" / str(journal["run_id"]), journal | {"status": "cancelled", "error": error})


def settled(home: Path, journal: Journal) -> bool:
    """Whether a run is alive, or ended with its journal and MLflow saying so."""
    if journal["status"] == "running":
        return True
    path = home / "runs" / str(journal["run_id"]) / "run.json"
    return bool(json.loads(path.read_text())["status"] != "running" and journal.get("mlflow_ended", True))


def crash_flow_runs(dead: set[str]) -> None:
    """Set Prefect's runs of dead processes, known by id or by their process tag, to Crashed, and their tasks."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.states import Crashed

    going = [StateType.RUNNING, StateType.PENDING]
    state = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=going))
    task_state = filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=going))
    gone: State[Any] = Crashed(message="its process is gone; seen when the next run started")
    with get_client(sync_client=True) as client:
        ours = filters.FlowFilter(name=filters.FlowFilterName(any_=[FLOW]))
        found = client.read_flow_runs(flow_filter=ours, flow_run_filter=filters.FlowRunFilter(state=state))
        waiting = filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])  # of a process, not of a deployment
        found += client.read_flow_runs(
            flow_filter=ours,
            flow_run_filter=filters.FlowRunFilter(
                state=filters.FlowRunFilterState(type=waiting),
                deployment_id=filters.FlowRunFilterDeploymentId(is_null_=True),
            ),
        )
        for run in found:
            if str(run.id) not in dead and not any(map(journals.is_gone, run.tags)):
                continue
            of_run = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run.id]))
            tasks = client.read_task_runs(
                flow_run_filter=of_run, task_run_filter=filters.TaskRunFilter(state=task_state)
            )
            try:
                client.set_flow_run_state(run.id, gone, force=True)
                for task in tasks:
                    client.set_task_run_state(task.id, gone, force=True)
            except PrefectHTTPStatusError as error:  # seen for a deployment's slot whose lease was about to end
                log.warning(
                    "the dead Prefect run %s could not be ended (%s); the next start tries again", run.id, error
                )


def sweep_run(directory: Path) -> None:
    """Remove what a dead run's directory holds half written."""
    for partial in (*directory.glob("*/out.partial"), *directory.glob("fetched"), *directory.glob(".fetched.*")):
        shutil.rmtree(partial, ignore_errors=True)
    for partial in directory.glob(".run.json.*"):
        partial.unlink(missing_ok=True)


def sweep_cache(home: Path) -> None:
    """Remove downloads and records that a process, by now gone, was writing; their names carry its id."""
    for path in (*(home / "cache").glob(".*.*"), *(home / "sources").glob(".*.*")):
        if left_by_the_dead(path.name.split(".")[2]):
            shutil.rmtree(path, ignore_errors=True)
    for path in (*(home / "models").glob("*/.*.*"), *(home / "deployed").glob(".*.*")):  # of registry/versions.py
        if left_by_the_dead(path.name.split(".")[-2]):
            shutil.rmtree(path, ignore_errors=True)
    for path in (home / "index").rglob("*.part"):
        if left_by_the_dead(path.name.split(".")[-2]):
            path.unlink(missing_ok=True)


def left_by_the_dead(pid: str) -> bool:
    """Whether no process of this id exists (a living one may be another: then what it seems to hold stays for now)."""
    return pid.isdecimal() and int(pid) != os.getpid() and not psutil.pid_exists(int(pid))
