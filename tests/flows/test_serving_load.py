"""A real server with clients that never pause: deployed, taken back, rolled back, killed; no request is dropped."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows import keys
from flows.serve import deployed
from flows.servers import s3_config
from flows.settings import settings
from infra import services
from registry import promotion, store
from tests.flows.test_deploy import put

NAME = "loaded"
ROOT = Path(__file__).parents[2]


class Clients:
    """Threads that ask without a pause and keep what they got."""

    def __init__(self, address: str, count: int) -> None:
        self.address, self.stop = address, threading.Event()
        self.wrong: list[str] = []
        self.versions: list[str] = []
        self.threads = [threading.Thread(target=self.ask) for _ in range(count)]

    def ask(self) -> None:
        with httpx.Client(trust_env=False, timeout=60) as http:
            while not self.stop.is_set():
                try:
                    found = http.post(f"{self.address}/predict", json={"texts": ["good xylograph", "bad"]})
                except httpx.HTTPError as error:
                    self.wrong.append(type(error).__name__)
                    continue
                if found.status_code != 200 or len(found.json()["predictions"]) != 2:
                    self.wrong.append(found.text)
                else:
                    self.versions.append(found.json()["version"])

    def __enter__(self) -> "Clients":
        for one in self.threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for one in self.threads:
            one.join()


@pytest.fixture
def begun(servers: services.Services, servers_home: Path, tmp_path: Path) -> Iterator[Callable[[], tuple[Any, str]]]:
    """Starts the server as a program of its own; at most one runs."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    code = (
        "from pathlib import Path; from flows.serve import rollout; from flows.deploy import serve; "
        "from flows.serve.rollout import Options; rollout.SLOWER_MS = 10_000.0; "  # test_serving has what is late
        f"serve({NAME!r}, port={port}, poll_seconds=0.2, cache=Path({str(tmp_path / 'cache')!r}), "
        "options=Options(shadow=30, canary=0.3))"
    )
    env, started = {**os.environ, **services.environment(servers, servers_home)}, list[Any]()

    def begin() -> tuple[Any, str]:
        with (tmp_path / "serve.log").open("ab") as output:
            started.append(subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stderr=output))
        return started[-1], f"http://127.0.0.1:{port}"

    yield begin
    for one in started:
        one.kill()
        one.wait()


def health(address: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
    """What /healthz says as soon as it is what is wanted."""
    until = time.monotonic() + seconds
    found: dict[str, Any] = {}
    while time.monotonic() < until:
        try:
            found = httpx.get(f"{address}/healthz", trust_env=False, timeout=20).json()
            if wanted(found):
                return found
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s: {found}")


def test_no_request_is_dropped_while_versions_come_go_and_die(
    client: Any, servers: services.Services, crown: Callable[..., None], begun: Callable[[], tuple[Any, str]],
    tmp_path: Path,
) -> None:  # fmt: skip
    first, second = put(client, NAME, tmp_path / "1", 1.0), put(client, NAME, tmp_path / "2", 3.0)
    other = put(client, NAME, tmp_path / "3", 3.0, unknown=-9.0)
    crown(NAME, first)
    process, address = begun()
    health(address, lambda found: found["version"] == first)
    with Clients(address, 4) as clients:
        crown(NAME, second)
        health(address, lambda found: found["version"] == second and found["phase"] is None)
        assert set(clients.versions) == {first, second}
        crown(NAME, other)
        refused = health(address, lambda found: found["refused"] is not None)
        assert refused["version"] == second and refused["refused"]["version"] == other
        (child,) = wait_for_children(process.pid, 1)
        child.kill()
        child.wait(20)
        health(address, lambda found: len(psutil.Process(process.pid).children()) == 1)
        seen = len(clients.versions)
        until = time.monotonic() + 60
        while len(clients.versions) < seen + 20 and time.monotonic() < until:
            time.sleep(0.05)
        s3 = store.connect(s3_config(servers))
        for _ in range(2):
            promotion.rollback(
                client, s3, servers.bucket, tmp_path / "lock", NAME, "me", "a test", keys.of_ledger(settings())
            )
        health(address, lambda found: found["version"] == first)
        time.sleep(0.5)
    assert not clients.wrong and len(clients.versions) > 200
    assert set(clients.versions) == {first, second}, "the one that differs answered nobody"
    told = deployed.Evidence.model_validate_json(client.get_model_version(NAME, other).tags[deployed.TAG])
    assert (told.outcome, told.phase, told.instead) == ("rolled back", "shadow", second)
    killed_server(process, address, begun, first)


def killed_server(process: Any, address: str, begun: Callable[[], tuple[Any, str]], version: str) -> None:
    """After a kill -9 of the server no child is left, and the next start serves the same; a polite end leaves none."""
    children = wait_for_children(process.pid, 1)
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=20)
    assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    again, _ = begun()
    found = health(address, lambda found: found["version"] is not None)
    assert found["version"] == version and found["candidate"] is None
    left = wait_for_children(again.pid, 1)
    again.send_signal(signal.SIGTERM)
    assert again.wait(30) in (0, -signal.SIGTERM)
    psutil.wait_procs(left, timeout=20)
    assert not [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def wait_for_children(pid: int, count: int) -> list[psutil.Process]:
    """The server's processes, once there are so many."""
    until = time.monotonic() + 60
    while len(found := psutil.Process(pid).children()) != count:
        assert time.monotonic() < until, found
        time.sleep(0.1)
    return list(found)
