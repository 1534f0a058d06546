"""The deployment file against a real Prefect server: it is accepted as shipped, and its schedule fires."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from infra import services

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "prefect.yaml"


def prefect(running: services.Services, home: Path, *words: str) -> str:
    env = {**os.environ, **services.environment(running, home), "PWD": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def deployed(wait: float) -> tuple[Any, list[Any]]:
    """The deployment and its scheduled runs, once the server's scheduler has made some."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    async with get_client() as client:
        deployment = await client.read_deployment_by_name("compress/nightly-sentiment")
        until = time.monotonic() + wait
        while True:
            chosen = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
            runs = await client.read_flow_runs(deployment_filter=chosen, limit=3)
            if runs or time.monotonic() > until:
                return deployment, list(runs)
            await asyncio.sleep(1)


def test_the_nightly_deployment_is_accepted_and_its_schedule_fires(
    servers: services.Services, servers_home: Path
) -> None:
    prefect(servers, servers_home, "work-pool", "create", "shrink", "--type", "process", "--overwrite")
    prefect(servers, servers_home, "deploy", "--prefect-file", str(FILE), "--all")
    deployment, runs = asyncio.run(deployed(90))
    assert deployment.entrypoint == "flows.compress.compress"
    assert deployment.work_pool_name == "shrink"
    assert deployment.parameters == {"recipe": "sentiment", "smoke": False}
    assert deployment.job_variables["working_dir"] == str(servers_home)
    assert deployment.pull_steps == []
    assert runs, "the server is healthy but schedules nothing: see the pin of sqlalchemy in pyproject.toml"
    assert {(run.expected_start_time.hour, run.expected_start_time.minute) for run in runs} == {(2, 0)}
