"""Where the services answer: addresses, credentials, the variables that lead a client there, and free ports."""

import socket
from pathlib import Path

import httpx
from pydantic import BaseModel, Field

from infra.processes import Started
from registry.records import STRICT, ShrinkError

NAMES = ("s3", "mlflow", "prefect")
HOST = "127.0.0.1"


class Services(BaseModel):
    """Addresses and credentials of the running services; `pids` lists each service's processes, its leader first."""

    model_config = STRICT
    s3_endpoint: str
    bucket: str
    access_key: str
    secret_key: str = Field(repr=False)
    region: str
    mlflow_uri: str
    prefect_api: str
    pids: dict[str, tuple[Started, ...]] = {}


def environment(services: Services, home: Path) -> dict[str, str]:
    """The variables under which a client (flow, worker, command line) finds these services and no others."""
    return {
        "SHRINK_HOME": str(home.resolve()),
        "MLFLOW_TRACKING_URI": services.mlflow_uri,
        "MLFLOW_REGISTRY_URI": services.mlflow_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",  # half a minute in all: a restart is ridden out, an outage is said
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
        "DO_NOT_TRACK": "true",
        "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime reads this alone, and sends by default
        "PREFECT_CLIENT_MAX_RETRIES": "6",  # two minutes for each request: runs do not wait for it in another way
        "PREFECT_API_URL": services.prefect_api,
        "PREFECT_HOME": str(home.resolve() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows,registry",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "AWS_ACCESS_KEY_ID": services.access_key,
        "AWS_SECRET_ACCESS_KEY": services.secret_key,
        "AWS_DEFAULT_REGION": services.region,
        "AWS_REGION": services.region,
        "AWS_ENDPOINT_URL_S3": services.s3_endpoint,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def with_free_ports(services: Services, missing: list[str]) -> Services:
    """Keep each missing service's remembered port when it is still free, else take a new one."""
    if not missing:
        return services
    ports = {name: port_of(services, name) for name in NAMES}
    sockets = []  # held until all are chosen, so that no port is given twice
    for name in missing:
        holder = bind(ports[name]) or bind(0)
        if holder is None:
            raise ShrinkError(f"services.{name}: no port is free on {HOST}; close a program that listens there.")
        sockets.append(holder)
        ports[name] = holder.getsockname()[1]
    for holder in sockets:
        holder.close()
    roots = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
    addresses = {"s3_endpoint": roots["s3"], "mlflow_uri": roots["mlflow"], "prefect_api": roots["prefect"] + "/api"}
    return services.model_copy(update=addresses)


def bind(port: int) -> socket.socket | None:
    """A socket bound to a port of loopback (0: any free one), or None when the port is taken."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
    try:
        holder.bind((HOST, port))
    except OSError:
        holder.close()
        return None
    return holder


def address(services: Services, name: str) -> str:
    """The address of a service, empty before it has one."""
    return {"s3": services.s3_endpoint, "mlflow": services.mlflow_uri, "prefect": services.prefect_api}[name]


def port_of(services: Services, name: str) -> int:
    """The port of a service, 0 before it has one."""
    found = address(services, name)
    return (httpx.URL(found).port or 0) if found else 0
