"""A server that goes away while a version is registered: really ended by its pid, started again, and waited for."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from infra import services
from infra.processes import end
from registry import patience, promotion, runs, store, versions
from registry.patience import away, patiently
from registry.records import ShrinkError, digest_directory
from tests import signatures
from tests.flows.test_trouble import botocore_error, full_error, httpx_error, other_error, requests_error
from tests.registry.test_versions import _register


@pytest.mark.parametrize(
    ("fails", "who"),
    [
        (botocore_error, "S3"),
        (requests_error, "MLflow"),
        (httpx_error, "Prefect's server"),
        (other_error, None),
        (full_error, None),
    ],
)
def test_only_a_server_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[], Any], who: str | None
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the clients' own pauses
    with pytest.raises(Exception) as caught:
        fails()
    assert away(caught.value) == who


def test_a_mistake_of_the_user_is_no_outage_whatever_it_came_of() -> None:
    try:
        try:
            raise requests.ConnectionError("refused")
        except requests.ConnectionError as error:
            raise ShrinkError("model is 'x' but there is none; name another.") from error
    except ShrinkError as error:
        assert away(error) is None


def test_the_wait_ends_after_its_limit_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def refused() -> None:
        tries.append(1)
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(patience, "LIMIT", 0.3)
    monkeypatch.setattr(patience, "PAUSES", (0.1,))
    with pytest.raises(requests.ConnectionError):
        patiently(refused)
    assert 3 <= len(tries) <= 5 and caplog.text.count("MLflow does not answer: waiting for it") == 1


@pytest.fixture
def outage(servers_home: Path, servers: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that ends a server before the n-th request of this process and starts it again seconds later."""
    back: list[threading.Timer] = []
    one = threading.Lock()  # files are fetched by several threads
    send = requests.adapters.HTTPAdapter.send

    def begin(name: str, at: Callable[[str, str], bool], seconds: float) -> None:
        def sends(adapter: Any, request: Any, *given: Any, **named: Any) -> Any:
            with one:
                if not back and at(request.method, request.url):
                    found = services.current(servers_home)
                    assert found is not None
                    end(found.pids[name], grace=0.1)
                    back.append(threading.Timer(seconds, services.up, [servers_home, dict(os.environ)]))
                    back[0].start()
            return send(adapter, request, *given, **named)

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", sends)

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # so that it is not the client that rides it out
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    yield begin
    for timer in back:
        timer.join()
    now = services.up(servers_home, dict(os.environ))
    assert (now.s3_endpoint, now.mlflow_uri) == (servers.s3_endpoint, servers.mlflow_uri), "the same ports again"


@pytest.mark.parametrize("name", ["s3", "mlflow"])
def test_a_server_that_dies_in_the_middle_of_the_upload_is_waited_for(
    client: Any, s3: Any, servers: Any, outage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    store.ensure_bucket(s3, "patience-tests")
    run_id = runs.open_run(client, "tests", "run", {runs.RUN_TAG: str(tmp_path)})
    model = f"away-{name}"
    outage(name, lambda method, url: method == "PUT" and url.endswith("tokenizer.json"), 3)
    version = patiently(_register, client, tmp_path, model, run_id, "one")
    assert "waiting for it" in caplog.text and "it answers again after" in caplog.text
    assert version == "1" and len(client.search_model_versions(f"name = '{model}'")) == 1
    experiment = client.get_run(run_id).info.experiment_id
    (kept,) = client.search_logged_models([experiment], f"name = '{model}'")
    assert str(kept.status) == "READY", "the half upload is gone"
    got = versions.fetch(client, model, version, tmp_path / "got", signatures.trust(tmp_path / "home"))
    assert digest_directory(got / "model") == versions.describe(client, model, version)["digest"]


def test_fetching_and_promoting_wait_too(
    client: Any, s3: Any, servers: Any, outage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.ensure_bucket(s3, "patience-tests")
    run_id = runs.open_run(client, "tests", "run", {runs.RUN_TAG: str(tmp_path)})
    version = _register(client, tmp_path, "away-later", run_id, "one")
    trust = signatures.trust(tmp_path / "home")
    outage("s3", lambda method, url: method == "GET" and "file.txt" in url, 5)
    got = patiently(versions.fetch, client, "away-later", version, tmp_path / "got", trust, None, 1)
    assert digest_directory(got / "model") == versions.describe(client, "away-later", version)["digest"]
    assert "it answers again after" in caplog.text
    where = (client, s3, "patience-tests", tmp_path / "lock", "away-later")
    assert patiently(promotion.promote, *where, version, "me", "try").target == version
