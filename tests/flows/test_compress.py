"""The whole loop on a tiny recipe against the real servers, through the command: passes, re-uses, survives everything.

The last test walks the same recipe in a copy of the code in another folder, with servers of its own, S3 gone in the
middle and a kill -9 after that: the digests must be those of the first, undisturbed run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import journal as journals
from infra import keys, services
from infra.addresses import Services
from registry import attested, provenance, runs, signing
from tasks.meter import samples
from tests.flows.audited import agrees, audited

ROOT = Path(__file__).parents[2]
MODELS = {"data", "floor", "finetune", "label", "prune", "distill", "export", "quantize"}  # not what measures time


def shrink(home: Path, *words: str, check: int | None = 0, typed: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SHRINK_HOME": str(home), "SHRINK_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli", *words]
    done = subprocess.run(command, env=environment, input=typed, capture_output=True, text=True, timeout=300)
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def walked(servers: Services, servers_home: Path, tiny: Path) -> dict[str, Any]:
    """The journal of a recipe that no other test runs: each of its stages is computed."""
    import yaml

    content = yaml.safe_load((tiny / "tiny.yaml").read_text()) | {"name": "loop", "seed": 1}
    (tiny / "loop.yaml").write_text(yaml.safe_dump(content))
    printed = shrink(servers_home, "run", str(tiny / "loop.yaml"), "--json").stdout
    journal: dict[str, Any] = json.loads(printed[printed.index("{\n") :])
    return journal


def test_the_whole_loop(servers: Services, servers_home: Path, walked: dict[str, Any]) -> None:
    first = walked
    assert first["status"] == "passed" and not any(stage["cached"] for stage in first["stages"])
    check_serving_is_metered(servers_home, first)
    shown = json.loads(shrink(servers_home, "show", "loop@champion", "--json").stdout)
    assert shown["digest"] == first["digest"] and shown["verdict"]["passed"]
    compared = {one["export"]: one for one in shown["exports"]}
    assert list(compared) == ["onnx", "int8_dynamic", "onnx (teacher)"]
    version, home = servers_home / "models" / "loop" / "1", keys.folder(servers_home)
    assert shown["signed"]["key"] == signing.public(home / keys.PUBLIC, "key").id
    said = attested.provenance(version)
    assert provenance.subject(said) == ("loop", shown["digest"])
    assert all(provenance.material(said, name) for name in ("teacher", "data", "recipe", "code", "constraints"))
    assert attested.evaluation(version)[0] == shown["digest"] and attested.verdict(version).passed
    words = ["verify", "key", str(version), "--signature", str(version / signing.SIGNATURE)]
    command = [sys.executable, "-m", "model_signing", *words, "--public_key", str(home / keys.PUBLIC)]
    assert subprocess.run(command, capture_output=True).returncode == 0, "the library's own command says so too"
    assert all(one["texts"] > 20 and "onnxruntime" in one["runtime"] for one in compared.values())
    assert compared["onnx"]["largest"] < 1e-4 < compared["int8_dynamic"]["largest"], "what was quantised is apart"
    assert compared["int8_dynamic"]["digest"] == shown["digest"]
    assert not list((servers_home / "runs" / first["run_id"] / "fetched" / "model").glob("*compar*"))
    refused = shrink(servers_home, "bundle", "loop@champoin", "--browser", str(servers_home / "page"), check=2)
    assert "has no alias 'champoin'; did you mean 'champion'" in refused.stderr
    assert not (servers_home / "page").exists()
    scored = json.loads(shrink(servers_home, "plan", "--score", first["run_id"], "--json").stdout)
    assert len(scored["stages"]) == len(first["stages"]) and scored["errors"]["parameters"]["worst"] == 0
    assert all(stage["ram_mb"]["ratio"] < 2 for stage in scored["stages"])
    answer = json.loads(shrink(servers_home, "predict", "loop@champion", "good fine great film", "--json").stdout)
    assert answer[0]["label"] in {"negative", "positive"} and 0.5 <= answer[0]["score"] <= 1.0


def test_a_rejected_candidate_is_registered_and_moves_no_alias(
    servers: Services, servers_home: Path, tiny: Path
) -> None:
    shrink(servers_home, "run", str(tiny / "rejected.yaml"), check=3)
    refused = shrink(servers_home, "show", "tiny-rejected@champion", check=2)
    assert "no alias 'champion'" in refused.stderr
    assert json.loads(shrink(servers_home, "show", "tiny-rejected@1", "--json").stdout)["verdict"]["passed"] is False


def test_second_run_reuses_and_registers_nothing_twice(
    servers: Services, servers_home: Path, tiny: Path, walked: dict[str, Any]
) -> None:
    shrink(servers_home, "run", str(tiny / "loop.yaml"))
    journals = json.loads(shrink(servers_home, "runs", "--json").stdout)
    last = [journal for journal in journals if journal["recipe"] == "loop"][-1]
    assert last["run_id"] != walked["run_id"] and all(stage["cached"] for stage in last["stages"])
    assert last["version"] == "1"


def test_an_auditor_adds_every_total_up_again(
    servers: Services, servers_home: Path, tiny: Path, tmp_path: Path
) -> None:
    shrink(servers_home, "run", str(tiny / "tiny.yaml"))  # re-used where another test made it
    agrees(servers_home, tmp_path)
    report = tmp_path / "plain.json"
    shrink(servers_home, "report", "--format", "json", "--out", str(report))
    said = audited(report, servers_home)
    assert said.returncode == 0, said.stdout
    (tmp_path / "wrong.yaml").write_text("pue: {value: 0.9, source: x}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHRINK_CARBON", str(tmp_path / "wrong.yaml"))
        refused = shrink(servers_home, "report", check=2)
        assert "pue.value = 0.9 must be greater than or equal to 1" in refused.stderr
        refused = shrink(servers_home, "run", str(tiny / "tiny.yaml"), check=2)
        assert "pue.value = 0.9" in refused.stderr, "before any work"


def test_a_clone_elsewhere_that_lost_s3_and_was_killed_ends_with_the_same_digests(
    servers: Services, servers_home: Path, tiny: Path, tmp_path: Path
) -> None:
    clone, home = tmp_path / "clone", tmp_path / "elsewhere"
    for package in ("flows", "tasks", "registry", "infra"):
        shutil.copytree(ROOT / package, clone / package, ignore=shutil.ignore_patterns("__pycache__"))
    run = walker(clone, home, tiny / "tiny.yaml")
    shrink(servers_home, "run", str(tiny / "tiny.yaml"))  # the undisturbed one; re-used where another test made it
    shrink(home, "up")
    try:
        process = run()
        until(process, "floor")
        begun(home, "02-finetune")
        os.kill(services.current(home).pids["s3"][0].pid, signal.SIGKILL)  # type: ignore[union-attr]
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 1 and "`shrink resume`" in printed and "Traceback" not in printed, printed
        assert journals.find(home, None)["status"] == "failed"
        assert list((home / "index" / "unsent").iterdir()), "what was finished without S3 is remembered"

        process = run()  # starts S3 again
        until(process, "label")
        begun(home, "04-*")
        time.sleep(1.2)  # its first slice
        started = psutil.Process(process.pid).children(recursive=True)
        family = [one for one in started if "tasks.zygote" in one.cmdline()]  # S3 was started too, and is to stay
        assert family
        with process:  # closes its pipe
            process.kill()
        assert not psutil.wait_procs(family, timeout=20)[1], "an orphan goes on"
        assert journals.find(home, None)["status"] == "crashed"

        process = run()
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        (last,) = journals.read_all(home)
        assert (last["status"], last["resumed"], last["version"]) == ("passed", 2, "1")
        check_what_was_killed_counts(home, last)
        assert "killed or failed among them" in " ".join(printed.split())
        traced = agrees(home, tmp_path)["trace"]
        assert any(stage["ended"] == "killed" for stage in traced[0]["stages"])
        assert {"data", "floor", "finetune", "label"} <= {s["kind"] for s in last["stages"] if s["cached"]}
        undisturbed = next(j for j in journals.read_all(servers_home) if j["recipe"] == "tiny")
        assert last["digest"] == undisturbed["digest"]
        made = [{s["kind"]: s["digest"] for s in j["stages"] if s["kind"] in MODELS} for j in (last, undisturbed)]
        assert made[0] == made[1] and len(made[0]) == len(MODELS)
        assert not list((home / "index" / "unsent").iterdir())
        check_nothing_hangs(home, last)
    finally:
        shrink(home, "down")


def walker(clone: Path, home: Path, recipe: Path) -> Callable[[], subprocess.Popen[str]]:
    """A function that starts `shrink run` from the copied code, in a session of its own."""
    more = {"SHRINK_HOME": str(home), "SHRINK_THREADS": "1", "PYTHONPATH": str(clone), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    where = "import tasks, flows; print(tasks.__file__, flows.__file__)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", where], env=environment | more, cwd=clone.parent, capture_output=True, text=True
    )
    assert found.stdout.count(str(clone)) == 2, found.stdout + found.stderr
    command = [sys.executable, "-m", "flows.cli", "run", str(recipe)]
    return lambda: subprocess.Popen(
        command,
        env=environment | more,
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until(process: subprocess.Popen[str], kind: str) -> None:
    """Read a run's lines until the one of the finished stage (a progress line has no megabytes)."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.split()[:1] == [kind] and " MB " in line:
            return
    raise AssertionError("".join(seen))


