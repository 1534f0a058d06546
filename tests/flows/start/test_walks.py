"""Real runs that stop by their budget, and that wait for a greener hour: killed, stopped, resumed, against Prefect."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from infra.addresses import Services
from registry import runs
from tests.flows.test_compress import ROOT, shrink

STEP = "05-distill-logits"  # so long in the recipe below that no budget of the test is enough


def test_a_run_over_its_budget_stops_at_a_boundary_and_goes_on(
    servers: Services, servers_home: Path, tiny: Path, tmp_path: Path
) -> None:
    recipe = str(recipe_of(tiny, tmp_path, "tiny-budget", 1_000_000))  # most of an hour
    stopped = shrink(servers_home, "run", recipe, "--max-minutes", "5", "--json", check=1)
    told = json.loads(stopped.stdout)
    assert f"stopped before {STEP}: " in told["error"] and "over the budget of 5 minutes" in told["error"]
    assert "the run will stop before the stage that would go over" in stopped.stderr, "foretold"
    directory = servers_home / "runs" / told["run"]
    journal = json.loads((directory / "run.json").read_text())
    assert journal["status"] == "stopped" and len(journal["stages"]) == 5 and not (directory / STEP).exists()
    assert journal["error"] in told["error"]
    assert runs.connect(servers.mlflow_uri).get_run(journal["mlflow_run_id"]).info.status == "KILLED"
    assert state_of(journal["prefect_run_id"]) == ("CANCELLED", "OverBudget")
    assert "was stopped by --max-minutes 5" in shrink(servers_home, "resume", told["run"], check=2).stderr
    again = shrink(servers_home, "resume", told["run"], "--max-minutes", "1e9", "--max-kwh", "1e-6", check=1).stderr
    assert f"stopped before {STEP}: " in again and "over the budget of 1e-06 kWh" in again
    journal = json.loads((directory / "run.json").read_text())
    assert journal["resumed"] == 1 and all(stage["cached"] for stage in journal["stages"])
    assert journal["budget"] == {"max_kwh": 1e-6, "max_minutes": 1e9}


def state_of(flow_run: str) -> tuple[str, str]:
    """Type and name of the state that a run has in Prefect."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run).state  # type: ignore[arg-type]
    assert state is not None
    return state.type.value, state.name or ""


def recipe_of(tiny: Path, folder: Path, name: str, epochs: int) -> Path:
    """The tiny recipe with stages of these tests' own, shared but for the length of `distill`."""
    content = yaml.safe_load((tiny / "tiny.yaml").read_text()) | {"name": name, "seed": 11}
    content["stages"][3]["epochs"] = epochs
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / f"{name}.yaml"


def green_after(folder: Path, seconds: float) -> Path:
    """A carbon file by whose profile the grid is dirty for so many seconds, in steps of five, and then green."""
    begin = datetime.now(UTC) - timedelta(seconds=60)
    moments = [begin + timedelta(seconds=5 * step) for step in range(720)]
    dirty = datetime.now(UTC) + timedelta(seconds=seconds)
    rows = [f"{one.isoformat()},{900 if one < dirty else 100}" for one in moments]
    (folder / "hours.csv").write_text("\n".join(["timestamp,grams_per_kwh", *rows]))
    (folder / "carbon.yaml").write_text("profile: hours.csv\n")
    return folder / "carbon.yaml"


def waiting(home: Path, process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The journal of the run that this process lets wait."""
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        for path in home.glob("runs/*-tiny-green-*/run.json"):
            journal: dict[str, Any] = json.loads(path.read_text())
            if journal["pid"] == process.pid and journal["status"] == "waiting" and journal["prefect_run_id"]:
                return journal
        time.sleep(0.2)
    raise AssertionError(f"no run waits: {process.communicate(timeout=10)}")


def test_a_run_waits_for_the_greener_hour_through_a_kill_and_a_cancel(
    servers: Services, servers_home: Path, tiny: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    recipe = recipe_of(tiny, tmp_path, "tiny-green", 3)
    monkeypatch.setenv("SHRINK_CARBON", str(green_after(tmp_path, 75)))
    words = [sys.executable, "-m", "flows.cli", "run", str(recipe), "--within", "3min"]
    variables = {**os.environ, "SHRINK_HOME": str(servers_home), "SHRINK_THREADS": "1"}
    with subprocess.Popen(words, cwd=ROOT, env=variables, stdout=-1, stderr=-1, text=True) as process:
        first = waiting(servers_home, process)
        process.kill()
    directory = servers_home / "runs" / first["run_id"]
    decision = json.loads((directory / "start.json").read_text())
    assert decision["choice"]["chosen"]["grams_per_kwh"] == 100 and len(decision["choice"]["candidates"]) > 5
    assert state_of(first["prefect_run_id"])[0] == "SCHEDULED"
    with subprocess.Popen(words, cwd=ROOT, env=variables, stdout=-1, stderr=-1, text=True) as process:
        second = waiting(servers_home, process)
        assert "waiting" in shrink(servers_home, "runs").stdout
        shrink(servers_home, "cancel", second["run_id"])
        out, err = process.communicate(timeout=30)
        assert process.returncode == 1 and "green start: " in out and "shrink resume" in err
    assert (second["run_id"], second["starts"]) == (first["run_id"], first["starts"]), "the same decision"
    assert state_of(first["prefect_run_id"])[0] == "CRASHED" and state_of(second["prefect_run_id"])[0] == "CANCELLED"
    done = shrink(servers_home, "resume", first["run_id"]).stdout
    journal = json.loads((directory / "run.json").read_text())
    assert journal["status"] == "passed" and state_of(journal["prefect_run_id"])[0] == "COMPLETED"
    start = datetime.fromisoformat(first["starts"])
    assert all(datetime.fromisoformat(one["started"]) >= start for one in journal["stages"] if not one["cached"])
    told = journal["carbon_start"]
    assert told["saved_grams"]["low"] > 0 and told["would_have_been_grams"]["central"] > told["were_grams"]["central"]
    assert "would have been" in done and " saved (before PUE, hourly profile hours.csv" in done
    assert "estimate: " in done and "; came: " in done
    seen = json.loads(shrink(servers_home, "show", "tiny-green@champion", "--json").stdout)["carbon_start"]
    assert seen["chosen"] == told["chosen"] and seen["saved_grams"]["low"] > 0
