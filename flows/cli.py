"""The command `shrink`: every command is a thin door to a flow or to the registry; heavy imports stand inside.

Exit codes: 0 passed, 3 rejected by the gate, 2 user input, 1 failed but resumable.
"""

import json
import logging
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flows import cli_init, cli_operate, cli_promotion, cli_registry, cli_runs, cli_watch, summed
from flows import console as screen
from flows.cli_common import Json, RunId, connected, fail, say, unfinished
from flows.settings import settings
from registry.records import ShrinkError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
COMPRESS, REGISTRY, OPERATE = "Compress", "Registry", "Operate"


def main() -> None:
    """Entry point: what goes wrong is one sentence and an exit code, with --json an object as well."""
    try:
        status = app(standalone_mode=False, prog_name="shrink")  # the code of a typer.Exit comes back as the value
    except ShrinkError as error:
        fail(f"{error}", 2)
    except (KeyboardInterrupt, typer.Abort):
        fail("stopped.", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own usage errors; a bare `shrink` has printed its help already
            path = getattr(getattr(error, "ctx", None), "command_path", None) or "shrink"
            if said := error.format_message().rstrip("."):
                fail(f"{said}; see `{path} --help`.", 2)
            sys.exit(2)
        fail(f"failed: {first_line(error)}; `shrink doctor` looks for the cause.", 1)
    sys.exit(status if isinstance(status, int) else 0)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def print_version(wanted: bool) -> None:
    """The option --version."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"shrink {version('shrinking-frontier')}")
        raise typer.Exit(0)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Make a model many times smaller, prove it is still good enough, hand it over."""


@app.command(rich_help_panel=COMPRESS)
def run(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")] = "sentiment",
    smoke: Annotated[bool, typer.Option("--smoke", help="only the whole chain on a 2-layer clone: a minute")] = False,
    smoke_first: Annotated[bool, typer.Option("--smoke-first", help="first the 2-layer clone, then for real")] = False,
    as_json: Json = False,
) -> None:
    """Compress by a recipe, judge, register and promote; goes on where an interrupted run stopped."""
    if as_json:
        screen.to_stderr()  # standard output is for the JSON alone
    check(recipe)
    for one in (signal.SIGINT, signal.SIGTERM):  # a shell may have made SIGINT ignored
        signal.signal(one, signal.default_int_handler)
    got = connected(start=True)
    if smoke or smoke_first:
        screen.tell("smoke: the whole chain on a 2-layer clone and a few rows; its scores mean nothing")
        journal = execute(recipe, smoke=True)
        screen.tell(f"smoke: the whole chain ran on a 2-layer clone ({len(journal['stages'])} stages)\n")
    if smoke:
        screen.tell(f"registered as {journal['recipe']}, to be looked at; next: shrink run {recipe}")
    if not smoke:
        journal = execute(recipe, smoke=False)
        summed.summary(journal, facts_of(journal), got, settings().country, again=registered_before(journal))
    if as_json:
        typer.echo(json.dumps(journal, indent=1))
    raise typer.Exit(0 if journal["status"] == "passed" else 3)


def registered_before(journal: dict[str, Any]) -> bool:
    """Whether an earlier run made the very version that this one ends with."""
    from flows.journal import read_all

    if journal["version"] is None:
        return False
    same = [run for run in read_all(settings().home) if run["recipe"] == journal["recipe"]]
    return any(run["version"] == journal["version"] for run in same if run["run_id"] < journal["run_id"])


def check(recipe: str) -> None:
    """Refuse a wrong recipe, model or data before any server starts."""
    from flows import plan, registered, sources
    from flows.preflight import preflight
    from flows.recipe import BEHAVIOUR, load
    from infra.services import status
    from registry.footprint import grid_of

    chosen, here = load(recipe), settings()
    grid_of(here.country)  # the report comes last: a wrong country must not wait for it
    if registered.used(chosen):  # whose teacher MLflow knows
        connected(start=True)
    teacher, data = sources.peek(chosen.teacher, here.home), sources.peek(chosen.data_source, here.home)
    others = {name: sources.peek(source, here.home, name == BEHAVIOUR) for name, source in chosen.more.items()}
    preflight(chosen, teacher, data, others)
    plan.refuse(plan.make(chosen, teacher, data, here, others), here)
    if set(status(here.home).values()) != {"healthy"}:
        screen.tell("starting S3, MLflow and Prefect")


def execute(recipe: str, smoke: bool) -> dict[str, Any]:
    """Run the flow with its progress on the screen; what stops it says how to go on, with exit code 1."""
    from flows.compress import start

    logging.raiseExceptions = False  # while Prefect is away its log handler would write so to standard error
    watcher = screen.watch()
    try:
        return start(recipe, smoke)
    except (ShrinkError, typer.Exit):
        raise
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # impatient second one: Prefect's clean-up would print a traceback
        watcher.close()
        fail(f"stopped; {way_on()}.", 1)
    except Exception as error:
        watcher.close()
        fail(f"failed: {first_line(error)}; {way_on()}.", 1)
    finally:
        watcher.close()


def way_on() -> str:
    """What to type after a run has been stopped: there may have been no time to begin it."""
    if not unfinished():
        return "no run was begun, type it again"
    return "`shrink resume` goes on with the finished stages, and with a training at its last checkpoint"


def facts_of(journal: dict[str, Any]) -> dict[str, Any]:
    """What the run's version says of itself."""
    path = settings().home / "runs" / str(journal["run_id"]) / "evidence" / "show.json"
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


@app.command(rich_help_panel=COMPRESS)
def resume(run_id: RunId = None, as_json: Json = False) -> None:
    """Go on with an interrupted run; finished stages are re-used, verified."""
    from flows.journal import UNFINISHED, find, read_all

    home = settings().home
    if run_id is None:
        stopped = [journal for journal in read_all(home) if journal["status"] in UNFINISHED]
        if not stopped:
            raise ShrinkError("no run is interrupted; `shrink runs` lists them, `shrink run` starts one.")
        journal = stopped[-1]
    else:
        journal = find(home, run_id)
        if journal["status"] not in UNFINISHED:
            end = "`shrink cancel` stops it" if journal["status"] == "running" else "there is nothing to go on with"
            raise ShrinkError(f"run '{journal['run_id']}' is {journal['status']}; {end}.")
    run(str(home / "runs" / str(journal["run_id"]) / "recipe.json"), as_json=as_json)


@app.command(rich_help_panel=COMPRESS)
def cancel(run_id: RunId = None, as_json: Json = False) -> None:
    """Stop a run that is going on; its finished stages stay for `shrink resume`."""
    from flows.control import stop

    journal = stop(settings().home, run_id)
    text = f"run {journal['run_id']} is {journal['status']}; `shrink resume {journal['run_id']}` goes on with it"
    say({"run_id": journal["run_id"], "status": journal["status"]}, as_json, text)


PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    COMPRESS: (cli_init.init, cli_runs.plan, cli_runs.stages, cli_runs.runs, cli_runs.logs),
    REGISTRY: (
        cli_registry.show,
        cli_registry.why,
        cli_registry.predict,
        cli_registry.generate,
        cli_registry.chat,
        cli_registry.bundle,
        cli_promotion.promote,
        cli_promotion.rollback,
        cli_promotion.approve,
        cli_promotion.reject,
        cli_promotion.history,
        cli_promotion.reconcile,
    ),
    OPERATE: (
        cli_operate.deploy,
        cli_watch.watch,
        cli_operate.report,
        cli_operate.up,
        cli_operate.down,
        cli_operate.doctor,
        cli_operate.environment,
    ),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)

if __name__ == "__main__":
    main()