def begun(home: Path, stage: str) -> None:
    """Wait until a stage's process has been described, which is just before it starts."""
    late = time.monotonic() + 60
    while not list(home.glob(f"runs/*/{stage}/call.json")):
        assert time.monotonic() < late, f"{stage} did not begin"
        time.sleep(0.05)


def check_serving_is_metered(home: Path, journal: dict[str, Any]) -> None:
    """Every window's energy is there, follows from the run's raw samples, and says how well it is known."""
    serving = journal["evaluation"]["serving"]
    goes = samples.goes(home / "runs" / journal["run_id"] / "samples.jsonl")
    slices = [one for go in goes for one in go.slices if one.window and one.kwh]
    assert len({one.window for one in slices}) == 10 and serving["unit"] == "request"
    assert serving["ratio_is_time"] == (slices[0].tiers["cpu"] != "counter") and serving["tier"] != "unmeasured"
    for role in ("teacher", "student"):
        for turn, window in enumerate(serving[role]["windows"]):
            own = [one for one in slices if one.window == f"{role}.{turn}"]
            watts = sum(sum((one.kwh or {}).values()) for one in own) / sum(one.seconds for one in own)
            assert abs(window["kwh"]["central"] / window["seconds"] / watts - 1) < 1e-6
        assert serving[role]["wh_per_1000"]["central"] > 0 and serving[role]["macs_per_inference"] > 0
    for stage in journal["stages"]:
        (go,) = (go for go in goes if samples.digest(go.lines) == stage["footprint"]["samples"])
        total = sum(sum((one.kwh or {}).values()) for one in go.slices)
        assert abs(stage["footprint"]["kwh"]["central"] / total - 1) < 1e-9


