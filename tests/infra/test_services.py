"""The services as an operator meets them: start, start again, crash, restart, stop; nothing here is simulated."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra import addresses, processes, services
from registry.records import ShrinkError


def everything(running: services.Services) -> list[processes.Started]:
    return [process for known in running.pids.values() for process in known]


def storage(running: services.Services) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=running.s3_endpoint,
        region_name=running.region,
        aws_access_key_id=running.access_key,
        aws_secret_access_key=running.secret_key,
    )


def test_status_of_a_fresh_directory_starts_and_writes_nothing(tmp_path: Path) -> None:
    assert services.status(tmp_path) == dict.fromkeys(services.NAMES, "stopped")
    assert services.current(tmp_path) is None
    assert services.down(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_a_home_with_a_question_mark_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match=r"^SHRINK_HOME is '.*/why\?/home' but its path must hold no '\?'; name"):
        services.up(tmp_path / "why?" / "home")
    assert list(tmp_path.iterdir()) == []


def test_up_twice_starts_nothing_the_second_time(servers: services.Services, servers_home: Path) -> None:
    assert set(services.status(servers_home).values()) == {"healthy"}
    assert services.up(servers_home) == servers


def test_secrets_stay_in_one_private_file(servers: services.Services, servers_home: Path) -> None:
    keys = servers_home / "credentials.json"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert servers.secret_key in keys.read_text()
    assert servers.secret_key not in repr(servers)
    assert servers.secret_key not in (servers_home / "services.json").read_text()
    for process in everything(servers):
        assert servers.secret_key not in " ".join(psutil.Process(process.pid).cmdline())


def test_all_services_listen_on_loopback_alone(servers: services.Services) -> None:
    listening = [
        connection.laddr.ip
        for process in everything(servers)
        for connection in psutil.Process(process.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_the_registry_keeps_files_in_the_bucket_and_refuses_foreign_sources(
    servers: services.Services, servers_home: Path, tmp_path: Path
) -> None:
    import mlflow
    from mlflow import MlflowClient

    (tmp_path / "weights").write_bytes(b"weights")
    model = mlflow.initialize_logged_model(name="probe")
    MlflowClient().log_model_artifacts(model.model_id, str(tmp_path))
    mlflow.finalize_logged_model(model.model_id, "READY")
    version = mlflow.register_model(f"models:/{model.model_id}", "services-probe")
    assert version.source == f"models:/{model.model_id}"
    assert [path.read_bytes() for path in (servers_home / "s3" / "shrink" / "mlflow").rglob("weights")] == [b"weights"]
    with pytest.raises(Exception, match="Invalid model version source"):
        MlflowClient().create_model_version("services-probe", "s3://elsewhere/model")


def test_environment_points_at_these_services_alone(servers: services.Services, servers_home: Path) -> None:
    variables = services.environment(servers, servers_home)
    assert variables["MLFLOW_TRACKING_URI"] == servers.mlflow_uri
    assert variables["PREFECT_API_URL"] == servers.prefect_api
    assert variables["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    asked = httpx.get(servers.prefect_api + "/admin/settings", timeout=20, trust_env=False).json()
    assert asked["server"]["analytics_enabled"] is False
    assert asked["home"] == variables["PREFECT_HOME"]


def test_data_and_addresses_survive_crash_and_restart_and_down_leaves_no_process(tmp_path: Path) -> None:
    first = services.up(tmp_path, {**os.environ, "MLFLOW_BACKEND_STORE_URI": "sqlite:////nowhere/else.db"})
    try:
        storage(first).put_object(Bucket=first.bucket, Key="kept/file", Body=b"kept")
        os.kill(first.pids["s3"][0].pid, signal.SIGKILL)
        second = services.up(tmp_path, dict(os.environ))
        assert second.pids["s3"] != first.pids["s3"], "the dead one is started again"
        assert second.pids["mlflow"] == first.pids["mlflow"], "the healthy ones are left alone"
        assert services.down(tmp_path) == services.NAMES
        assert not [process for process in everything(first) + everything(second) if processes.living(process)]
        third = services.up(tmp_path, dict(os.environ))
        assert third.model_dump(exclude={"pids"}) == first.model_dump(exclude={"pids"})
        answer = storage(third).get_object(Bucket=third.bucket, Key="kept/file")
        assert answer["Body"].read() == b"kept"
    finally:
        services.down(tmp_path)
    assert services.status(tmp_path) == dict.fromkeys(services.NAMES, "stopped")


def test_a_disk_without_room_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 2_000_000))
    with pytest.raises(
        ShrinkError, match=r"SHRINK_HOME is '.*' with 2 MB free but the servers need 20; make room there"
    ):
        services.up(tmp_path)
    assert services.status(tmp_path) == dict.fromkeys(services.NAMES, "stopped")


def test_down_on_a_full_disk_still_ends_what_runs(tmp_path: Path) -> None:
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    known = services._remembered(tmp_path).model_copy(update={"pids": {"s3": (processes.started_now(running.pid),)}})
    services._remember(tmp_path, known)
    (tmp_path / "services.json.part").symlink_to("/dev/full")
    assert services.down(tmp_path) == ("s3",)
    assert processes.living(known.pids["s3"][0]) is None
    running.wait(10)


def test_down_spares_a_stranger_that_got_a_remembered_pid(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        born = psutil.Process(stranger.pid).create_time()
        known = services._remembered(tmp_path).model_copy(
            update={"pids": {"s3": (processes.Started(pid=stranger.pid, created=born - 100),)}}
        )
        services._remember(tmp_path, known)
        assert services.down(tmp_path) == ()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_service_that_cannot_start_is_named_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = "import sys; sys.exit('the disk is full')"
    monkeypatch.setattr(services, "_command", lambda *_: ([sys.executable, "-c", failing], {}))
    with pytest.raises(ShrinkError, match=r"ended with code 1[\s\S]*the disk is full"):
        services.up(tmp_path)
    assert services.status(tmp_path) == dict.fromkeys(services.NAMES, "stopped")


def test_a_remembered_port_taken_by_another_program_is_replaced(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((services.HOST, 0))
        other.listen()
        taken = f"http://{services.HOST}:{other.getsockname()[1]}"
        known = services._remembered(tmp_path).model_copy(update={"mlflow_uri": taken})
        chosen = addresses.with_free_ports(known, ["mlflow"])
    assert chosen.mlflow_uri != taken
