"""The deployment of infra/prefect.yaml really runs by itself: its cron, a process worker, a run to its end."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.recipe import load
from flows.start import booking
from infra.addresses import Services
from registry import runs
from tests.flows.start.test_walks import green_after, state_of
from tests.flows.test_compress import shrink
from tests.flows.test_watch import put_teacher, recipe_of
from tests.infra.test_prefect_yaml import FILE, prefect

DONE = {"COMPLETED", "FAILED", "CRASHED"}  # a run that meets the one before it is cancelled: one at a time


@pytest.fixture
def worker(servers: Services, servers_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A process worker in an empty directory, under the variables that `shrink environment` prints."""
    printed = shrink(servers_home, "environment").stdout
    pairs = (line.removeprefix("export ").split("=", 1) for line in printed.splitlines())
    variables = {name: value.strip("'") for name, value in pairs} | {"SHRINK_THREADS": "1"}
    variables["TMPDIR"] = str(tmp_path)  # the worker's temporary folder has a fixed name, perhaps of another user
    assert variables["SHRINK_HOME"] == str(servers_home)
    prefect(servers, servers_home, "work-pool", "create", "shrink", "--type", "process", "--overwrite")
    words = ["worker", "start", "--pool", "shrink", "--type", "process", "--limit", "1"]
    with (tmp_path / "worker.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            cwd=tmp_path,
            env=os.environ | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield tmp_path
    started = psutil.Process(process.pid).children(recursive=True)  # perhaps the next minute's run
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:  # it waits for the run that it started
        for one in started:
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.kill()
        process.wait(10)


async def scheduled_run(wait: float, name: str = "soon") -> Any:
    """The first run of the deployment that has ended, or the one that went farthest within `wait` seconds."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    chosen = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    async with get_client() as client:
        until = time.monotonic() + wait
        while True:
            runs = await client.read_flow_runs(deployment_filter=chosen)
            ended = [run for run in runs if run.state and run.state.type.value in DONE]
            if ended or time.monotonic() > until:
                return next(iter(ended or runs), None)
            await asyncio.sleep(1)


def test_a_cron_schedule_runs_the_recipe_to_its_end_by_itself(
    servers: Services,
    servers_home: Path,
    tiny: Path,
    worker: Path,
) -> None:
    content = yaml.safe_load(FILE.read_text())
    deployment, *_ = content["deployments"]
    content["deployments"] = [deployment]
    deployment |= {"name": "soon", "parameters": {"recipe": str(tiny / "tiny.yaml")}}
    deployment["schedules"][0]["cron"] = "* * * * *"
    deployment["work_pool"]["job_variables"]["working_dir"] = str(worker)
    (worker / "prefect.yaml").write_text(yaml.safe_dump(content))
    try:
        prefect(servers, servers_home, "deploy", "--prefect-file", str(worker / "prefect.yaml"), "--all")
        run = asyncio.run(scheduled_run(240))
    finally:
        prefect(servers, servers_home, "deployment", "delete", "compress/soon")
    told = (worker / "worker.txt").read_text()
    assert run is not None and run.state.type.value == "COMPLETED", f"{run}\n{told}"
    assert run.auto_scheduled and run.start_time is not None
    journals = [json.loads(path.read_text()) for path in servers_home.glob("runs/*/run.json")]
    (journal,) = [journal for journal in journals if journal["prefect_run_id"] == str(run.id)]
    assert journal["status"] == "passed" and run.name == f"tiny · {journal['run_id']}"


def test_a_teacher_that_moved_starts_its_recipe_by_itself(
    servers: Services, servers_home: Path, tiny: Path, worker: Path
) -> None:
    client = runs.connect(servers.mlflow_uri)
    put_teacher(client, "scheduled-teacher", tiny / "teacher")
    recipe = recipe_of(tiny, worker, "models:/scheduled-teacher@production")
    content = yaml.safe_load(FILE.read_text())
    *_, deployment = content["deployments"]
    assert deployment["entrypoint"] == "flows.watch.watch" and not deployment["schedules"][0]["active"]
    deployment |= {"name": "moved", "parameters": {"recipes": [str(recipe)]}, "schedules": [{"interval": 5}]}
    deployment["work_pool"]["job_variables"]["working_dir"] = str(worker)
    (worker / "prefect.yaml").write_text(yaml.safe_dump({**content, "deployments": [deployment]}))
    try:
        prefect(servers, servers_home, "deploy", "--prefect-file", str(worker / "prefect.yaml"), "--all")
        run = asyncio.run(scheduled_run(240, "moved"))
        told = (worker / "worker.txt").read_text()
        assert run is not None and run.state.type.value == "COMPLETED", f"{run}\n{told}"
    finally:
        prefect(servers, servers_home, "deployment", "delete", "watch/moved")
    found = [json.loads(path.read_text()) for path in servers_home.glob("runs/*/run.json")]
    (journal,) = [one for one in found if one["recipe"] == load(str(recipe)).name]
    assert journal["status"] == "passed"


def test_a_run_within_a_window_begins_in_the_worker(
    servers: Services, servers_home: Path, tiny: Path, worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(FILE.read_text())
    deployment, *_ = content["deployments"]
    deployment |= {"name": "green", "schedules": []}
    deployment["work_pool"]["job_variables"]["working_dir"] = str(worker)
    (worker / "prefect.yaml").write_text(yaml.safe_dump({**content, "deployments": [deployment]}))
    monkeypatch.setenv("SHRINK_CARBON", str(green_after(worker, 60)))
    try:
        prefect(servers, servers_home, "deploy", "--prefect-file", str(worker / "prefect.yaml"), "--all")
        until = time.monotonic() + 60
        while booking.deployment() is None and time.monotonic() < until:
            time.sleep(0.5)
        words = ("run", str(tiny / "tiny.yaml"), "--within", "3min")
        booked = json.loads(shrink(servers_home, *words, "--json").stdout)
        assert booked["status"] == "scheduled" and booked["deployment"] == "compress/green"
        assert f"run {booked['run_id']} is scheduled for " in shrink(servers_home, *words).stdout, "once, not twice"
        other = json.loads(shrink(servers_home, "run", str(tiny / "rejected.yaml"), *words[2:], "--json").stdout)
        shrink(servers_home, "cancel", other["run_id"])
        assert state_of(other["prefect_run_id"])[0] == "CANCELLED"
        path = servers_home / "runs" / booked["run_id"] / "run.json"
        until = time.monotonic() + 240
        while json.loads(path.read_text())["status"] in {"scheduled", "running"} and time.monotonic() < until:
            time.sleep(0.5)
    finally:
        prefect(servers, servers_home, "deployment", "delete", "compress/green")
    journal = json.loads(path.read_text())
    assert journal["status"] == "passed", f"{journal}\n{(worker / 'worker.txt').read_text()}"
    assert journal["started"] >= booked["starts"] and journal["prefect_run_id"] == booked["prefect_run_id"]
    assert journal["carbon_start"]["chosen_grams_per_kwh"] < journal["carbon_start"]["at_once_grams_per_kwh"]
