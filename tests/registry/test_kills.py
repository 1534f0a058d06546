"""kill -9 before every single request by which a registration writes: the next one ends with exactly one whole version.

The registrations run in forks of one process without threads of its own (`python -m tests.registry.test_kills`), which
kill themselves before their n-th such request to MLflow, for n = 1, 2, … until one has made all of them. (To be killed
before a request that only reads is to be killed before the next one that writes.)
"""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests

from registry import runs, versions
from registry.records import digest_directory
from registry.upload import Torn, upload
from tests.flows.test_compress import ROOT
from tests.registry.test_versions import _fetch, _register

MOST = 80


def test_a_registration_killed_anywhere_ends_with_one_whole_version(client: Any, tmp_path: Path) -> None:
    run_id = runs.open_run(client, "kills", "run", {runs.RUN_TAG: uuid.uuid4().hex})
    command = [sys.executable, "-m", "tests.registry.test_kills", client.tracking_uri, run_id, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    assert len(names) > 8, "model, logged model, four files, its end, version, output"
    experiment = client.get_run(run_id).info.experiment_id
    models = {name: [] for name in names}  # type: dict[str, list[Any]]
    for model in client.search_logged_models([experiment], max_results=1000):
        models[model.name].append(model)
    for number, name in enumerate(names, start=1):
        found = client.search_model_versions(f"name = '{name}'")
        assert [(str(one.version), one.status) for one in found] == [("1", "READY")], f"killed before {number}"
        assert [str(one.status) for one in models[name]] == ["READY"], f"killed before {number}: a half is left"
    for name in (names[0], names[-1]):
        got = _fetch(client, name, "1", tmp_path / f"got-{name}")
        assert digest_directory(got / "model") == versions.describe(client, name, "1")["digest"]


@pytest.mark.parametrize("whole", [True, False])
def test_an_upload_that_was_cut_short_is_seen_before_there_is_a_version(
    client: Any, servers_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    name, run_id = f"cut-{whole}-{uuid.uuid4().hex[:6]}", runs.open_run(client, "kills", "cut", {})
    real = client.log_model_artifacts

    def cuts(model_id: str, folder: str, part: str) -> None:
        real(model_id, folder, part)
        if part == "evidence" and not whole:
            (stored,) = [path for path in (servers_home / "s3").rglob("tokenizer.json") if model_id in path.parts]
            stored.write_bytes(stored.read_bytes()[:1])

    monkeypatch.setattr(client, "log_model_artifacts", cuts)
    if not whole:
        with pytest.raises(Torn, match="differs from what was sent"):
            _register(client, tmp_path, name, run_id, "one")
        assert client.search_model_versions(f"name = '{name}'") == []
    monkeypatch.undo()
    assert _register(client, tmp_path, name, run_id, "one") == "1"


def test_two_hosts_that_register_the_same_keep_the_older_version(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs without a common lock; the second one makes its version between the first one's look and its version."""
    name = f"twice-{uuid.uuid4().hex[:6]}"
    one, two = (runs.open_run(client, "kills", host, {}) for host in ("one", "two"))
    given: list[str] = []

    def uploads(*args: Any) -> str:
        monkeypatch.undo()
        made = upload(*args)
        given.append(_register(client, tmp_path, name, two, "same"))
        return made

    monkeypatch.setattr("registry.versions.upload", uploads)
    assert _register(client, tmp_path, name, one, "same") == "1" and given == ["1"]
    assert [str(found.version) for found in client.search_model_versions(f"name = '{name}'")] == ["1"]
    experiment = client.get_run(one).info.experiment_id
    assert len(client.search_logged_models([experiment], f"name = '{name}'")) == 1
    assert _register(client, tmp_path, name, one, "same") == "1"


def killed(number: int, uri: str, run_id: str, folder: Path, name: str) -> bool:
    """Register in a fork that ends itself before its n-th writing request (0: never); whether it was killed."""
    if process := os.fork():
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
            raise SystemExit(f"registering broke after a kill before request {number}")
        return os.WIFSIGNALED(status)
    send, made = requests.adapters.HTTPAdapter.send, [0]

    def sends(adapter: Any, request: Any, *given: Any, **named: Any) -> Any:
        made[0] += request.method != "GET" and "/search" not in request.url
        if made[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return send(adapter, request, *given, **named)

    requests.adapters.HTTPAdapter.send = sends  # type: ignore[method-assign,assignment]
    code = 1
    try:
        _register(runs.connect(uri), folder, name, run_id, "one")
        code = 0
    finally:
        os._exit(code)


def main(uri: str, run_id: str, folder: Path) -> None:
    """Kill and register again for every n; prints the names of the models that were registered so."""
    names = []
    for number in range(1, MOST):
        names.append(f"killed-{number}-{uuid.uuid4().hex[:6]}")
        if not killed(number, uri, run_id, folder, names[-1]):
            break
        killed(0, uri, run_id, folder, names[-1])
    print(json.dumps(names))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
