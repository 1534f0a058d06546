"""The command `shrink`: every command is a thin door to a flow or to the registry; heavy imports stand inside.

Exit codes: 0 passed, 3 rejected by the gate, 2 user input, 1 failed or stopped but resumable.
"""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from flows import cli_init, cli_operate, cli_promotion, cli_registry, cli_report, cli_run, cli_runs, cli_watch
from flows.cli_common import fail, first_line
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


PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    COMPRESS: (
        cli_run.run,
        cli_run.resume,
        cli_run.cancel,
        cli_init.init,
        cli_runs.plan,
        cli_runs.stages,
        cli_runs.runs,
        cli_runs.logs,
    ),
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
        cli_report.report,
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
