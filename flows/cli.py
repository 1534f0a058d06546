"""The command `shrink`: every command is a thin door to a flow or to the registry; heavy imports stand inside.

Exit codes: 0 passed, 3 rejected by the gate, 2 user input, 1 failed but resumable.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import console as screen
from flows.settings import apply, base_environment, settings
from registry.records import ShrinkError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a model many times smaller, prove it is still good enough, hand it over.",
)
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]
QUIET = {  # stage logs go to Prefect's server; the terminal shows our own lines
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows,registry",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
COMPRESS, REGISTRY, OPERATE = "Compress", "Registry", "Operate"


def main() -> None:
    """Entry point: user errors are one sentence and exit code 2."""
    try:
        status = app(standalone_mode=False)  # the code of a typer.Exit comes back as the value
    except ShrinkError as error:
        typer.echo(f"shrink: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("stopped; `shrink resume` goes on with the finished stages.", err=True)
        sys.exit(1)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own usage errors
            typer.echo(f"shrink: {error.format_message()}", err=True)
            sys.exit(2)
        typer.echo(f"shrink: failed: {error}; `shrink resume` goes on with the finished stages.", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def say(value: Any, as_json: bool, text: str) -> None:
    """Print JSON or text."""
    typer.echo(json.dumps(value, indent=1) if as_json else text)


def connected(start: bool = False) -> Any:
    """The servers (started when asked), with this process's libraries pointed at them."""
    from infra import services

    home = settings().home
    if start:
        services.up(home, base_environment())
    from flows.servers import services as found

    got = found(home)
    apply(services.environment(got, home) | QUIET)
    return got


@app.command(rich_help_panel=COMPRESS)
def run(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")] = "sentiment",
    smoke: Annotated[bool, typer.Option("--smoke", help="only the 2-layer clone, under a minute")] = False,
    smoke_first: Annotated[bool, typer.Option("--smoke-first", help="the 2-layer clone, then for real")] = False,
    as_json: Json = False,
) -> None:
    """Compress by a recipe, judge, register and promote; goes on where an interrupted run stopped."""
    from flows.recipe import load

    load(recipe)  # refuse a wrong recipe before any server starts
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    got = connected(start=True)
    if smoke or smoke_first:
        walked = execute(recipe, smoke=True)
        screen.console.print(f"smoke: the whole chain ran on a 2-layer clone ({len(walked['stages'])} stages)")
    journal = walked if smoke else execute(recipe, smoke=False)
    if as_json:
        typer.echo(json.dumps(journal, indent=1))
    elif not smoke:
        summary(journal, got)
    raise typer.Exit(0 if journal["status"] == "passed" else 3)


def execute(recipe: str, smoke: bool) -> dict[str, Any]:
    """Run the flow with its progress on the screen."""
    from flows.compress import start

    watcher = screen.watch()
    try:
        return start(recipe, smoke)
    finally:
        watcher.close()


def summary(journal: dict[str, Any], services: Any) -> None:
    """The end of a run: one sentence, the table, the verdict, the links and what to type next."""
    evaluation = journal["evaluation"]
    facts = json.loads(Path(settings().home, "runs", journal["run_id"], "evidence", "show.json").read_text())
    screen.console.print(screen.comparison(evaluation))
    screen.console.print("\n".join(screen.verdict_lines(journal["verdict"])))
    screen.console.print(f"\n{screen.sentence(facts)}\n")
    screen.console.print(f"MLflow  {services.mlflow_uri}   Prefect  {services.prefect_api.removesuffix('/api')}")
    name = journal["recipe"]
    screen.console.print(
        f'next:   shrink predict {name}@champion "a touching, funny film"  ·  shrink why {name}  ·  shrink down'
    )


@app.command(rich_help_panel=COMPRESS)
def resume(run_id: Annotated[str | None, typer.Argument(help="run to go on with (default: newest)")] = None) -> None:
    """Go on with an interrupted run; finished stages are re-used, verified."""
    from flows.journal import find

    name = str(find(settings().home, run_id)["recipe"])
    run(name.removesuffix("-smoke"), smoke=name.endswith("-smoke"))


@app.command(rich_help_panel=COMPRESS)
def stages(as_json: Json = False) -> None:
    """The stage kinds that a recipe may name, with their methods."""
    from tasks.kinds import methods

    found = methods()
    say(found, as_json, "\n".join(f"{kind:10} {', '.join(names)}" for kind, names in found.items()))