def check_what_was_killed_counts(home: Path, journal: dict[str, Any]) -> None:
    """A killed stage is in the run's samples and in its journal, apart from the stage that was made in its place."""
    killed = [one for one in journal["attempts"] if one["ended"] == "killed"]
    assert killed and all(one["footprint"]["kwh"] is None and "killed" in one["footprint"]["why"] for one in killed)
    own = [stage for stage in journal["stages"] if not stage["cached"]]
    goes = samples.goes(home / "runs" / journal["run_id"] / "samples.jsonl")
    told = {one["footprint"]["samples"] for one in (*journal["attempts"], *journal["stages"])}
    assert {samples.digest(go.lines) for go in goes} == told and len(goes) > len(own)


def check_nothing_hangs(home: Path, journal: dict[str, Any]) -> None:
    """One version, every Prefect and MLflow run ended, the killed one as such; tables and streamed lines are there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.settings import PREFECT_API_URL, temporary_settings

    running = services.current(home)
    assert running is not None
    client = runs.connect(running.mlflow_uri)
    assert [found.version for found in client.search_model_versions("name = 'tiny'")] in (["1"], [1])
    where = [client.get_experiment_by_name("tiny").experiment_id]
    tracked = client.search_runs(where)
    assert {run.info.status for run in tracked} == {"FINISHED"}
    assert len([run for run in tracked if runs.PARENT not in run.data.tags]) == 1
    with temporary_settings({PREFECT_API_URL: running.prefect_api}), get_client(sync_client=True) as prefect:
        flow_runs = {str(run.id): run for run in prefect.read_flow_runs()}
        last = flow_runs[journal["prefect_run_id"]]
        chosen = filters.LogFilterFlowRunId(any_=[last.id])
        lines = {line.name: line for line in prefect.read_logs(filters.LogFilter(flow_run_id=chosen), limit=200)}
        tables = {artifact.key for artifact in prefect.read_artifacts()}
    assert sorted(str(run.state.name) for run in flow_runs.values() if run.state) == ["Completed", "Crashed", "Failed"]
    assert last.name == f"tiny · {journal['run_id']}"
    assert {"tasks.stage", "flows.obtain"} <= set(lines) and {"tiny-stages", "tiny-verdict"} <= tables
