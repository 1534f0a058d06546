"""Journals and what the next start does about dead runs, against the real Prefect and MLflow servers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import journal as journals
from flows import reconcile
from flows.recipe import Recipe, parse
from infra.addresses import Services
from registry import runs


@pytest.fixture
def recipe() -> Recipe:
    stages = [{"kind": "finetune"}, {"kind": "export", "method": "onnx"}]
    data = {"kind": "data", "file": "a.csv", "format": "csv"}
    source = {"uri": "dir:/nowhere"}
    return parse({"name": "tale", "teacher": source, "data_source": source, "data": data, "stages": stages}, "test")


@pytest.fixture
def other() -> Iterator[psutil.Process]:
    """A living process that is not this one."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def owned_by(home: Path, journal: dict[str, Any], pid: int, created: float, **more: Any) -> dict[str, Any]:
    journal = journal | {"pid": pid, "pid_created": created} | more
    journals.write(home / "runs" / str(journal["run_id"]), journal)
    return journal


def test_a_live_run_of_the_same_recipe_is_not_taken_over(tmp_path: Path, recipe: Recipe, other: psutil.Process) -> None:
    first = owned_by(tmp_path, journals.begin(tmp_path, recipe, None), other.pid, other.create_time())
    second = journals.begin(tmp_path, recipe, None)
    assert second["run_id"] != first["run_id"] and second["resumed"] == 0


@pytest.mark.parametrize("status", ["running", "failed", "cancelled", "crashed"])
def test_an_interrupted_run_is_gone_on_with(tmp_path: Path, recipe: Recipe, status: str) -> None:
    dead = owned_by(tmp_path, journals.begin(tmp_path, recipe, None), os.getpid(), 1.0, status=status)
    moved = recipe.model_copy(
        update={"teacher": recipe.teacher.model_copy(update={"uri": f"dir:/elsewhere/{Path(recipe.teacher.uri).name}"})}
    )
    other = journals.begin(tmp_path, moved, None)
    assert moved.digest == recipe.digest and other["run_id"] != dead["run_id"], "in another folder: another run"
    shutil.rmtree(tmp_path / "runs" / other["run_id"])
    again = journals.begin(tmp_path, recipe, "flow-run")
    assert (again["run_id"], again["resumed"], again["status"]) == (dead["run_id"], 1, "running")
    assert again["prefect_run_id"] == "flow-run" and again["pid"] == os.getpid()


def test_a_finished_run_is_not_gone_on_with(tmp_path: Path, recipe: Recipe) -> None:
    done = owned_by(tmp_path, journals.begin(tmp_path, recipe, None), os.getpid(), 1.0, status="rejected")
    assert journals.begin(tmp_path, recipe, None)["run_id"] != done["run_id"]


def test_a_tag_tells_a_dead_process_from_a_live_one() -> None:
    mine = journals.process_tag()
    assert not journals.is_gone(mine)
    assert journals.is_gone(mine.rsplit(":", 1)[0] + ":1.00")
    assert not journals.is_gone(f"process:another-machine:{os.getpid()}:1.00") and not journals.is_gone("nightly")


def running(client: Any, tags: list[str]) -> Any:
    """A flow run of `compress` in state Running that no process works on."""
    from prefect.states import Running

    from flows.compress import compress

    return client.create_flow_run(compress, parameters={"recipe": "tale"}, tags=tags, state=Running())


def test_a_start_ends_what_dead_runs_left_and_spares_the_living(
    servers: Services, tmp_path: Path, recipe: Recipe, other: psutil.Process
) -> None:
    from prefect.client.orchestration import get_client

    mlflow = runs.connect(servers.mlflow_uri)
    with get_client(sync_client=True) as client:
        tagged = running(client, [journals.process_tag().rsplit(":", 1)[0] + ":1.00"])
        known, living = running(client, []), running(client, [journals.process_tag()])
        states: dict[str, dict[str, Any]] = {}
        for name, pid, born, flow_run in (
            ("dead", os.getpid(), 1.0, known),
            ("live", other.pid, other.create_time(), living),
        ):
            journal = journals.begin(tmp_path, recipe.model_copy(update={"seed": len(states)}), str(flow_run.id))
            tag = {runs.RUN_TAG: str(journal["run_id"])}
            parent = runs.open_run(mlflow, "tale", str(journal["run_id"]), tag)
            where = mlflow.get_run(parent).info.experiment_id
            child = mlflow.create_run(where, tags={runs.PARENT: parent}).info.run_id
            states[name] = owned_by(tmp_path, journal, pid, born, mlflow_run_id=parent) | {"child": child}
            for left in ("03-label/out.partial", "fetched"):
                (tmp_path / "runs" / str(journal["run_id"]) / left).mkdir(parents=True)
        for leftover in (".abc.999999999.x", f".abc.{other.pid}.x"):
            (tmp_path / "cache" / leftover).mkdir(parents=True)
        (tmp_path / "sources" / ".fetch.999999999.x").mkdir(parents=True)
        (tmp_path / "sources" / "0198af0383264a16").mkdir()
        for wordless in ("20261123-000000-tale-abcd", "of-another-program"):
            (tmp_path / "runs" / wordless).mkdir(exist_ok=True)

        reconcile.reconcile(tmp_path)

        seen = {name: client.read_flow_run(run.id).state for name, run in
                {"tagged": tagged, "known": known, "living": living}.items()}  # fmt: skip
        client.delete_flow_run(living.id)
    assert {name: state.name for name, state in seen.items() if state} == {
        "tagged": "Crashed",
        "known": "Crashed",
        "living": "Running",
    }
    for name, status in (("dead", "KILLED"), ("live", "RUNNING")):
        for run_id in (states[name]["mlflow_run_id"], states[name]["child"]):
            assert mlflow.get_run(run_id).info.status == status
    kept = tmp_path / "runs" / str(states["live"]["run_id"])
    assert {path.name for path in tmp_path.glob("runs/*/fetched")} == {"fetched"} and (kept / "fetched").is_dir()
    assert list(tmp_path.glob("runs/*/*/out.partial")) == [kept / "03-label" / "out.partial"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f".abc.{other.pid}.x"]
    assert [path.name for path in (tmp_path / "sources").iterdir()] == ["0198af0383264a16"]
    assert not (tmp_path / "runs" / "20261123-000000-tale-abcd").exists()
    assert (tmp_path / "runs" / "of-another-program").exists()
    assert {journal["status"] for journal in journals.read_all(tmp_path)} == {"running", "crashed"}
