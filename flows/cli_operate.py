"""The commands that keep things running: `shrink up | down | deploy | environment | doctor`."""

import errno
import json
import shlex
import socket
from typing import Annotated, Any

import typer

from flows import console as screen
from flows.cli_common import Json, connected, require, say
from flows.settings import settings
from registry.records import ShrinkError

HOST = "127.0.0.1"


def up(as_json: Json = False) -> None:
    """Start S3, MLflow and Prefect on loopback, and print the addresses of their pages."""
    got = connected(start=True)
    facts = {"s3": got.s3_endpoint, "mlflow": got.mlflow_uri, "prefect": got.prefect_api.removesuffix("/api")}
    say(facts, as_json, "\n".join(f"{name:8} {address}" for name, address in facts.items()))


def down(as_json: Json = False) -> None:
    """Stop the servers, unless a run goes on; what they hold stays in .shrink."""
    from flows.journal import read_all
    from infra import services
    from registry.records import directory_bytes

    home = settings().home
    going = [str(run["run_id"]) for run in read_all(home) if run["status"] == "running"]
    if going:
        raise ShrinkError(f"run '{going[0]}' goes on and needs the servers; `shrink cancel {going[0]}` ends it first.")
    ended = services.down(home)
    size = directory_bytes(home) / 1e6 if home.exists() else 0.0
    text = f"stopped {', '.join(ended) or 'nothing'}; {home} keeps {size:.0f} MB"
    say({"stopped": list(ended), "megabytes": size}, as_json, text)


def deploy(
    model: Annotated[str, typer.Argument(help="MODEL (its champion) or MODEL@ALIAS")],
    port: Annotated[int, typer.Option(help="port to listen on")] = 8080,
    host: Annotated[str, typer.Option(help="address to listen on; one that others reach needs SHRINK_TOKEN")] = HOST,
    shadow: Annotated[int, typer.Option(help="live requests a new version is compared by in each phase")] = 50,
    canary: Annotated[float, typer.Option(help="share of requests that a new version answers before all")] = 0.1,
    memory_mb: Annotated[float | None, typer.Option(help="MB of a version's process (default: by its size)")] = None,
    batch: Annotated[int, typer.Option(help="texts that go through the model together; 1: each alone")] = 8,
    rollback: Annotated[bool, typer.Option("--rollback", help="roll the ledger back from an unfit champion")] = False,
    as_json: Json = False,
) -> None:
    """Serve a model until Ctrl-C; a new version is tried beside the old one, and taken back if unfit."""
    from flows.serve.rollout import options_of

    chosen = options_of(shadow=shadow, canary=canary, memory_mb=memory_mb, batch=batch, rollback=rollback)
    require_port(port, host)
    token = token_for(host)
    connected()
    from flows.deploy import serve
    from flows.named import split_name
    from flows.promote import champion

    name, alias = split_name(model)
    require(model, version=False)
    if alias != "champion" or champion(name) is None:  # an alias that is lost is no champion lost
        require(model)
    address = f"http://{host}:{port}"
    paths = ("predict", "embed", "generate", "healthz", "metrics", "openapi.json")
    if as_json:
        typer.echo(json.dumps({"model": name, "alias": alias} | {path: f"{address}/{path}" for path in paths}))
    serve(name, alias, host=host, port=port, options=chosen, token=token)


def token_for(host: str) -> str | None:
    """The token that requests must bear; refuses an address that others reach without one."""
    from flows.serve.doorway import token_of

    found = settings()
    return token_of(host, found.token, found.token_file)


def require_port(port: int, host: str) -> None:
    """Refuse a port or an address that cannot be listened on."""
    if not 1 <= port <= 65535:
        raise ShrinkError(f"port is {port} but must lie between 1 and 65535; choose another with --port.")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise ShrinkError(f"host is '{host}' which nothing is known by; give an address of this machine.") from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ShrinkError(f"host is '{host}' but this machine has no such address; give one it has.") from None
            raise ShrinkError(
                f"port is {port} but {error.strerror or 'it is taken'}; choose another with --port."
            ) from None


def environment(as_json: Json = False) -> None:
    """Print the variables that other clients of the servers need, keys too; for: eval "$(shrink environment)"."""
    from infra import services

    home = settings().home
    found: dict[str, Any] = services.environment(connected(), home)
    say(found, as_json, "\n".join(f"export {name}={shlex.quote(value)}" for name, value in found.items()))


def doctor(as_json: Json = False) -> None:
    """Check this machine, the installation, the servers and the state; exit code 1 when something is broken."""
    from flows.doctor import examine

    found = examine(settings().home)
    signs = {"ok": "✓", "warn": "!", "broken": "✗"}
    lines = [
        f"{signs[one.state]} {one.name:12} {one.what}" + (f"; {one.remedy}" if one.remedy else "") for one in found
    ]
    say([one.model_dump() for one in found], as_json, screen.fitted("\n".join(lines)))
    if any(one.state == "broken" for one in found):
        raise typer.Exit(1)
