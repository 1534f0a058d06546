"""A teacher whose alias moves in a real MLflow: its recipe runs once, by two watchers at once and after a kill too."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from flows import journal as journals
from flows import registered, servers, watch
from flows.recipe import Source, load
from infra.addresses import Services
from registry import movements, store, versions
from registry.movements import Movement
from registry.records import ShrinkError, digest_directory
from tests.flows.test_compress import shrink

GONE = f"process:{os.uname().nodename}:{2**22 + 1}:1.00"  # no such process


def put_teacher(client: Any, name: str, folder: Path, alias: str = "production") -> str:
    """Register a folder as anybody would, without a word of ours, and move the alias to it."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        assert error.error_code == "RESOURCE_ALREADY_EXISTS"
    found = client.get_experiment_by_name("teachers")
    experiment = client.create_experiment("teachers") if found is None else found.experiment_id
    made = client.create_logged_model(experiment, name="teacher")
    client.log_model_artifacts(made.model_id, str(folder), "model")
    client.finalize_logged_model(made.model_id, "READY")
    version = client.create_model_version(name, source=f"models:/{made.model_id}", model_id=made.model_id).version
    client.set_registered_model_alias(name, alias, version)
    return str(version)


def recipe_of(tiny: Path, folder: Path, uri: str) -> Path:
    """The tiny recipe with another teacher and a name of its own."""
    content = yaml.safe_load((tiny / "tiny.yaml").read_text())
    content |= {"name": f"watched-{uuid.uuid4().hex[:6]}", "teacher": {"uri": uri}}
    path = folder / "watched.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def client(servers: Services, servers_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from registry import runs

    monkeypatch.setenv("SHRINK_HOME", str(servers_home))
    monkeypatch.setenv("SHRINK_THREADS", "1")
    return runs.connect(servers.mlflow_uri)


@pytest.fixture
def name() -> str:
    return f"teacher-{uuid.uuid4().hex[:6]}"