@app.command(rich_help_panel=COMPRESS)
def runs(as_json: Json = False) -> None:
    """All runs, oldest first, with what became of them."""
    from flows.journal import read_all

    found = read_all(settings().home)
    lines = [f"{run['run_id']:44} {run['status']:10} version {run['version'] or '–'}" for run in found]
    say(found, as_json, "\n".join(lines) or "no runs yet; `shrink run sentiment` makes one")


@app.command(rich_help_panel=COMPRESS)
def logs(run_id: Annotated[str | None, typer.Argument(help="run (default: newest)")] = None) -> None:
    """What the stages of a run printed."""
    from flows.journal import find

    directory = settings().home / "runs" / str(find(settings().home, run_id)["run_id"])
    for path in sorted(directory.glob("*/log.txt")):
        typer.echo(f"== {path.parent.name}\n{path.read_text(errors='replace').rstrip()}")


@app.command(rich_help_panel=REGISTRY)
def show(
    model: Annotated[str, typer.Argument(help="MODEL@ALIAS, such as sentiment@champion")], as_json: Json = False
) -> None:
    """A registered version: verdict, retention, bytes, latency, footprint, stages."""
    connected()
    from flows.outcome import describe

    facts = describe(model)
    lines = [f"{model} = version {facts['version']}, digest {facts['digest'][:16]}", screen.sentence(facts)]
    say(facts, as_json, "\n".join(lines + screen.verdict_lines(facts["verdict"])))


@app.command(rich_help_panel=REGISTRY)
def why(model: Annotated[str, typer.Argument(help="recipe name")], as_json: Json = False) -> None:
    """The newest verdict on a model, each check with its numbers."""
    from flows.journal import read_all

    judged = [run for run in read_all(settings().home) if run["recipe"] == model.split("@")[0] and run["verdict"]]
    if not judged:
        raise ShrinkError(f"model '{model}' was never judged here; `shrink run` judges one, `shrink runs` lists runs.")
    say(judged[-1]["verdict"], as_json, "\n".join(screen.verdict_lines(judged[-1]["verdict"])))


@app.command(rich_help_panel=REGISTRY)
def predict(model: str, texts: Annotated[list[str], typer.Argument(help="sentences")], as_json: Json = False) -> None:
    """Predict with a registered version, fetched and verified."""
    connected()
    from flows.outcome import predictions

    found = predictions(model, texts, settings().home)
    say(found, as_json, "\n".join(f"{one['label']:10} {one['score']:.3f}  {one['text']}" for one in found))


@app.command(rich_help_panel=OPERATE)
def deploy(
    model: Annotated[str, typer.Argument(help="MODEL or MODEL@ALIAS")],
    port: Annotated[int, typer.Option(help="port on loopback")] = 8080,
) -> None:
    """Serve what an alias names on /predict and /healthz; swap when it moves, back when the new one fails."""
    connected()
    from flows.deploy import serve
    from flows.outcome import split_name

    name, alias = split_name(model)
    serve(name, alias, port=port)


@app.command(rich_help_panel=OPERATE)
def report(
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path(".shrink/report.html"), as_json: Json = False
) -> None:
    """Energy of every stage and run, pay-back in requests, and how well each figure is known."""
    from flows.journal import read_all
    from flows.report import build, render_html

    facts = build(read_all(settings().home), settings().country)
    if not as_json:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render_html(facts))
    say(facts, as_json, f"report written to {out}")


@app.command(rich_help_panel=OPERATE)
def environment() -> None:
    """Print the variables a Prefect worker needs, for: eval "$(shrink environment)" && prefect worker start."""
    from infra import services

    home = settings().home
    for name, value in services.environment(connected(), home).items():
        typer.echo(f"export {name}='{value}'")


@app.command(rich_help_panel=OPERATE)
def up(as_json: Json = False) -> None:
    """Start S3, MLflow and Prefect on loopback."""
    got = connected(start=True)
    facts = {"s3": got.s3_endpoint, "mlflow": got.mlflow_uri, "prefect": got.prefect_api}
    say(facts, as_json, "\n".join(f"{name:8} {address}" for name, address in facts.items()))


@app.command(rich_help_panel=OPERATE)
def down(as_json: Json = False) -> None:
    """Stop the servers; state stays in .shrink and its size is said."""
    from infra import services
    from registry.records import directory_bytes

    home = settings().home
    ended = services.down(home)
    size = directory_bytes(home) / 1e6 if home.exists() else 0.0
    say(
        {"stopped": ended, "megabytes": size},
        as_json,
        f"stopped {', '.join(ended) or 'nothing'}; {home} keeps {size:.0f} MB",
    )


if __name__ == "__main__":
    main()
