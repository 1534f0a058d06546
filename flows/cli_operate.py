"""The commands that keep things running: `shrink up | down | deploy | report | environment | doctor`."""

import json
import shlex
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import console as screen
from flows import units
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
    port: Annotated[int, typer.Option(help="port on loopback")] = 8080,
    as_json: Json = False,
) -> None:
    """Serve a model on /predict or /embed until Ctrl-C; swap when its alias moves, back when the new one fails."""
    require_port(port)
    connected()
    require(model)
    from flows.deploy import serve
    from flows.outcome import split_name

    name, alias = split_name(model)
    address = f"http://{HOST}:{port}"
    facts = {"model": name, "alias": alias} | {path: f"{address}/{path}" for path in ("predict", "embed", "healthz")}
    if as_json:
        typer.echo(json.dumps(facts))
    serve(name, alias, host=HOST, port=port)


def require_port(port: int) -> None:
    """Refuse a port that cannot be listened on."""
    if not 1 <= port <= 65535:
        raise ShrinkError(f"port is {port} but must lie between 1 and 65535; choose another with --port.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ShrinkError(
                f"port is {port} but {error.strerror or 'it is taken'}; choose another with --port."
            ) from None


def report(
    model: Annotated[str | None, typer.Argument(help="only the runs of this model, its smoke walks apart")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file to write (default: report.html in .shrink)")] = None,
    as_json: Json = False,
) -> None:
    """Write a page (HTML): energy of every stage and run, pay-back in requests, how well each figure is known."""
    from flows.journal import NO_RUNS, read_all, with_stages
    from flows.report import build, render_html

    home = settings().home
    runs = read_all(home)
    facts = build(
        [with_stages(home, run) for run in (runs if model is None else runs_of(runs, model))], settings().country
    )
    target = out or home / "report.html"
    if out is not None or not as_json:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render_html(facts), encoding="utf-8")
    spent = facts["spent"]["kwh"]
    lines = [f"report: {target.absolute().as_uri()}"]
    if facts["runs"]:
        lines.append(f"energy of all runs: {units.energy(spent['central'] if spent else None)}")
        lines.append(facts["payback_sentence"])
        lines += beside(runs, model)
    else:
        lines.append(NO_RUNS)
    say(facts, as_json, screen.fitted("\n".join(lines)))


def beside(runs: list[dict[str, Any]], model: str | None) -> list[str]:
    """What the smoke walks of a model took, which a report of its runs leaves out; nothing where there were none."""
    from flows.journal import with_stages
    from flows.report import build
    from registry.gate import SMOKE

    walks = [with_stages(settings().home, run) for run in runs if run["recipe"] == f"{model}{SMOKE}"]
    if not walks:
        return []
    spent = build(walks)["spent"]["kwh"]
    said = units.energy(spent["central"] if spent else None)
    return [f"its smoke walks, which are not among them: {said} (`shrink report {model}{SMOKE}`)"]


def runs_of(runs: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """The runs of a model by its name; ShrinkError where there are none."""
    name, _, alias = model.partition("@")
    if alias:
        raise ShrinkError(
            f"model is '{model}' but a report is of all its runs: give '{name}', or `shrink show {model}`."
        )
    found = [run for run in runs if run["recipe"] == name]
    if not found:
        from flows.recipe import instead

        known = sorted({str(run["recipe"]) for run in runs})
        hint = instead(name, known, "there are runs of") if known else "there are no runs yet."
        raise ShrinkError(f"model '{name}' has no runs; {hint}")
    return found


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