def test_a_movement_starts_one_run_after_a_kill_and_by_two_watchers(
    client: Any, servers: Services, servers_home: Path, tiny: Path, name: str, tmp_path: Path
) -> None:
    assert put_teacher(client, name, tiny / "teacher") == "1"
    recipe = recipe_of(tiny, tmp_path, f"models:/{name}@production")
    dies = "import os, sys, flows.compress as c; c.start = lambda path: os.kill(os.getpid(), 9); "
    dies += "from flows.watch import look; look(sys.argv[1])"
    killed = subprocess.run([sys.executable, "-c", dies, str(recipe)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    chosen = load(str(recipe))
    assert [one.event for one in log_of(servers, chosen)] == ["start"]

    two = [psutil.Popen([sys.executable, "-m", "flows.cli", "watch", str(recipe), "--poll", "1"]) for _ in range(2)]
    until = time.monotonic() + 240
    while [one.event for one in log_of(servers, chosen)][-1] == "start":
        assert time.monotonic() < until and all(one.is_running() for one in two)
        time.sleep(0.5)
    put_teacher(client, name, tiny / "teacher")  # other number, same bytes
    while [one.event for one in log_of(servers, chosen)][-1] != "same":
        assert time.monotonic() < until
        time.sleep(0.5)
    client.set_registered_model_alias(name, "production", "1")
    client.set_registered_model_alias(name, "production", "2")  # there and back between two looks
    time.sleep(2)
    for one in two:
        one.send_signal(signal.SIGINT)
    assert [one.wait(30) for one in two] == [0, 0]
    entries = log_of(servers, chosen)
    events = [one.event for one in entries]  # on a busy machine a look falls between there and back: the same again
    assert events[:4] == ["start", "start", "passed", "same"] and set(events[4:]) <= {"same"}
    assert entries[2].versions == {"teacher": f"models:/{name}/1"}
    assert entries[2].digests == {"teacher": digest_directory(tiny / "teacher")}
    (run,) = [one for one in journals.read_all(servers_home) if one["recipe"] == chosen.name]
    assert run["run_id"] == entries[2].run and run["status"] == "passed"
    stored = json.loads((servers_home / "runs" / run["run_id"] / "recipe.json").read_text())
    assert (
        stored["teacher"]["uri"] == f"models:/{name}/1" and stored["teacher"]["sha256"] == entries[2].digests["teacher"]
    )
    assert watch.look(str(recipe)).event == "still"


def log_of(servers_: Services, recipe: Any) -> list[Movement]:
    s3 = store.connect(servers.s3_config(servers_))
    store.ensure_bucket(s3, servers_.bucket)
    return movements.history(s3, servers_.bucket, recipe.name, recipe.digest)


def test_a_teacher_that_cannot_be_is_tried_three_times_with_its_reason(
    client: Any, servers: Services, servers_home: Path, tiny: Path, name: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny / "teacher", tmp_path / "broken")
    (tmp_path / "broken" / "config.json").unlink()
    put_teacher(client, name, tmp_path / "broken")
    recipe = str(recipe_of(tiny, tmp_path, f"models:/{name}@production"))
    looks = [watch.look(recipe) for _ in range(4)]
    assert [one.event for one in looks] == ["failed", "failed", "failed", "given up"]
    assert "attempt 1 of 3, tried again at the next look: " in looks[0].said and "config.json" in looks[0].said
    assert "failed 3 times (" in looks[3].said and "mend that" in looks[3].said
    assert [one for one in journals.read_all(servers_home) if one["recipe"] == load(recipe).name] == []


def test_wrong_recipes_are_refused_in_one_sentence(
    client: Any, servers: Services, servers_home: Path, tiny: Path, name: str, tmp_path: Path
) -> None:
    put_teacher(client, name, tiny / "teacher")
    for uri, said in (
        (f"dir:{tiny / 'teacher'}", "has no teacher that can move: set its uri to models:/NAME@ALIAS"),
        (f"models:/{name}x@production", f"model '{name}x' is not registered; did you mean '{name}'?"),
        (f"models:/{name}@producton", f"model '{name}' has no alias 'producton'; did you mean 'production'?"),
        ("models:/../x@production", "is no registered model; write models:/NAME@ALIAS or models:/NAME/VERSION"),
    ):
        with pytest.raises(ShrinkError) as caught:
            watch.require(str(recipe_of(tiny, tmp_path, uri)))
        assert said in str(caught.value)
    recipe = str(recipe_of(tiny, tmp_path, f"models:/{name}@missing"))
    refused = shrink(servers_home, "watch", recipe, check=2)
    assert "has no alias 'missing'" in refused.stderr and refused.stderr.count("\n") == 1
    assert "has no alias 'missing'" in shrink(servers_home, "run", recipe, check=2).stderr
    assert "--poll" in shrink(servers_home, "watch", recipe, "--poll", "0", check=2).stderr


def test_a_foreign_version_is_what_it_was_when_first_fetched(
    client: Any, servers_home: Path, tiny: Path, name: str, tmp_path: Path
) -> None:
    version = put_teacher(client, name, tiny / "teacher")
    source = Source(uri=f"models:/{name}@production")
    taken = registered.take(source, tmp_path)
    assert taken.uri == f"models:/{name}/{version}" and taken.digest == digest_directory(tiny / "teacher")
    assert registered.take(source, tmp_path) == taken
    with pytest.raises(ShrinkError, match="sha256 is 0000"):
        registered.take(source.model_copy(update={"sha256": "0" * 64}), tmp_path)
    with pytest.raises(ShrinkError, match=r"path is '\.\./\.\.' but"):
        registered.take(source.model_copy(update={"path": "../.."}), tmp_path)
    model = client.get_model_version(name, version).source.removeprefix("models:/")
    (stored,) = [path for path in (servers_home / "s3").rglob("config.json") if model in path.parts]
    stored.write_text(stored.read_text() + " ")
    assert registered.take(source, tmp_path) == taken, "what lies here is whole"
    (taken.folder / "config.json").write_text("{}")
    with pytest.raises(versions.CorruptVersion, match="when first fetched"):
        registered.take(source, tmp_path)
    elsewhere = SimpleNamespace(name=name, version="9", source="file:///etc", creation_timestamp=0)
    with pytest.raises(ShrinkError, match="comes from 'file:///etc', which is no store of MLflow"):
        registered.foreign(elsewhere, source, tmp_path)


def test_a_pinned_teacher_counts_by_its_bytes() -> None:
    moving = load("sentiment").with_sources(lambda one: Source(uri="models:/bert@production"))
    first, second = (
        moving.with_sources(lambda one, at=at: one.model_copy(update={"uri": f"models:/bert/{at}", "sha256": "a" * 64}))  # type: ignore[misc]
        for at in (1, 2)
    )
    assert first.digest == second.digest != moving.digest


@pytest.mark.parametrize(
    ("event", "who", "version", "attempt", "step"),
    [
        (None, "", 1, 1, "start"),
        ("passed", GONE, 1, 1, "still"),
        ("rejected", GONE, 1, 1, "still"),
        ("same", GONE, 1, 1, "still"),
        ("passed", GONE, 2, 1, "start"),
        ("failed", GONE, 1, 1, "again"),
        ("failed", GONE, 1, 3, "given up"),
        ("failed", GONE, 2, 3, "start"),
        ("start", GONE, 1, 1, "go on"),
        ("start", GONE, 2, 1, "start"),
        ("start", "process:elsewhere:1:1.00", 2, 1, "busy"),
        ("start", "me", 1, 1, "go on"),
    ],
)
def test_what_a_look_does(event: Any, who: str, version: int, attempt: int, step: str) -> None:
    last = None
    if event is not None:
        last = Movement(
            seq=1,
            event=event,
            recipe="r",
            recipe_digest="d",
            versions={"teacher": "models:/bert/1"},
            digests={},
            attempt=attempt,
            who=who if who != "me" else journals.process_tag(),
            when=movements.now(),
        )
    assert watch.decide(last, {"teacher": f"models:/bert/{version}"}) == step
    if step == "busy" and last is not None:
        old = last.model_copy(update={"when": "2026-01-01T00:00:00+00:00"})
        assert watch.decide(old, {"teacher": f"models:/bert/{version}"}) == "start", "after a day it is taken for dead"
